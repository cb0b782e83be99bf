//! One virtual machine from power-on to the end: what its program printed, and how long it took.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::initramfs::{self, MARK};
use super::{Arch, Job, busybox_path};

/// Boots take 3 s on an idle machine; a loaded one gets this much.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// What to boot.
pub(super) struct Machine<'a> {
    pub(super) arch: Arch,
    pub(super) vmlinuz: PathBuf,
    /// The kernel's command line.
    pub(super) parameters: String,
    /// The model for `-cpu`.
    pub(super) cpu: &'static str,
    /// The program, and what lies beside it.
    pub(super) files: &'a [PathBuf],
    /// For each job.
    pub(super) run_timeout: Duration,
}

/// What came out of a machine.
pub(super) struct Session {
    /// From the start of qemu to the start of init's first job; `None` if it never came so far.
    pub(super) boot: Option<Duration>,
    /// By job; shorter than the jobs if the machine ended early.
    pub(super) jobs: Vec<JobOutput>,
    /// What the job said that did not come to its end.
    pub(super) rest: Vec<String>,
    /// The end of the kernel's console.
    pub(super) console_tail: Vec<String>,
    pub(super) timed_out: bool,
}

impl Session {
    /// The kernel ended by itself before init ran: nothing of ours can be the cause.
    pub(super) fn died_in_boot(&self) -> bool {
        self.boot.is_none() && !self.timed_out
    }
}

/// What one job said.
pub(super) struct JobOutput {
    pub(super) exit_code: i32,
    pub(super) lines: Vec<String>,
    pub(super) took: Duration,
}

impl Machine<'_> {
    /// Boots, runs the jobs one after another, and returns when the machine is off.
    pub(super) fn boot(&self, jobs: &[Job], work: &Path) -> Result<Session> {
        let initrd = work.join("initramfs.cpio");
        let busybox = busybox_path(self.arch);
        let archive = initramfs::build(self.arch, &busybox, self.files, jobs, self.run_timeout.as_secs())?;
        fs::write(&initrd, archive).with_context(|| format!("write {}", initrd.display()))?;
        let results = work.join("results.log");
        let mut serial = vec![results.clone()];
        if self.arch.has_result_port() {
            serial.insert(0, work.join("console.log"));
        }
        fs::write(&results, "").with_context(|| format!("write {}", results.display()))?;

        let mut qemu = Qemu(
            Command::new(self.arch.qemu())
                .args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"])
                .args(self.arch.machine())
                .args(["-accel", "tcg,thread=multi", "-cpu", self.cpu, "-smp", "2", "-m", "1024"])
                .arg("-kernel")
                .arg(&self.vmlinuz)
                .arg("-initrd")
                .arg(&initrd)
                .args(["-append", &self.parameters])
                .args(
                    serial.iter().flat_map(|path| ["-serial".to_owned(), format!("file:{}", path.display())]),
                )
                .stdin(Stdio::null())
                .spawn()
                .with_context(|| format!("start {}", self.arch.qemu()))?,
        );
        let watched = watch(&mut qemu.0, &results, jobs.len(), self.run_timeout)?;
        Ok(Session {
            boot: watched.boot,
            jobs: watched.jobs,
            rest: watched.rest,
            console_tail: tail(&serial[0], 15),
            timed_out: watched.timed_out,
        })
    }
}

/// Ends the emulator whatever happens to us while it runs.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Default)]
struct Watched {
    boot: Option<Duration>,
    jobs: Vec<JobOutput>,
    rest: Vec<String>,
    timed_out: bool,
}

/// Reads the result port as it grows, until the machine is off or out of time.
fn watch(qemu: &mut Child, results: &Path, jobs: usize, run_timeout: Duration) -> Result<Watched> {
    // Init ends jobs itself; the margin is for a machine that is too sick to.
    let margin = Duration::from_secs(15);
    let deadline = Instant::now() + BOOT_TIMEOUT + (run_timeout + margin) * u32::try_from(jobs).unwrap_or(1);
    let mut watched = Watched::default();
    let mut began = Instant::now();
    let mut read_lines = 0;
    let mut lines = Vec::new();
    loop {
        // Asked before the file is read, so that what qemu wrote last is not missed.
        let is_off = qemu.try_wait().context("ask for the state of qemu")?.is_some();
        let text = String::from_utf8_lossy(&fs::read(results).context("read the results")?).into_owned();
        let complete = if is_off { text.len() } else { text.rfind('\n').map_or(0, |at| at + 1) };
        for line in text[..complete].lines().skip(read_lines) {
            read_lines += 1;
            let line = line.trim_end();
            match line.strip_prefix(MARK).map(|mark| mark.split_whitespace().collect::<Vec<_>>()).as_deref() {
                Some(["booted", ..]) => {
                    watched.boot = Some(began.elapsed());
                    // What the kernel said where it shares the port.
                    lines.clear();
                    began = Instant::now();
                }
                Some(["exit", _, code]) => {
                    let exit_code = code.parse().context("read an exit code")?;
                    let took = began.elapsed();
                    began = Instant::now();
                    watched.jobs.push(JobOutput { exit_code, lines: std::mem::take(&mut lines), took });
                }
                _ if line.is_empty() => {}
                _ => lines.push(line.to_owned()),
            }
        }
        if is_off {
            watched.rest = lines;
            return Ok(watched);
        }
        let never_booted = watched.boot.is_none() && began.elapsed() > BOOT_TIMEOUT;
        if never_booted || Instant::now() > deadline {
            watched.timed_out = true;
            watched.rest = lines;
            return Ok(watched);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn tail(path: &Path, count: usize) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
}
