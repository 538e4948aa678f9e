//! What shells and readers want to know of the command line itself.

use std::io::{self, Write as _};
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Args;
use crate::failure::Failure;

pub(crate) fn completion(shell: Shell) -> Result<(), Failure> {
    let (mut command, mut script) = (Args::command(), Vec::new());
    clap_complete::generate(shell, &mut command, "keywheel", &mut script);
    print(&script)
}

pub(crate) fn man(out: Option<&Path>) -> Result<(), Failure> {
    let Some(dir) = out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Args::command()).render(&mut page)?;
        return print(&page);
    };
    std::fs::create_dir_all(dir)?;
    Ok(clap_mangen::generate_to(Args::command(), dir)?)
}

/// Whoever reads only the beginning has what they wanted.
fn print(text: &[u8]) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
