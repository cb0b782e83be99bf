//! The kernel's preemption model: whether a program can be interrupted by another task on its CPU.
//!
//! The kernel skips a trampoline program while the same program is interrupted on that CPU, so the model decides
//! which way in misses calls. Sources, from what is in force to what was built: debugfs, the command line, the
//! configuration, the line of `uname -v`.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;

/// A preemption model, as the kernel's parameter `preempt=` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// Kernel code runs until it waits.
    None,
    /// It also yields where it says so.
    Voluntary,
    /// It is interrupted, for ordinary tasks not before the next tick (Linux 6.13).
    Lazy,
    /// It is interrupted at once.
    Full,
    /// Nothing says which.
    Unknown,
}

impl Preemption {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Preemption::None => "none",
            Preemption::Voluntary => "voluntary",
            Preemption::Lazy => "lazy",
            Preemption::Full => "full",
            Preemption::Unknown => "unknown",
        }
    }

    /// Whether a program may be interrupted by another task. What is not known may be.
    #[must_use]
    pub fn interrupts_programs(self) -> bool {
        !matches!(self, Preemption::None | Preemption::Voluntary)
    }

    fn of_name(name: &str) -> Option<Preemption> {
        [Preemption::None, Preemption::Voluntary, Preemption::Lazy, Preemption::Full]
            .into_iter()
            .find(|model| model.name() == name)
    }
}

/// The running kernel's model, and what says so.
#[must_use]
pub fn of_this_kernel() -> (Preemption, &'static str) {
    let read = |path: &str| fs::read_to_string(path).ok();
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let config = || {
        packed_config(Path::new("/proc/config.gz"))
            .or_else(|| read(&format!("/boot/config-{}", release.trim())))
            .or_else(|| read(&format!("/lib/modules/{}/config", release.trim())))
    };
    of_sources(
        read("/sys/kernel/debug/sched/preempt").as_deref(),
        &read("/proc/sys/kernel/version").unwrap_or_default(),
        &read("/proc/cmdline").unwrap_or_default(),
        config,
    )
}

fn of_sources(
    debugfs: Option<&str>,
    version: &str,
    command_line: &str,
    config: impl FnOnce() -> Option<String>,
) -> (Preemption, &'static str) {
    // `none voluntary (full) lazy`: the model in force stands in parentheses.
    if let Some(model) = debugfs
        .and_then(|models| models.split_once('('))
        .and_then(|(_, rest)| rest.split_once(')'))
        .and_then(|(name, _)| Preemption::of_name(name))
    {
        return (model, "/sys/kernel/debug/sched/preempt");
    }
    let words: Vec<&str> = version.split_whitespace().collect();
    // Kernels that can choose at boot say PREEMPT_DYNAMIC; others are what they were built as.
    if words.contains(&"PREEMPT_DYNAMIC") {
        if let Some(model) = command_line
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("preempt="))
            .filter_map(Preemption::of_name)
            .next_back()
        {
            return (model, "/proc/cmdline");
        }
        let model = config().map_or(Preemption::Unknown, |config| of_config(&config));
        return (model, "the kernel's configuration");
    }
    let model = if words.is_empty() {
        Preemption::Unknown
    } else if words.contains(&"PREEMPT_LAZY") {
        Preemption::Lazy
    } else if words.iter().any(|word| word.starts_with("PREEMPT")) {
        Preemption::Full
    } else {
        // None or voluntary, which makes no difference here.
        Preemption::Voluntary
    };
    (model, "/proc/sys/kernel/version")
}

/// What a kernel is by default: one of four options is set.
fn of_config(config: &str) -> Preemption {
    let is_set = |option: &str| config.lines().any(|line| line.strip_suffix("=y") == Some(option));
    [
        ("CONFIG_PREEMPT_NONE", Preemption::None),
        ("CONFIG_PREEMPT_VOLUNTARY", Preemption::Voluntary),
        ("CONFIG_PREEMPT_LAZY", Preemption::Lazy),
        ("CONFIG_PREEMPT", Preemption::Full),
    ]
    .into_iter()
    .find(|(option, _)| is_set(option))
    .map_or(Preemption::Unknown, |(_, model)| model)
}

fn packed_config(path: &Path) -> Option<String> {
    let mut text = String::new();
    // Some hundred kilobytes; the bound is for a file that is something else.
    GzDecoder::new(fs::File::open(path).ok()?).take(8 << 20).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DYNAMIC: &str = "#1 SMP PREEMPT_DYNAMIC Debian 6.12.107-1\n";

    fn no_config() -> Option<String> {
        None
    }

    #[test]
    fn debugfs_says_what_is_in_force_whatever_the_command_line_asked_for() {
        for (line, model) in [
            ("none voluntary (full)\n", Preemption::Full),
            ("none (voluntary) full\n", Preemption::Voluntary),
            ("(none) voluntary full lazy\n", Preemption::None),
            ("full (lazy)\n", Preemption::Lazy),
        ] {
            assert_eq!(of_sources(Some(line), DYNAMIC, "quiet preempt=none", no_config).0, model);
        }
    }

    #[test]
    fn without_debugfs_the_command_line_comes_before_what_was_built() {
        let config = || Some("# CONFIG_PREEMPT_NONE is not set\nCONFIG_PREEMPT_VOLUNTARY=y\n".to_owned());
        let (model, source) = of_sources(None, DYNAMIC, "quiet preempt=none preempt=full", config);
        assert_eq!((model, source), (Preemption::Full, "/proc/cmdline"));
        assert_eq!(of_sources(None, DYNAMIC, "quiet", config).0, Preemption::Voluntary);
        assert_eq!(of_sources(None, DYNAMIC, "preempt=nonsense", no_config).0, Preemption::Unknown);
    }

    #[test]
    fn a_kernel_that_cannot_choose_is_what_it_was_built_as() {
        let of = |version| of_sources(None, version, "preempt=full", no_config).0;
        assert_eq!(of("#1 SMP Debian 5.10.223-1 (2024-08-10)"), Preemption::Voluntary);
        assert_eq!(of("#1 SMP PREEMPT Thu Jan 1"), Preemption::Full);
        assert_eq!(of("#1 SMP PREEMPT_RT Thu Jan 1"), Preemption::Full);
        assert_eq!(of("#1 SMP PREEMPT_LAZY Thu Jan 1"), Preemption::Lazy);
        assert_eq!(of(""), Preemption::Unknown);
    }

    #[test]
    fn an_option_is_not_taken_for_another_that_begins_like_it() {
        assert_eq!(of_config("CONFIG_PREEMPT_BUILD=y\nCONFIG_PREEMPT_LAZY=y\n"), Preemption::Lazy);
        assert_eq!(of_config("CONFIG_PREEMPT_COUNT=y\nCONFIG_PREEMPT=y\n"), Preemption::Full);
        assert_eq!(of_config("CONFIG_PREEMPT_COUNT=y\n"), Preemption::Unknown);
    }

    #[test]
    fn what_is_not_known_may_interrupt_programs() {
        let safe = [Preemption::None, Preemption::Voluntary];
        for model in [Preemption::Lazy, Preemption::Full, Preemption::Unknown].into_iter().chain(safe) {
            assert_eq!(model.interrupts_programs(), !safe.contains(&model));
        }
    }
}
