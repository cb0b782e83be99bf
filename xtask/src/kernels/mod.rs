//! `cargo xtask kernels`: runs the checks of the agent, or another test program, on Debian's kernels.
//!
//! kernel package → vmlinuz → initramfs with the programs → qemu → what the programs said → table and JSON.
//!
//! The checks are programs of `tests`: `walker_check` holds what each way of capture ships against random traffic, byte by
//! byte; `calls_check` runs the agent itself beside tonic applications and compares every call, for every way of capture that
//! the agent knows, or while that is changed (`--check change`, which `--all` leaves out).
//!
//! Emulation only (`-accel tcg`): it works in every container, and `/dev/kvm` may exist and not work.
//! Deliberately without modules, disks and networks: what a run needs lies in the initramfs.

mod arch;
mod initramfs;
mod package;
mod programs;
mod report;
mod vm;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

pub(crate) use arch::Arch;
pub(crate) use package::{Kernel, busybox_path, fetch_busybox};
pub(crate) use report::{Outcome, Run};

use crate::repo;
use crate::setup;

/// The oldest kernel that is supported and the one of Debian's stable release: small enough for every CI run.
pub(crate) const SERIES_OF_CI: [&str; 2] = ["5.10", "6.12"];

/// All that `--all` runs, per architecture, what takes longest first; `newest` is the newest of any Debian release.
const ALL: [(Arch, &[&str]); 2] =
    [(Arch::X86_64, &["5.10", "newest", "6.18", "6.12", "6.1"]), (Arch::Aarch64, &["6.1", "6.12"])];

/// The models that `--models` compares: where none of them exists, the one that the kernel boots with.
const MODELS: [&str; 3] = ["none", "lazy", "full"];

/// Which kernels, and what to run there.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A kernel series, as 5.10 or 6.12, or `newest`; may be given several times. Default: 5.10 and 6.12.
    #[arg(long = "kernel", value_name = "SERIES")]
    series: Vec<String>,
    /// 5.10, 6.1, 6.12, 6.18 and the newest, and 6.1 and 6.12 for aarch64; with `--models`.
    #[arg(long, conflicts_with_all = ["series", "arch", "preempt"])]
    all: bool,
    /// The machine: needs the static programs for it where it is not this one.
    #[arg(long, value_enum, default_value = "x86_64")]
    arch: Arch,
    /// What to run; may be given several times.
    #[arg(long = "check", value_enum, default_values_t = [Check::Walker, Check::Calls])]
    checks: Vec<Check>,
    /// End to end with each preemption model of `none`, `lazy` and `full` that the kernel has, instead of its default.
    #[arg(long, conflicts_with = "preempt")]
    models: bool,
    /// Calls of each end-to-end run, of all clients together.
    #[arg(long, default_value_t = 120)]
    calls: u64,
    /// How the kernel programs attach; may be given several times.
    #[arg(long = "backend", value_enum, default_values_t = [Backend::Fexit, Backend::TpBtf, Backend::Kprobe])]
    backends: Vec<Backend>,
    /// How the walker loops: `auto`, `bpf_loop` or `bounded`.
    #[arg(long = "loop", value_name = "KIND", default_value = "auto")]
    looping: String,
    /// How many random seeds of traffic each run checks; on 5.10 each costs several loads of large programs.
    #[arg(long, default_value_t = 2)]
    seeds: u32,
    /// Change the backend in the middle of conversations: the kernel's best backends, not those of `--backend`.
    #[arg(long, conflicts_with = "backends")]
    change: bool,
    /// Threads that wait in a read meanwhile, so that the kprobe backend misses returns.
    #[arg(long, value_name = "THREADS", default_value_t = 0)]
    blocked: u32,
    /// Conversations at once.
    #[arg(long, default_value_t = 2)]
    parallel: u32,
    /// The preemption model that the kernel boots with, where it can choose (5.12 and newer).
    #[arg(long, value_enum)]
    preempt: Option<Preempt>,
    /// Run this program instead of the walker check, with the arguments after `--`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["backends", "looping", "seeds", "change", "blocked", "parallel", "checks", "calls"])]
    program: Option<PathBuf>,
    /// A file to put beside the program (in `/`); may be given several times.
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Ends a run that takes longer.
    #[arg(long, default_value_t = 1200)]
    timeout_seconds: u64,
    /// Machines that are emulated at once, each with two processors.
    #[arg(long, value_name = "MACHINES", default_value_t = 1)]
    at_once: usize,
    /// Ends with one line of JSON on standard output.
    #[arg(long)]
    json: bool,
    /// Arguments for `--program`.
    #[arg(last = true, requires = "program")]
    arguments: Vec<String>,
}

