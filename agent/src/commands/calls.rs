//! `grpcscope calls`: a line for each call of this node, as it ends, for people at a shell.

use std::io::{self, Write};

use crate::cli::CaptureArgs;
use crate::config::Config;
use crate::exit::Failure;
use crate::output::call::{CallFilter, CallLine, MethodPattern};
use crate::output::json;
use crate::output::table::Table;
use crate::output::terminal::Look;

/// Arguments of `calls`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CallsArgs {
    /// Only methods with this in their name, or that fit a pattern with * and ?
    #[arg(long, value_name = "PATTERN")]
    pub method: Option<MethodPattern>,

    /// Only calls of this process
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,

    /// Only calls that did not end well
    #[arg(long)]
    pub errors: bool,

    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,

    /// How the kernel is watched.
    #[command(flatten)]
    pub capture: CaptureArgs,
}

/// Shows calls as they end.
///
/// # Errors
/// Watching is not part of this build.
pub fn execute(_args: &CallsArgs, _config: &Config) -> Result<(), Failure> {
    Err(Failure::Runtime(anyhow::anyhow!("`calls` is not part of this build; `replay` is")))
}

/// Prints the calls that the arguments ask for, each at once.
pub struct CallPrinter<W> {
    out: W,
    filter: CallFilter,
    form: Form,
}

enum Form {
    Json,
    Table(Table),
}

impl<W: Write> CallPrinter<W> {
    /// A printer to `out`, which looks as `look` says.
    #[must_use]
    pub fn new(args: &CallsArgs, look: Look, out: W) -> Self {
        let filter = CallFilter { method: args.method.clone(), pid: args.pid, errors: args.errors };
        let form = if args.json { Form::Json } else { Form::Table(Table::new(look)) };
        CallPrinter { out, filter, form }
    }

    /// Prints the names of the columns, where there are columns.
    ///
    /// # Errors
    /// Those of the output; `BrokenPipe` means that nobody reads any more.
    pub fn write_header(&mut self) -> io::Result<()> {
        match &self.form {
            Form::Json => Ok(()),
            Form::Table(table) => table.write_header(&mut self.out).and_then(|()| self.out.flush()),
        }
    }

    /// Prints the call, if it is asked for.
    ///
    /// # Errors
    /// As [`CallPrinter::write_header`].
    pub fn write_call(&mut self, line: &CallLine) -> io::Result<()> {
        if !self.filter.accepts(line) {
            return Ok(());
        }
        match &self.form {
            Form::Json => json::write_call(&mut self.out, line)?,
            Form::Table(table) => table.write_call(&mut self.out, line)?,
        }
        self.out.flush()
    }
}
