//! How the program is started.

use std::process::{Command, Stdio};

/// What a run of the program left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program with no settings but those of `arguments`.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grpcscope"));
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GRPCSCOPE_"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG").env("GRPCSCOPE_CONFIG", "/dev/null").args(arguments);
    command
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Ran {
    let output = command(arguments).stdin(Stdio::null()).output().expect("the program starts");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("the output is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("the errors are UTF-8"),
    }
}
