//! `grpcscope calls`: a line for each call of this node, as it ends, for people at a shell.

use std::io::{self, Write};

use agent_core::Observation;
use agent_core::observation::{ConnectionSummary, Side};
use anyhow::Context;

use super::live::{self, Printer};
use crate::capture::kernel::{Counters, KernelCapture};
use crate::cli::CaptureArgs;
use crate::config::Config;
use crate::exit::Failure;
use crate::identity::Identities;
use crate::output::call::{CallFilter, CallLine, MethodPattern, ProcessLabel};
use crate::output::json::{self, ConnectionLine};
use crate::output::table::Table;
use crate::output::terminal::Look;
use crate::pipeline::{self, Listener, Pipeline, Stop, Subject};

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

/// Shows calls as they end, until a signal asks for the end or nobody reads any more.
///
/// # Errors
/// A permission is missing, the kernel cannot be watched, or a signal came.
pub fn execute(args: &CallsArgs, config: &Config) -> Result<(), Failure> {
    let capture = pipeline::start_capture(config, false)?;
    let look = Look::of_stdout(config.log.color);
    let mut printer = CallPrinter::new(args, look, io::stdout());
    let stop = Stop::default();
    let (limits, asked) = (config.core_limits(), stop.clone());
    live::watch_and_print(capture, &stop, move |capture| {
        printer.write_ready(capture).context("write to the standard output")?;
        let identities = Identities::new("/proc", Identities::CAPACITY);
        Ok(Pipeline::new(limits, identities, CallLines::new(printer, asked)))
    })
}

/// Turns ended calls into lines.
struct CallLines<W> {
    printer: CallPrinter<W>,
    stop: Stop,
    unix_offset_ns: i64,
    counters: Counters,
    calls: u64,
    /// The output does not work any more, and why.
    broken: Option<io::Error>,
}

impl<W: Write> CallLines<W> {
    fn new(printer: CallPrinter<W>, stop: Stop) -> Self {
        let unix_offset_ns = pipeline::unix_offset_ns();
        CallLines { printer, stop, unix_offset_ns, counters: Counters::default(), calls: 0, broken: None }
    }

    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && self.broken.is_none()
        {
            self.broken = Some(error);
            self.stop.stop();
        }
    }
}

impl<W: Write> Printer for CallLines<W> {
    fn handle_counters(&mut self, counters: &Counters) {
        self.counters = counters.clone();
    }

    fn handle_changed(&mut self, changed: &live::Changed<'_>) {
        let result = self.printer.write_changed(changed);
        self.note(result);
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        let result = match self.broken.take() {
            None => self.printer.write_summary(self.calls, &self.counters),
            Some(error) => Err(error),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.context("write to the standard output"),
        }
    }
}

impl<W: Write> Listener for CallLines<W> {
    type Connection = ();

    fn handle_connection(&mut self, _subject: &Subject) {}

    fn handle_observation(&mut self, subject: &Subject, (): &mut (), observation: Observation) {
        let (client, server) = match &observation {
            Observation::CallEnded(call) => subject.client_and_server(call.client_flow),
            Observation::ConnectionEnded(summary) => subject.client_and_server(summary.client_flow),
            _ => return,
        }
        .map(|(client, server)| (client.to_string(), server.to_string()))
        .unzip();
        let process =
            ProcessLabel { pid: subject.process.pid, service: subject.process.service_name.clone() };
        if self.broken.is_some() {
            return;
        }
        match observation {
            Observation::CallEnded(call) => {
                self.calls += 1;
                let line = CallLine {
                    connection: subject.connection.0,
                    side: call.client_flow.map(Side::of),
                    client,
                    server,
                    process: Some(process),
                    unix_offset_ns: self.unix_offset_ns,
                    file: None,
                    call: *call,
                };
                let result = self.printer.write_call(&line);
                self.note(result);
            }
            Observation::ConnectionEnded(summary) if summary.http2 => {
                let line = ConnectionLine {
                    connection: subject.connection.0,
                    client,
                    server,
                    holes: summary.flows.iter().map(|flow| flow.desyncs).sum(),
                    unix_offset_ns: self.unix_offset_ns,
                    file: None,
                };
                let result = self.printer.write_connection(&line, &summary);
                self.note(result);
            }
            _ => {}
        }
    }
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

    /// Says that calls are seen from now on: the names of the columns, or a line of JSON.
    ///
    /// # Errors
    /// Those of the output; `BrokenPipe` means that nobody reads any more.
    pub fn write_ready(&mut self, capture: &KernelCapture) -> io::Result<()> {
        match &self.form {
            Form::Json => json::write_line(&mut self.out, &live::ready(capture))?,
            Form::Table(table) => table.write_header(&mut self.out)?,
        }
        self.out.flush()
    }

    /// Says in JSON that the way of capture was changed; people read it in the log.
    ///
    /// # Errors
    /// As [`CallPrinter::write_ready`].
    fn write_changed(&mut self, changed: &live::Changed<'_>) -> io::Result<()> {
        if let Form::Json = self.form {
            json::write_line(&mut self.out, changed)?;
        }
        self.out.flush()
    }

