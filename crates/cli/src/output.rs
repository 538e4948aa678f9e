//! Human text or JSON.

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;

/// How to print results and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Human,
    Json,
}

impl Output {
    /// Prints a result on stdout: one line of JSON, or what `human` says.
    pub(crate) fn result<T: Serialize>(
        self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let text = match self {
            Self::Human => human(value),
            Self::Json => serde_json::to_string(value).map_err(io::Error::from)?,
        };
        print(&text)
    }

    /// Prints an error on stderr.
    pub(crate) fn failure(self, failure: &Failure) -> ExitCode {
        let code = failure.exit_code();
        let text = match (self, failure) {
            (Self::Human, Failure::Refused(problem)) => {
                let mut text = format!("error: {failure}\n  see {}", problem.kind);
                if let Some(id) = &problem.request_id {
                    let _ = write!(text, "\n  request {id}");
                }
                text
            }
            (Self::Human, _) => format!("error: {failure}"),
            (Self::Json, _) => {
                let problem = if let Failure::Refused(problem) = failure { Some(problem) } else { None };
                let error = json!({ "exit_code": code, "detail": failure.to_string(), "problem": problem });
                json!({ "error": error }).to_string()
            }
        };
        let _ = writeln!(io::stderr(), "{text}");
        ExitCode::from(code)
    }
}

/// Prints lines on stdout, at once: whoever waits for them may read a pipe.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// `1 problem was`, `2 problems were`.
pub(crate) fn counted<N: Display + PartialEq + From<u8>>(count: N, one: &str, many: &str) -> String {
    let what = if count == N::from(1) { one } else { many };
    format!("{count} {what}")
}

/// Columns as wide as their widest cell.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(head)];
    lines.extend(rows.iter().map(|row| line(row.each_ref().map(String::as_str))));
    lines.join("\n")
}
