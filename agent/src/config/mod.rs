//! Settings: flags before environment before file before defaults, resolved once into one plain struct.
//!
//! Every setting has one name, `section.key` (of findings `findings.detector.key`). In the file (YAML) it is nested, in the environment it is
//! `GRPCSCOPE_SECTION_KEY`. A name that is not known is an error in the file; in the environment it is not,
//! since Kubernetes puts variables like `GRPCSCOPE_SERVICE_HOST` there for a service of this name.

pub mod environment;
pub mod file;
pub mod findings;
pub mod values;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_core::Limits;
use serde::{Deserialize, Serialize};

use crate::budget::Budgets;
use crate::output::terminal::ColorChoice;
use crate::rights::RightsConfig;
pub use findings::FindingsConfig;
use values::{Age, ByteSize, Cpu, LogFilter, Shards};

/// Read if it is there and no other file is named.
pub const DEFAULT_FILE: &str = "/etc/grpcscope/config.yaml";

/// Most shards: so many threads have more to do with one another than with the work.
const SHARDS_MAX: u8 = 64;

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is served.
    pub http: HttpConfig,
    /// How the kernel is watched.
    pub capture: CaptureConfig,
    /// What is given up once it is watched.
    pub rights: RightsConfig,
    /// Bounds: memory follows these, not the traffic.
    pub limits: LimitsConfig,
    /// What `run` may take before it follows no new connections.
    pub budget: BudgetConfig,
    /// When each detector speaks.
    pub findings: FindingsConfig,
    /// What is kept over a restart of the agent.
    pub restart: RestartConfig,
    /// What the agent says about itself.
    pub log: LogConfig,
}

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address of `/metrics`, `/healthz`, `/readyz` and `/`. Loopback by default, since the metrics name
    /// methods and peers; the DaemonSet sets `0.0.0.0`.
    pub listen: SocketAddr,
}

/// How the kernel is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureConfig {
    /// Which programs are attached.
    pub backend: Backend,
    /// Size of the ring between kernel and agent: a power of two.
    pub ring_bytes: ByteSize,
    /// Threads that the work of `run` is spread over by process, at most 64; `auto` is one for each 8 CPUs that the agent may
    /// use, and 8 at most. With one, the thread that reads the ring does all of it.
    pub shards: Shards,
}

/// Ways to see socket calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Backend {
    /// What this kernel does best, and another way if that proves blind.
    #[default]
    Auto,
    /// The tracepoints of the socket layer (Linux 6.3 and newer).
    TpBtf,
    /// The ends of kernel functions (Linux 5.5 and newer).
    Fexit,
    /// Probes at the same functions (kernels with kprobes).
    Kprobe,
}

/// Bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Connections followed at once.
    pub connections: usize,
    /// Memory for the state of all connections together; above it the connection idle for longest is given up.
    pub state_bytes: ByteSize,
    /// Open streams followed on one connection.
    pub streams_per_connection: usize,
    /// Distinct method names; further ones are counted as `_OTHER`.
    pub methods: usize,
    /// Series of calls and connections that are kept at once, as Prometheus counts them: 30,000 make about 5 MB
    /// of text for a scrape. At least 9,000.
    pub series: usize,
    /// A label set that saw nothing for so long is given up.
    pub series_ttl: Age,
}

/// What `run` may take. Over it connections that are new are not followed; known ones are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// CPU on average over five seconds. None by default: what is right depends on the node.
    pub cpu: Option<Cpu>,
    /// Memory: what is resident of its own, and the ring. The state of connections gets at most half of what the ring leaves.
    pub memory: Option<ByteSize>,
}

/// What is kept over a restart of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestartConfig {
    /// Whether `run` writes down, when it is stopped, what it knows of HPACK tables, and reads it when it starts.
    pub keep: bool,
    /// Where. The next agent has to find the file there: in a container, on the node.
    pub file: PathBuf,
    /// What is older counts for nothing.
    pub ttl: Age,
}

/// What the agent says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter like `info,agent::capture=debug`.
    pub level: LogFilter,
    /// Lines for people or for machines.
    pub format: LogFormat,
    /// When to colour.
    pub color: ColorChoice,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// A line of text for each event.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

