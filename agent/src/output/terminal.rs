//! Whether the output is a terminal, how wide it is, and whether it is to be coloured.

use std::io::{IsTerminal, stdout};

use serde::{Deserialize, Serialize};

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How the output is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Colours are welcome.
    pub color: bool,
    /// Columns of the terminal; `None` where lines may be as long as they need.
    pub width: Option<usize>,
}

impl Look {
    /// The look of the standard output.
    #[must_use]
    pub fn of_stdout(choice: ColorChoice) -> Self {
        let terminal = stdout().is_terminal();
        Look { color: choice.resolve(terminal), width: if terminal { Some(columns()) } else { None } }
    }
}

impl ColorChoice {
    /// Whether to colour what goes to a `terminal`, or to something else.
    #[must_use]
    pub fn resolve(self, terminal: bool) -> bool {
        match self {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            // https://no-color.org: set and not empty.
            ColorChoice::Auto => {
                let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
                terminal && !no_color && !dumb
            }
        }
    }
}

/// Columns of the terminal at the standard output, 80 if it does not say.
fn columns() -> usize {
    // SAFETY: `winsize` is four integers, for which zero is a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: TIOCGWINSZ writes one `winsize` to the address that it is given, which is ours.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    if result == 0 && size.ws_col > 0 { usize::from(size.ws_col) } else { 80 }
}
