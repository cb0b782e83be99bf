//! A process that the demo, or a scenario, started, and its end.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A running process; killed if it is dropped while it runs.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it, with its standard error in `log`.
    pub(crate) fn start(name: impl Into<String>, command: &mut Command, log: PathBuf) -> Result<Self> {
        let name = name.into();
        let errors = File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let child = command.stderr(errors).spawn().with_context(|| format!("start {name}"))?;
        Ok(Running { name, child, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Closes its standard input, on which it ends if it was started by [`while_we_live`].
    pub(crate) fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Ends it without a word: its kernel closes what it had open.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("kill {}", self.name))?;
        Ok(())
    }

    /// Hands every line of its standard output to `on_line`, in a thread, and tells `on_line` of the end by `None`.
    pub(crate) fn read_lines(
        &mut self,
        mut on_line: impl FnMut(Option<String>) + Send + 'static,
    ) -> Result<()> {
        let stdout = self.child.stdout.take().context("standard output was not asked for")?;
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| on_line(Some(line)));
            on_line(None);
        });
        Ok(())
    }

    /// Fails if it has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("look after {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{} ended early with {status}{}", self.name, self.last_words()),
        }
    }

    /// True when it has ended; fails if it ended badly.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        match self.child.try_wait().with_context(|| format!("look after {}", self.name))? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => bail!("{} ended with {status}{}", self.name, self.last_words()),
        }
    }

    /// Asks it to end, as an administrator would, and waits for that.
    pub(crate) fn terminate(mut self) -> Result<()> {
        self.signal("TERM")?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().with_context(|| format!("stop {}", self.name))?.is_none() {
            if Instant::now() > deadline {
                bail!("{} does not end on SIGTERM{}", self.name, self.last_words());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Sends it a signal, by its name without `SIG`.
    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        // The shell's own kill: a small machine may lack the program.
        let asked = Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.child.id())]).status();
        let context = || format!("send SIG{signal} to {}", self.name);
        if !asked.with_context(context)?.success() {
            bail!("cannot {}", context());
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let mut text = Vec::new();
        // Without a log there is just less to say.
        let _ = File::open(&self.log).and_then(|mut log| log.read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n  ");
        if last.is_empty() { String::new() } else { format!(", it says:\n  {last}") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Only on the way of an error, which is what will be told.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A pipe for standard input that ends a child of the demo when this process is gone, however that happens.
pub(crate) fn while_we_live(command: &mut Command) -> &mut Command {
    command.arg("--while-stdin").stdin(Stdio::piped()).stdout(Stdio::piped())
}
