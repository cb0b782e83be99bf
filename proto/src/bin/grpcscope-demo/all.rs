//! The whole shop: starts the services from the end of the chain to its front, then the shoppers, and stops them the
//! other way round, so that no call loses its connection.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::lifetime;

/// Options of `all`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Seconds of traffic.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Actions a second; one makes about two and a half calls.
    #[arg(long, default_value_t = 40.0)]
    rate: f64,
    /// Stops after so many actions, if that comes first.
    #[arg(long)]
    actions: Option<u64>,
    /// Seed of the mix of actions.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Folder for what each process did, one `SERVICE.jsonl` each; files from an earlier run are replaced.
    #[arg(long)]
    truth: Option<PathBuf>,
    /// Stops early, in order, when standard input is closed.
    #[arg(long)]
    while_stdin: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(folder) = &options.truth {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let truth = options.truth.as_deref();
    let inventory = Part::start("inventory", truth, &[])?;
    let payments = Part::start("payments", truth, &[])?;
    let orders =
        Part::start("orders", truth, &["--inventory", &inventory.uri(), "--payments", &payments.uri()])?;
    let storefront =
        Part::start("storefront", truth, &["--inventory", &inventory.uri(), "--orders", &orders.uri()])?;
    let mut load = Part::spawn(
        "load",
        truth,
        &[
            "--storefront",
            &storefront.uri(),
            "--orders",
            &orders.uri(),
            "--inventory",
            &inventory.uri(),
            "--rate",
            &options.rate.to_string(),
            "--seconds",
            &options.seconds.to_string(),
            "--seed",
            &options.seed.to_string(),
            "--actions",
            &options.actions.unwrap_or(u64::MAX).to_string(),
        ],
    )?;
    load.announce()?;
    stop_when_asked(load.child.stdin.take(), options.while_stdin);
    load.wait()?;
    for part in [storefront, orders, payments, inventory] {
        part.stop()?;
    }
    Ok(())
}

/// One process of the shop. Dropped, its standard input closes and it ends.
struct Part {
    name: &'static str,
    child: Child,
    address: String,
}

impl Part {
    /// Starts a service and waits until it listens.
    fn start(name: &'static str, truth: Option<&Path>, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut part = Part::spawn(name, truth, arguments)?;
        let stdout = part.child.stdout.take().context("standard output is a pipe, as asked above")?;
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // An end without a line, or a receiver that gave up, is the error below.
            if BufReader::new(stdout).read_line(&mut line).is_ok() {
                let _ = sender.send(line);
            }
        });
        let line =
            ready.recv_timeout(Duration::from_secs(10)).with_context(|| format!("{name} does not start"))?;
        let ready: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("{name} did not say where it listens"))?;
        part.address = ready["address"].as_str().context("a service says its address")?.to_owned();
        part.announce()?;
        Ok(part)
    }

    fn spawn(name: &'static str, truth: Option<&Path>, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.arg(name).args(arguments).arg("--while-stdin");
        if let Some(folder) = truth {
            let file = folder.join(format!("{name}.jsonl"));
            std::fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
            command.arg("--truth").arg(file);
        }
        // The five are one executable; this is how an observer tells them apart.
        command.env("OTEL_SERVICE_NAME", name);
        // A group of its own, so that a Ctrl-C at a terminal reaches `all` alone, which stops the parts in order.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Part { name, child, address: String::new() })
    }

    fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Says, as a line of JSON, that this part runs.
    fn announce(&self) -> anyhow::Result<()> {
        let line = serde_json::json!({"started": self.name, "pid": self.child.id(), "address": self.address});
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("cannot write to standard output")
    }

    fn stop(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        self.wait()
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let status = self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        if !status.success() {
            bail!("{} ended with {status}", self.name);
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Already waited for on the good way; on the way of an error there is nothing more to say.
        let _ = self.child.wait();
    }
}

/// Closes the load's input when this process is asked to end: the rest of the order follows from the load's end.
fn stop_when_asked(load: Option<ChildStdin>, while_stdin: bool) {
    std::thread::spawn(move || {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(lifetime::is_over(while_stdin)),
            Err(error) => eprintln!("cannot wait for signals: {error}; stopping now"),
        }
        drop(load);
    });
}