/// A way in to the kernel's socket calls, by the names that the walker check gives them.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    #[value(name = "fexit")]
    Fexit,
    #[value(name = "tp_btf")]
    TpBtf,
    #[value(name = "kprobe")]
    Kprobe,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Fexit => "fexit",
            Self::TpBtf => "tp_btf",
            Self::Kprobe => "kprobe",
        }
    }

    /// The first kernel (major, minor) that has what the backend hooks.
    ///
    /// fexit and kprobes are older than anything we support on x86_64; the tracepoints `sock_send_length` and
    /// `sock_recv_length` came with 6.3.
    fn first_kernel(self, arch: Arch) -> (u32, u32) {
        match (self, arch) {
            (Self::Fexit, Arch::X86_64) | (Self::Kprobe, _) => (5, 5),
            // arm64 loads such programs since 6.0 and cannot attach them to kernel functions before this.
            (Self::Fexit, Arch::Aarch64) => (6, 4),
            (Self::TpBtf, _) => (6, 3),
        }
    }
}

/// A test program.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    /// The frame walker against random traffic, byte by byte.
    Walker,
    /// The agent beside tonic applications, call by call.
    Calls,
    /// The agent beside them where its way of capture goes blind: it changes to another one.
    Change,
}

/// Values of the kernel's parameter `preempt=`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preempt {
    None,
    Voluntary,
    Lazy,
    Full,
}

/// A kernel that is booted for some jobs.
struct Boot {
    kernel: Kernel,
    files: Vec<PathBuf>,
    jobs: Vec<Job>,
}

/// One start of the program in a booted kernel.
#[derive(Clone)]
struct Job {
    /// Its name in the initramfs.
    program: String,
    backend: Option<Backend>,
    arguments: Vec<String>,
}

/// Runs `cargo xtask kernels`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let runs = run_all(args)?;
    let failed = runs.iter().filter(|run| run.outcome == Outcome::Failed).count();
    report::print_table(&runs);
    if args.json {
        println!("{}", report::json(&runs, failed));
    }
    ensure!(failed == 0, "{failed} of {} runs failed", runs.len());
    Ok(())
}

/// The walker on the kernels of CI, and the whole agent on one where programs load quickly, shorter than by themselves, for
/// `cargo xtask test`.
pub(crate) fn run_for_ci() -> Result<Vec<Run>> {
    #[derive(clap::Parser)]
    struct Defaults {
        #[command(flatten)]
        args: Args,
    }
    let run = |arguments: &[&str]| {
        let defaults: Defaults = clap::Parser::parse_from(["kernels"].iter().chain(arguments));
        run_all(&defaults.args)
    };
    let mut runs = run(&["--check", "walker", "--seeds", "1"])?;
    runs.extend(run(&["--check", "calls", "--kernel", "6.12", "--calls", "60"])?);
    report::print_table(&runs);
    Ok(runs)
}

fn run_all(args: &Args) -> Result<Vec<Run>> {
    if !cfg!(target_arch = "x86_64") {
        bail!(
            "the programs are built on x86_64 for the kernels that are booted: this needs an x86_64 machine"
        );
    }
    let machines: Vec<(Arch, Vec<&str>)> = match args.series.as_slice() {
        [] if args.all => ALL.iter().map(|(arch, series)| (*arch, series.to_vec())).collect(),
        [] => vec![(args.arch, SERIES_OF_CI.to_vec())],
        chosen => vec![(args.arch, chosen.iter().map(String::as_str).collect())],
    };
    let mut boots = Vec::new();
    for (arch, series) in machines {
        setup::set_up_machine(arch)?;
        let mut files = match &args.program {
            Some(path) => vec![path.clone()],
            None => programs::build(arch, &args.checks)?,
        };
        files.extend(args.files.iter().cloned());
        for series in series {
            let kernel = Kernel::of(arch, series);
            if kernel.release().is_none() {
                kernel.fetch()?;
            }
            // A machine for each check: what one does to its kernel is nothing to the next, and they can run beside each other.
            let jobs = jobs(args, &guest_name(&files[0])?);
            for jobs in jobs.chunk_by(|one, next| one.program == next.program) {
                boots.push(Boot {
                    kernel: Kernel::of(arch, series),
                    files: files.clone(),
                    jobs: jobs.to_vec(),
                });
            }
        }
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let number = next.fetch_add(1, Ordering::Relaxed)
            && let Some(boot) = boots.get(number)
        {
            done.push((number, run_on(args, &boot.kernel, &boot.files, &boot.jobs)?));
        }
        anyhow::Ok(done)
    };
    let mut done = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.at_once.max(1)).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            done.extend(worker.join().map_err(|_| anyhow::anyhow!("a machine's thread panicked"))??);
        }
        anyhow::Ok(())
    })?;
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().flat_map(|(_, runs)| runs).collect())
}

