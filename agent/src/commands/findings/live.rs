//! `grpcscope findings --live`: watches, and prints each finding when it is made.

use std::collections::BTreeMap;
use std::io::{self, Write};

use agent_core::Observation;
use agent_core::detectors::Finding;
use agent_core::detectors::correlation::Correlated;
use agent_core::observation::CallStarted;
use anyhow::Context;

use super::FindingsArgs;
use super::links::Links;
use crate::capture::kernel::{Counters, KernelCapture};
use crate::commands::live::{self, Printer};
use crate::config::Config;
use crate::exit::Failure;
use crate::findings::{About, Entry, Filter};
use crate::identity::{Identities, Identity};
use crate::output::findings::{self, FindingLines};
use crate::output::json;
use crate::output::terminal::Look;
use crate::pipeline::{self, Listener, Pipeline, Stop, Subject};

/// Shows findings as they are made, until a signal asks for the end or nobody reads any more.
///
/// # Errors
/// A permission is missing, the kernel cannot be watched, or a signal came.
pub(super) fn execute(args: &FindingsArgs, config: &Config) -> Result<(), Failure> {
    let filter = args.filter();
    let capture = pipeline::start_capture(config, false)?;
    let form = if args.json {
        Form::Json
    } else {
        Form::Lines(FindingLines::new(Look::of_stdout(config.log.color)))
    };
    let links = args.links.then(Links::new);
    let stop = Stop::default();
    let (limits, thresholds, asked) = (config.core_limits(), config.findings.thresholds(), stop.clone());
    live::watch_and_print(capture, &stop, move |capture| {
        let mut printer = FindingPrinter::new(form, filter, links, asked, io::stdout());
        printer.write_ready(capture).context("write to the standard output")?;
        let identities = Identities::new("/proc", Identities::CAPACITY);
        Ok(Pipeline::new(limits, identities, printer).with_detectors(thresholds))
    })
}

enum Form {
    Json,
    Lines(FindingLines),
}

/// Prints each finding that is asked for.
struct FindingPrinter<W> {
    out: W,
    form: Form,
    filter: Filter,
    /// For those who want to know what outbound calls belong to.
    links: Option<Links>,
    stop: Stop,
    unix_offset_ns: i64,
    counters: Counters,
    /// By finding and verdict.
    counts: BTreeMap<(String, String), u64>,
    /// The output does not work any more, and why.
    broken: Option<io::Error>,
}

impl<W: Write> FindingPrinter<W> {
    fn new(form: Form, filter: Filter, links: Option<Links>, stop: Stop, out: W) -> Self {
        FindingPrinter {
            out,
            form,
            filter,
            links,
            stop,
            unix_offset_ns: pipeline::unix_offset_ns(),
            counters: Counters::default(),
            counts: BTreeMap::new(),
            broken: None,
        }
    }

    /// Says that findings are made from now on.
    fn write_ready(&mut self, capture: &KernelCapture) -> io::Result<()> {
        match &self.form {
            Form::Json => json::write_line(&mut self.out, &live::ready(capture))?,
            Form::Lines(lines) => lines.write_header(&mut self.out)?,
        }
        self.out.flush()
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        match &self.form {
            Form::Json => {
                findings::write_json(&mut self.out, entry, None)?;
            }
            Form::Lines(lines) => lines.write_entry(&mut self.out, entry)?,
        }
        self.out.flush()
    }

    /// The output does not work any more: the end.
    fn give_up(&mut self, error: io::Error) {
        self.broken = Some(error);
        self.stop.stop();
    }

    fn write_summary(&mut self) -> io::Result<()> {
        match &self.form {
            Form::Json => {
                let mut findings: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
                for ((finding, verdict), count) in &self.counts {
                    findings.entry(finding).or_default().insert(verdict, *count);
                }
                let mut summary = live::summary_of(&self.counters);
                summary.insert("findings".to_owned(), serde_json::to_value(findings).unwrap_or_default());
                if let Some(links) = &self.links {
                    summary.insert("links".to_owned(), links.json());
                }
                json::write_line(&mut self.out, &summary)?;
            }
            Form::Lines(_) => {
                writeln!(self.out)?;
                if self.counts.is_empty() {
                    writeln!(self.out, "nothing found")?;
                }
                for ((finding, verdict), count) in &self.counts {
                    writeln!(self.out, "{count} {finding} {verdict}")?;
                }
                if let Some(links) = &self.links {
                    links.write_counts(&mut self.out)?;
                }
                writeln!(self.out, "{}", live::losses_of(&self.counters))?;
            }
        }
        self.out.flush()
    }
}

impl<W: Write> Printer for FindingPrinter<W> {
    fn handle_counters(&mut self, counters: &Counters) {
        self.counters = counters.clone();
    }

    fn handle_changed(&mut self, changed: &live::Changed<'_>) {
        if let Form::Json = self.form
            && self.broken.is_none()
            && let Err(error) = json::write_line(&mut self.out, changed).and_then(|()| self.out.flush())
        {
            self.give_up(error);
        }
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        let result = match self.broken.take() {
            None => self.write_summary(),
            Some(error) => Err(error),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.context("write to the standard output"),
        }
    }
}

impl<W: Write> Listener for FindingPrinter<W> {
    type Connection = ();

    fn handle_connection(&mut self, _subject: &Subject) {}

    fn handle_observation(&mut self, _subject: &Subject, (): &mut (), observation: Observation) {
        if let (Some(links), Observation::CallStarted(call)) = (&mut self.links, &observation) {
            links.handle_call(call);
        }
    }

    fn handle_correlated(
        &mut self,
        subject: &Subject,
        (): &mut (),
        call: &CallStarted,
        correlated: &Correlated,
    ) {
        let Identity { service_name, pid, .. } = &*subject.process;
        let is_asked_for = self.filter.service_name.as_ref().is_none_or(|wanted| wanted == service_name);
        let Some(links) = self.links.as_mut().filter(|_| is_asked_for && self.broken.is_none()) else {
            return;
        };
        let link = links.link(service_name, *pid, call, correlated, self.unix_offset_ns);
        let written = match &self.form {
            Form::Json => link.write_json(&mut self.out),
            Form::Lines(_) => link.write_line(&mut self.out),
        };
        if let Err(error) = written.and_then(|()| self.out.flush()) {
            self.give_up(error);
        }
    }

    fn handle_finding(&mut self, subject: Option<&Subject>, finding: Finding) {
        let entry = Entry::of(&finding, &About::of(subject, &finding), self.unix_offset_ns);
        if self.broken.is_some() || !self.filter.accepts(&entry) {
            return;
        }
        *self.counts.entry((entry.finding.clone(), entry.verdict.clone())).or_default() += 1;
        if let Err(error) = self.write(&entry) {
            self.give_up(error);
        }
    }
}
