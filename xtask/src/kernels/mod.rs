//! `cargo xtask kernels`: runs a test program, normally the check of the frame walker, on Debian's kernels.
//!
//! kernel package → vmlinuz → initramfs with the program → qemu → what the program said → table and JSON.
//!
//! Emulation only (`-accel tcg`): it works in every container, and `/dev/kvm` may exist and not work.
//! Deliberately without modules, disks and networks: what a run needs lies in the initramfs.

mod initramfs;
mod package;
mod report;
mod vm;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

pub(crate) use package::{Kernel, busybox_path, fetch_busybox};
pub(crate) use report::{Outcome, Run};

use crate::repo;
use crate::setup::{self, Purpose};
use crate::shell::{cmd, which};

/// The emulator.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// The oldest kernel that is supported and the one of Debian's stable release: small enough for every CI run.
pub(crate) const SERIES_OF_CI: [&str; 2] = ["5.10", "6.12"];

/// All that `--all` runs; `newest` is the newest of any Debian release.
const SERIES: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "newest"];

/// Which kernels, and what to run there.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A kernel series, as 5.10 or 6.12, or `newest`; may be given several times. Default: 5.10 and 6.12.
    #[arg(long = "kernel", value_name = "SERIES")]
    series: Vec<String>,
    /// 5.10, 6.1, 6.12, 6.18 and the newest.
    #[arg(long, conflicts_with = "series")]
    all: bool,
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
    #[arg(long, value_name = "FILE", conflicts_with_all = ["backends", "looping", "seeds", "change", "blocked", "parallel"])]
    program: Option<PathBuf>,
    /// A file to put beside the program (in `/`); may be given several times.
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Ends a run that takes longer.
    #[arg(long, default_value_t = 1200)]
    timeout_seconds: u64,
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
    fn first_kernel(self) -> (u32, u32) {
        match self {
            Self::Fexit | Self::Kprobe => (5, 5),
            Self::TpBtf => (6, 3),
        }
    }
}

/// Values of the kernel's parameter `preempt=`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preempt {
    None,
    Voluntary,
    Lazy,
    Full,
}

/// One start of the program in a booted kernel.
struct Job {
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

/// The walker check with its defaults on the kernels of CI, for `cargo xtask test`.
pub(crate) fn run_for_ci() -> Result<Vec<Run>> {
    #[derive(clap::Parser)]
    struct Defaults {
        #[command(flatten)]
        args: Args,
    }
    let defaults: Defaults = clap::Parser::parse_from(["kernels"]);
    let runs = run_all(&defaults.args)?;
    report::print_table(&runs);
    Ok(runs)
}

fn run_all(args: &Args) -> Result<Vec<Run>> {
    if !cfg!(target_arch = "x86_64") {
        bail!(
            "the kernels are x86_64 kernels and the program runs inside them: this needs an x86_64 machine"
        );
    }
    if which(QEMU).is_none() || !busybox_path().exists() {
        setup::set_up(&[Purpose::Kernels])?;
    }
    let series: Vec<&str> = match args.series.as_slice() {
        [] if args.all => SERIES.to_vec(),
        [] => SERIES_OF_CI.to_vec(),
        chosen => chosen.iter().map(String::as_str).collect(),
    };
    let program = match &args.program {
        Some(path) => path.clone(),
        None => build_walker_check()?,
    };
    let initramfs_files = [program].into_iter().chain(args.files.iter().cloned()).collect::<Vec<_>>();
    let jobs = jobs(args);

    let mut runs = Vec::new();
    for series in series {
        let kernel = Kernel::of_series(series);
        if kernel.release().is_none() {
            kernel.fetch()?;
        }
        let release = kernel.release().with_context(|| format!("read the release of kernel {series}"))?;
        eprintln!("kernel {release}: {} runs", jobs.len());
        let machine = vm::Machine {
            vmlinuz: kernel.vmlinuz(),
            parameters: parameters(args.preempt),
            cpu: cpu(version(&release)),
            files: &initramfs_files,
            run_timeout: Duration::from_secs(args.timeout_seconds),
        };
        let work = repo::cache().join("vm").join(format!("{series}-{}", std::process::id()));
        fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
        let session = machine.boot(&jobs, &work)?;
        runs.extend(report::judge(&release, version(&release), &jobs, &session));
        if runs.iter().all(|run| run.outcome != Outcome::Failed) {
            fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
        } else {
            eprintln!("kernel {release}: console and output are kept in {}", work.display());
        }
    }
    Ok(runs)
}

fn jobs(args: &Args) -> Vec<Job> {
    if args.program.is_some() {
        return vec![Job { backend: None, arguments: args.arguments.clone() }];
    }
    let job = |backend: Option<Backend>| {
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
        Job { backend, arguments }
    };
    if args.change {
        vec![job(None)]
    } else {
        args.backends.iter().copied().map(|one| job(Some(one))).collect()
    }
}

/// Builds the walker check, as the tests do.
fn build_walker_check() -> Result<PathBuf> {
    cmd("cargo")
        .args(["build", "--quiet", "--package", "tests", "--bin", "walker_check"])
        .dir(repo::root())
        .run()?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo::root().join("target"), PathBuf::from);
    Ok(target.join("debug").join("walker_check"))
}

fn parameters(preempt: Option<Preempt>) -> String {
    // Without `earlyprintk` the console of 6.12 can stay mute; `panic=-1` with -no-reboot ends qemu at once.
    let mut parameters = "console=ttyS0 earlyprintk=ttyS0 panic=-1 rdinit=/init".to_owned();
    if let Some(model) = preempt.and_then(|preempt| preempt.to_possible_value()) {
        parameters += &format!(" preempt={}", model.get_name());
    }
    parameters
}

/// QEMU 7.2 now and then corrupts the flags after a cmpxchg16b (seen on 6.12: a fault inside `kmalloc`), so kernels
/// are kept from using it. From 7.0 on socket storage needs the instruction: without it every look-up is NULL.
fn cpu(version: (u32, u32)) -> &'static str {
    if version.0 < 7 { "max,cx16=off" } else { "max" }
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