/// All jobs on one kernel.
fn run_on(args: &Args, kernel: &Kernel, files: &[PathBuf], jobs: &[Job]) -> Result<Vec<Run>> {
    let release =
        kernel.release().with_context(|| format!("read the release of kernel {}", kernel.series))?;
    eprintln!("kernel {release}: {} programs", jobs.len());
    let machine = vm::Machine {
        arch: kernel.arch,
        vmlinuz: kernel.vmlinuz(),
        parameters: parameters(kernel.arch, args.preempt),
        cpu: kernel.arch.cpu(version(&release)),
        files,
        run_timeout: Duration::from_secs(args.timeout_seconds),
    };
    // A folder for each boot: what is kept of one that failed must not go with the next one that does not.
    let programs = jobs.first().map_or("", |job| job.program.as_str());
    let name = format!("{}-{}-{programs}-{}", kernel.arch.name(), kernel.series, std::process::id());
    let work = repo::cache().join("vm").join(name);
    fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    let mut session = machine.boot(jobs, &work)?;
    if session.died_in_boot() {
        // Seen once on 6.12: under emulation with several threads a kernel may trip over its own code that it patches.
        eprintln!(
            "kernel {release}: died before the first program of ours, booted once more; its console ended:"
        );
        session.console_tail.iter().for_each(|line| eprintln!("  {line}"));
        session = machine.boot(jobs, &work)?;
    }
    let runs = report::judge(kernel.arch, &release, version(&release), jobs, &session);
    if runs.iter().all(|run| run.outcome != Outcome::Failed) {
        fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    } else {
        eprintln!("kernel {release}: console and output are kept in {}", work.display());
    }
    Ok(runs)
}

fn jobs(args: &Args, program: &str) -> Vec<Job> {
    if args.program.is_some() {
        let arguments = args.arguments.clone();
        return vec![Job { program: program.to_owned(), backend: None, arguments }];
    }
    let mut jobs = Vec::new();
    if args.checks.contains(&Check::Walker) {
        if args.change {
            jobs.push(walker_job(args, None));
        } else {
            jobs.extend(args.backends.iter().map(|backend| walker_job(args, Some(*backend))));
        }
    }
    if args.checks.contains(&Check::Calls) && !args.change {
        let mut arguments = vec!["--calls".to_owned(), args.calls.to_string()];
        if args.all || args.models {
            arguments.extend(MODELS.iter().flat_map(|model| ["--preempt".to_owned(), (*model).to_owned()]));
        }
        // Its ways of capture are those that the agent knows.
        jobs.push(Job { program: programs::CALLS.to_owned(), backend: None, arguments });
    }
    if args.checks.contains(&Check::Change) {
        let arguments = vec!["--change".to_owned()];
        jobs.push(Job { program: programs::CALLS.to_owned(), backend: None, arguments });
    }
    jobs
}

fn walker_job(args: &Args, backend: Option<Backend>) -> Job {
    let mut arguments = vec!["--json".to_owned()];
    for (name, value) in [
        ("--backend", backend.map_or("auto", Backend::name)),
        ("--loop", &args.looping),
        ("--seeds", &args.seeds.to_string()),
        ("--blocked", &args.blocked.to_string()),
        ("--parallel", &args.parallel.to_string()),
    ] {
        arguments.extend([name.to_owned(), value.to_owned()]);
    }
    if args.change {
        arguments.push("--change".to_owned());
    }
    Job { program: programs::WALKER.to_owned(), backend, arguments }
}

fn parameters(arch: Arch, preempt: Option<Preempt>) -> String {
    // `panic=-1` with -no-reboot ends qemu at once.
    let mut parameters = format!("{} panic=-1 rdinit=/init", arch.machine_parameters());
    if let Some(model) = preempt.and_then(|preempt| preempt.to_possible_value()) {
        parameters += &format!(" preempt={}", model.get_name());
    }
    parameters
}

/// Major and minor version of a release such as `6.12.107+deb13-cloud-amd64`.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = package::numbers(release).into_iter();
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// A file's name as it is called in the initramfs.
fn guest_name(path: &Path) -> Result<String> {
    let name = path.file_name().with_context(|| format!("find the file name in {}", path.display()))?;
    Ok(name.to_string_lossy().into_owned())
}
