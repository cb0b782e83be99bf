//! Settings from the environment: `GRPCSCOPE_SECTION_KEY`, of findings `GRPCSCOPE_FINDINGS_DETECTOR_KEY`.

use std::ffi::OsString;
use std::str::FromStr;

use clap::ValueEnum;

use super::{Config, ConfigError};

/// Sets what the environment names. `RUST_LOG` counts too, after `GRPCSCOPE_LOG_LEVEL`.
///
/// # Errors
/// A value makes no sense.
pub fn apply(config: &mut Config, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<(), ConfigError> {
    let environment = Environment { variable };
    environment.set("RUST_LOG", &mut config.log.level, by_text)?;
    environment.set("GRPCSCOPE_HTTP_LISTEN", &mut config.http.listen, |text| {
        text.parse().map_err(|_| format!("`{text}` is no address: write it like 127.0.0.1:9464 or [::]:9464"))
    })?;
    environment.set("GRPCSCOPE_CAPTURE_BACKEND", &mut config.capture.backend, by_word)?;
    environment.set("GRPCSCOPE_CAPTURE_RING_BYTES", &mut config.capture.ring_bytes, by_text)?;
    environment.set("GRPCSCOPE_CAPTURE_SHARDS", &mut config.capture.shards, by_text)?;
    environment.set("GRPCSCOPE_RIGHTS_USER", &mut config.rights.user, by_user)?;
    environment.set("GRPCSCOPE_RIGHTS_SYSTEM_CALLS", &mut config.rights.system_calls, by_word)?;
    let limits = &mut config.limits;
    environment.set("GRPCSCOPE_LIMITS_CONNECTIONS", &mut limits.connections, by_count)?;
    environment.set("GRPCSCOPE_LIMITS_STATE_BYTES", &mut limits.state_bytes, by_text)?;
    environment.set(
        "GRPCSCOPE_LIMITS_STREAMS_PER_CONNECTION",
        &mut limits.streams_per_connection,
        by_count,
    )?;
    environment.set("GRPCSCOPE_LIMITS_METHODS", &mut limits.methods, by_count)?;
    environment.set("GRPCSCOPE_LIMITS_SERIES", &mut limits.series, by_count)?;
    environment.set("GRPCSCOPE_LIMITS_SERIES_TTL", &mut limits.series_ttl, by_text)?;
    environment.set("GRPCSCOPE_BUDGET_CPU", &mut config.budget.cpu, |text| text.parse().map(Some))?;
    environment.set("GRPCSCOPE_BUDGET_MEMORY", &mut config.budget.memory, |text| text.parse().map(Some))?;
    environment.set("GRPCSCOPE_RESTART_KEEP", &mut config.restart.keep, by_answer)?;
    environment.set("GRPCSCOPE_RESTART_FILE", &mut config.restart.file, |text| {
        let path = std::path::PathBuf::from(text);
        if path.is_absolute() { Ok(path) } else { Err(format!("`{text}` does not begin with /")) }
    })?;
    environment.set("GRPCSCOPE_RESTART_TTL", &mut config.restart.ttl, by_text)?;
    environment.set("GRPCSCOPE_LOG_LEVEL", &mut config.log.level, by_text)?;
    environment.set("GRPCSCOPE_LOG_FORMAT", &mut config.log.format, by_word)?;
    environment.set("GRPCSCOPE_LOG_COLOR", &mut config.log.color, by_word)?;
    config.findings.apply(variable)
}

/// Where variables are looked up.
pub(super) struct Environment<'a> {
    pub(super) variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Environment<'_> {
    /// Sets `setting` if the variable is there and not empty.
    pub(super) fn set<T>(
        &self,
        name: &str,
        setting: &mut T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<(), ConfigError> {
        let Some(value) = (self.variable)(name).filter(|value| !value.is_empty()) else { return Ok(()) };
        let text = value.to_str().ok_or_else(|| ConfigError(format!("{name}: not UTF-8")))?;
        *setting = parse(text).map_err(|error| ConfigError(format!("{name}: {error}")))?;
        Ok(())
    }
}

fn by_text<T: FromStr<Err = String>>(text: &str) -> Result<T, String> {
    text.parse()
}

fn by_count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("`{text}` is no count: write it like 4000"))
}

fn by_answer(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("`{text}` is neither true nor false"))
}

fn by_user(text: &str) -> Result<Option<u32>, String> {
    text.parse().map(Some).map_err(|_| format!("`{text}` is no user id: write it like 65534"))
}

fn by_word<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, true).map_err(|_| {
        let words: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
            .collect();
        format!("`{text}` is none of {}", words.join(", "))
    })
}
