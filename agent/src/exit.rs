//! How the program ends: exit codes, and the one line that says why.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | it failed while it ran |
//! | 2 | the command line is wrong (as clap has it) |
//! | 77 | a permission is missing (`EX_NOPERM` of sysexits) |
//! | 78 | the configuration is wrong (`EX_CONFIG`); nothing was attached |
//! | 130, 143 | stopped by SIGINT or SIGTERM, after everything was detached |
//! | 159 | killed by SIGSYS at a system call that is not on its list (`rights`) |

use std::fmt;
use std::process::ExitCode;

use crate::output::escape::Escaped;

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// It failed while it ran.
    Runtime(anyhow::Error),
    /// What was asked for contradicts itself.
    Usage(String),
    /// The system does not allow it; the text says what would.
    NoPermission(String),
    /// The configuration is wrong; the text says where.
    Config(String),
    /// A signal asked for the end, and it came in good order.
    Signal(StopSignal),
}

/// A signal that asks the program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// Ctrl-C.
    Interrupt,
    /// What service managers send.
    Terminate,
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Failure::Runtime(_) => 1,
            Failure::Usage(_) => 2,
            Failure::NoPermission(_) => 77,
            Failure::Config(_) => 78,
            Failure::Signal(StopSignal::Interrupt) => 130,
            Failure::Signal(StopSignal::Terminate) => 143,
        }
    }

    /// Writes the line to the standard error and returns the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        if !matches!(self, Failure::Signal(_)) {
            eprintln!("grpcscope: {}", Escaped(&self.to_string()));
        }
        ExitCode::from(self.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Runtime(error) => write!(f, "{error:#}"),
            Failure::Usage(text) | Failure::NoPermission(text) | Failure::Config(text) => f.write_str(text),
            Failure::Signal(StopSignal::Interrupt) => f.write_str("interrupted"),
            Failure::Signal(StopSignal::Terminate) => f.write_str("terminated"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Runtime(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_documentation() {
        let failures = [
            Failure::Runtime(anyhow::anyhow!("x")),
            Failure::Usage("x".into()),
            Failure::NoPermission("x".into()),
            Failure::Config("x".into()),
            Failure::Signal(StopSignal::Interrupt),
            Failure::Signal(StopSignal::Terminate),
        ];
        assert_eq!(failures.map(|failure| failure.code()), [1, 2, 77, 78, 130, 143]);
    }

    #[test]
    fn the_text_of_a_failure_holds_its_causes() {
        let error = anyhow::anyhow!("address in use").context("listen on 127.0.0.1:9464");
        assert_eq!(Failure::from(error).to_string(), "listen on 127.0.0.1:9464: address in use");
    }
}
