//! Colour and a live line on a terminal; plain lines elsewhere.

use std::io::{IsTerminal as _, Write as _};

/// Where the demo is shown.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    colour: bool,
    /// A live line stands where the next line belongs.
    live: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Paint {
    Good,
    Bad,
    Event,
    Faint,
}

impl Screen {
    pub(crate) fn stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        // https://no-color.org: set and not empty.
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { terminal, colour, live: false }
    }

    /// A line that stays.
    pub(crate) fn line(&mut self, text: &str) {
        self.write(&format!("{}{text}\n", self.erase()));
        self.live = false;
    }

    /// A line that the next one replaces. Only a terminal has it.
    pub(crate) fn live(&mut self, text: &str) {
        if self.terminal {
            self.write(&format!("{}{text}", self.erase()));
            self.live = true;
        }
    }

    pub(crate) fn paint(&self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Good => "32",
            Paint::Bad => "1;31",
            Paint::Event => "1;36",
            Paint::Faint => "2",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    const fn erase(&self) -> &'static str {
        if self.live { "\r\x1b[2K" } else { "" }
    }

    fn write(&mut self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        // Whoever closed the pipe has seen enough; the verdict is in the exit code too.
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }
}