    /// Prints a connection at its end, in JSON.
    ///
    /// # Errors
    /// As [`CallPrinter::write_ready`].
    pub fn write_connection(&mut self, line: &ConnectionLine, summary: &ConnectionSummary) -> io::Result<()> {
        if let Form::Json = self.form {
            json::write_connection(&mut self.out, line, summary)?;
        }
        Ok(())
    }

    /// Prints what was counted until the end.
    ///
    /// # Errors
    /// As [`CallPrinter::write_ready`].
    pub fn write_summary(&mut self, calls: u64, counters: &Counters) -> io::Result<()> {
        match &self.form {
            Form::Json => {
                let mut summary = live::summary_of(counters);
                summary.insert("calls".to_owned(), calls.into());
                json::write_line(&mut self.out, &summary)?;
            }
            Form::Table(_) => writeln!(self.out, "\n{calls} calls; {}", live::losses_of(counters))?,
        }
        self.out.flush()
    }

    /// Prints the call, if it is asked for.
    ///
    /// # Errors
    /// As [`CallPrinter::write_ready`].
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent_core::observation::{
        Call, CallType, EndedBy, Messages, Outcome, Side, StatusSource, Timeout, Traces,
    };
    use agent_core::{ConnectionId, Flow, Timestamp};

    use super::*;
    use crate::output::call::ProcessLabel;

    fn line(method: &str, pid: u32, outcome: Outcome) -> CallLine {
        let messages = Messages { count: 1, bytes: 5, exact: true };
        let call = Call {
            connection: ConnectionId(7),
            stream: 1,
            client_flow: Some(Flow::Sent),
            method: Some(Arc::from(method)),
            call_type: CallType::Unary,
            timeout: Timeout::Ns(1_000),
            started: Some(Timestamp(5_000)),
            first_seen: Timestamp(5_000),
            first_response: None,
            ended: Some(Timestamp(6_500)),
            outcome,
            status: Some(0),
            status_source: StatusSource::Trailer,
            ended_by: Some(EndedBy::Server),
            rst_code: None,
            http_status: Some(200),
            request: messages,
            response: messages,
            previous_attempts: None,
            method_ref: None,
            retry_pushback: None,
            traces: Traces::default(),
            thread: 0,
        };
        CallLine {
            connection: 7,
            side: Some(Side::Client),
            client: Some("127.0.0.1:1".into()),
            server: None,
            process: Some(ProcessLabel { pid, service: "shop".into() }),
            unix_offset_ns: 1_000_000,
            file: None,
            call,
        }
    }

    fn printed(args: &CallsArgs) -> String {
        let mut printer = CallPrinter::new(args, Look { color: false, width: None }, Vec::new());
        for (method, pid, outcome) in [
            ("/shop.Cart/Get", 1, Outcome::Ok),
            ("/shop.Cart/Put", 1, Outcome::Deadline),
            ("/bank.Pay/Pay", 2, Outcome::Refused),
            ("/bank.Pay/Pay", 2, Outcome::Unknown),
        ] {
            printer.write_call(&line(method, pid, outcome)).expect("a vector takes everything");
        }
        String::from_utf8(printer.out).expect("lines are UTF-8")
    }

    fn outcomes(args: &CallsArgs) -> Vec<String> {
        let args = CallsArgs { json: true, ..args.clone() };
        let of = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            format!(
                "{} {}",
                value["method"].as_str().unwrap_or("-"),
                value["outcome"].as_str().unwrap_or("-")
            )
        };
        printed(&args).lines().map(of).collect()
    }

    #[test]
    fn only_the_calls_that_were_asked_for_are_printed() {
        let method = |text: &str| Some(text.parse().expect("every text is a pattern"));
        let all = CallsArgs::default();
        assert_eq!(outcomes(&all).len(), 4);
        let carts = CallsArgs { method: method("shop.*"), ..all.clone() };
        assert_eq!(outcomes(&carts), ["/shop.Cart/Get ok", "/shop.Cart/Put deadline"]);
        let errors = CallsArgs { errors: true, ..all.clone() };
        assert_eq!(outcomes(&errors), ["/shop.Cart/Put deadline", "/bank.Pay/Pay error"]);
        let process = CallsArgs { pid: Some(2), errors: true, ..all };
        assert_eq!(outcomes(&process), ["/bank.Pay/Pay error"]);
    }

    #[test]
    fn people_get_a_line_and_machines_get_the_process_too() {
        let text = printed(&CallsArgs::default());
        assert!(
            text.lines().count() == 4 && text.lines().all(|line| line.starts_with("00:00:00.001  ")),
            "{text}"
        );
        let json = printed(&CallsArgs { json: true, ..CallsArgs::default() });
        let first: serde_json::Value =
            serde_json::from_str(json.lines().next().expect("a line")).expect("a line of JSON");
        for (key, expected) in [
            ("side", "client".into()),
            ("pid", 1.into()),
            ("service", "shop".into()),
            ("start_ns", 1_005_000.into()),
            ("duration_ns", 1_500.into()),
            ("deadline_left_ns", serde_json::Value::from(-500)),
            ("server", serde_json::Value::Null),
        ] {
            assert_eq!(first[key], expected, "{key}");
        }
    }
}
