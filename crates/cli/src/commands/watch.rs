//! Shows something again and again while it goes on.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::http::Api;
use crate::output::Output;

/// However short a time the caller asks for.
const AT_LEAST: Duration = Duration::from_millis(200);

/// A line of JSON each time, or on a terminal a picture that is drawn over, until it `is_over`.
pub(super) async fn watch<T: Serialize + DeserializeOwned>(
    path: &str,
    every: Duration,
    api: &Api<'_>,
    output: Output,
    draw: impl Fn(&T) -> String,
    is_over: impl Fn(&T) -> bool,
) -> Result<(), Failure> {
    let mut drawn = 0;
    loop {
        let progress: T = api.get(path).await?;
        if output == Output::Human && drawn > 0 && io::stdout().is_terminal() {
            // Up to its first line, and clear what is below.
            print!("\x1b[{drawn}A\x1b[J");
        }
        output.result(&progress, |progress| {
            let picture = draw(progress);
            drawn = picture.lines().count();
            picture
        })?;
        if is_over(&progress) {
            return Ok(());
        }
        tokio::time::sleep(every.max(AT_LEAST)).await;
    }
}