impl Default for HttpConfig {
    fn default() -> Self {
        // 9464 is what OpenTelemetry's Prometheus exporters use.
        HttpConfig { listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9464) }
    }
}

impl Default for CaptureConfig {
    fn default() -> Self {
        CaptureConfig { backend: Backend::Auto, ring_bytes: ByteSize(16 << 20), shards: Shards::Auto }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            connections: 65_536,
            // Half of what the DaemonSet may use: the rest is for the ring, the series and a scrape.
            state_bytes: ByteSize(128 << 20),
            streams_per_connection: 4_096,
            methods: 1_000,
            series: 30_000,
            series_ttl: Age(Duration::from_secs(300)),
        }
    }
}

impl Default for RestartConfig {
    fn default() -> Self {
        RestartConfig {
            keep: true,
            file: PathBuf::from("/run/grpcscope/state"),
            // Long enough for a rollout that pulls a new image.
            ttl: Age(Duration::from_secs(300)),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { level: LogFilter::default(), format: LogFormat::Text, color: ColorChoice::Auto }
    }
}

/// A wrong setting; the text says where it stands and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for crate::exit::Failure {
    fn from(error: ConfigError) -> Self {
        crate::exit::Failure::Config(error.0)
    }
}

/// What the command line says about settings.
#[derive(Clone, Debug, Default)]
pub struct FlagLayer {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--capture`.
    pub backend: Option<Backend>,
    /// `--shards`.
    pub shards: Option<NonZeroU8>,
    /// `--user`.
    pub user: Option<u32>,
    /// `--max-cpu`.
    pub max_cpu: Option<Cpu>,
    /// `--max-memory`.
    pub max_memory: Option<ByteSize>,
    /// `--log-level`, `-v`, `-q`.
    pub log_level: Option<LogFilter>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
    /// `--color`.
    pub color: Option<ColorChoice>,
}

impl Config {
    /// Resolves all layers. `variable` looks up the environment.
    ///
    /// # Errors
    /// The first setting that is wrong, wherever it stands.
    pub fn resolve(
        flags: &FlagLayer,
        variable: &dyn Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<Config, ConfigError> {
        let named = flags.file.clone().or_else(|| variable("GRPCSCOPE_CONFIG").map(PathBuf::from));
        let mut config = match named {
            Some(path) => file::read(&path)?,
            None if Path::new(DEFAULT_FILE).exists() => file::read(Path::new(DEFAULT_FILE))?,
            None => Config::default(),
        };
        environment::apply(&mut config, variable)?;
        config.apply_flags(flags);
        config.validate()?;
        Ok(config)
    }

    fn apply_flags(&mut self, flags: &FlagLayer) {
        fn set<T: Clone>(setting: &mut T, flag: Option<&T>) {
            if let Some(value) = flag {
                setting.clone_from(value);
            }
        }
        set(&mut self.http.listen, flags.listen.as_ref());
        set(&mut self.capture.backend, flags.backend.as_ref());
        set(&mut self.capture.shards, flags.shards.map(Shards::Number).as_ref());
        self.rights.user = flags.user.or(self.rights.user);
        self.budget.cpu = flags.max_cpu.or(self.budget.cpu);
        self.budget.memory = flags.max_memory.or(self.budget.memory);
        set(&mut self.log.level, flags.log_level.as_ref());
        set(&mut self.log.format, flags.log_format.as_ref());
        set(&mut self.log.color, flags.color.as_ref());
    }

    /// What the types alone do not hold.
    fn validate(&self) -> Result<(), ConfigError> {
        let ring = self.capture.ring_bytes.0;
        if !ring.is_power_of_two() || !(64 << 10..=1 << 30).contains(&ring) {
            return Err(ConfigError(format!(
                "capture.ring_bytes is {}: it must be a power of two from 64KiB to 1GiB, for example 16MiB",
                self.capture.ring_bytes
            )));
        }
        if self.rights.user == Some(u32::MAX) {
            return Err(ConfigError(format!("rights.user is {}: this is no user id", u32::MAX)));
        }
        let limits = &self.limits;
        for (name, value) in [
            ("limits.connections", limits.connections),
            ("limits.streams_per_connection", limits.streams_per_connection),
            ("limits.methods", limits.methods),
            ("limits.series", limits.series),
        ] {
            if value == 0 {
                return Err(ConfigError(format!("{name} is 0: it must be at least 1")));
            }
        }
        if limits.state_bytes.0 < 1 << 20 {
            let bytes = &limits.state_bytes;
            return Err(ConfigError(format!(
                "limits.state_bytes is {bytes}: it must be at least 1MiB, for example 128MiB"
            )));
        }
        let least = ring.saturating_add(2 << 20);
        if let Some(memory) = self.budget.memory
            && memory.0 < least
        {
            return Err(ConfigError(format!(
                "budget.memory is {memory}: with a ring of {} (capture.ring_bytes) it must be at least {}",
                self.capture.ring_bytes,
                ByteSize(least)
            )));
        }
        if let Shards::Number(shards) = self.capture.shards {
            if shards.get() > SHARDS_MAX {
                return Err(ConfigError(format!(
                    "capture.shards is {shards}: it must be auto, or from 1 to {SHARDS_MAX}"
                )));
            }
            let bytes = self.core_limits().state_bytes as u64;
            if bytes >> 20 < u64::from(shards.get()) {
                return Err(ConfigError(format!(
                    "limits.state_bytes, or what budget.memory leaves of it, is {}: it must be at least 1MiB for each of {shards} shards (capture.shards)",
                    ByteSize(bytes)
                )));
            }
        }
        let restart = &self.restart;
        if restart.keep && !restart.file.is_absolute() {
            let file = restart.file.display();
            return Err(ConfigError(format!(
                "restart.file is `{file}`: it must begin with /, for example /run/grpcscope/state"
            )));
        }
        if limits.series_ttl.0 < Duration::from_secs(1) {
            let ttl = &limits.series_ttl;
            return Err(ConfigError(format!("limits.series_ttl is {ttl}: it must be at least 1s")));
        }
        Ok(())
    }

    /// Over how many threads `run` spreads its work, where the agent may use so many CPUs.
    ///
    /// A thread follows some hundred thousand calls a second, which take 8 CPUs and more to make: so one is enough for these, and
    /// the reader, which copies for all, is not the narrow place up to 8.
    #[must_use]
    pub fn shards(&self, cpus: usize) -> usize {
        match self.capture.shards {
            Shards::Number(shards) => usize::from(shards.get()),
            Shards::Auto => {
                let by_memory = self.core_limits().state_bytes >> 20;
                (cpus / 8).clamp(1, 8).min(by_memory.max(1))
            }
        }
    }

    /// The bounds of the core.
    #[must_use]
    pub fn core_limits(&self) -> Limits {
        // The other half is for series, findings, a scrape, and what the allocator cannot give back.
        let within_budget = self
            .budget
            .memory
            .map_or(u64::MAX, |memory| memory.0.saturating_sub(self.capture.ring_bytes.0) / 2);
        let state_bytes = self.limits.state_bytes.0.min(within_budget);
        Limits {
            connections: self.limits.connections,
            state_bytes: usize::try_from(state_bytes).unwrap_or(usize::MAX),
            streams_per_connection: self.limits.streams_per_connection,
            ..Limits::default()
        }
    }

    /// What `run` may take.
    #[must_use]
    pub fn budgets(&self) -> Budgets {
        Budgets {
            cpu_millicores: self.budget.cpu.map(|cpu| cpu.0),
            memory_bytes: self.budget.memory.map(|memory| memory.0),
        }
    }

    /// The settings as a configuration file.
    ///
    /// # Errors
    /// They cannot be written as YAML, which would be our bug.
    pub fn to_yaml(&self) -> anyhow::Result<String> {
        serde_saphyr::to_string(self).map_err(|error| anyhow::anyhow!("print the configuration: {error}"))
    }
}

#[cfg(test)]
mod tests;
