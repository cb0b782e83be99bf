//! Values of settings that people write in their own way: sizes, ages, log filters.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU8;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

/// Bytes: `65536`, `64KiB`, `16MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// A length of time: `90s`, `10m`, `6h`; a bare number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(pub Duration);

/// CPU as Kubernetes writes it: `500m` or `0.5` is half of one. In thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu(pub u32);

/// A share: `0.8` or `80%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(pub f64);

/// Threads that work is spread over: `auto`, or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shards {
    /// By the number of CPUs.
    #[default]
    Auto,
    /// So many.
    Number(NonZeroU8),
}

/// It is never NaN.
impl Eq for Ratio {}

/// A log level, or a filter by module in the syntax of `RUST_LOG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The text that the filter was made from, which is known to be right.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        LogFilter(String::from("info"))
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no size: write it like 65536, 64KiB, 16MiB or 1GiB");
        let (number, unit) = split_unit(text).ok_or_else(wrong)?;
        let shift = match unit {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(wrong()),
        };
        number.checked_mul(1 << shift).map(ByteSize).ok_or_else(wrong)
    }
}

impl FromStr for Shards {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "auto" => Ok(Shards::Auto),
            number => number
                .parse()
                .map(Shards::Number)
                .map_err(|_| format!("`{text}` is no number of shards: write it like auto, 1 or 4")),
        }
    }
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no duration: write it like 500ms, 90s, 10m or 6h");
        let (number, unit) = split_unit(text).ok_or_else(wrong)?;
        let us = match unit {
            "us" => 1,
            "ms" => 1_000,
            "" | "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return Err(wrong()),
        };
        number.checked_mul(us).map(|us| Age(Duration::from_micros(us))).ok_or_else(wrong)
    }
}

impl FromStr for Cpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (number, scale) = text.strip_suffix('m').map_or((text, 1000.0), |number| (number, 1.0));
        let millicores = number.parse::<f64>().map(|number| (number * scale).round());
        match millicores {
            Ok(millicores) if (1.0..=f64::from(u32::MAX)).contains(&millicores) => Ok(Cpu(millicores as u32)),
            Ok(_) | Err(_) => Err(format!("`{text}` is no amount of CPU: write it like 500m or 0.5")),
        }
    }
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number.trim_end(), 100.0));
        let ratio = number.parse::<f64>().map(|number| number / scale);
        match ratio {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Ratio(ratio)),
            Ok(_) | Err(_) => Err(format!("`{text}` is no share: write it like 0.8 or 80%")),
        }
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let is_level = |word: &str| {
            ["off", "error", "warn", "info", "debug", "trace"]
                .iter()
                .any(|level| word.eq_ignore_ascii_case(level))
        };
        // A bare word would be taken for the name of a module, which hides a misspelt level.
        let is_filter = text.split(',').all(|directive| {
            is_level(directive) || directive.rsplit_once('=').is_some_and(|(_, l)| is_level(l))
        });
        if is_filter && tracing_subscriber::EnvFilter::try_new(text).is_ok() {
            return Ok(LogFilter(text.to_owned()));
        }
        Err(format!(
            "`{text}` is no log level: write error, warn, info, debug or trace, or a filter like info,agent=debug"
        ))
    }
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.as_micros();
        let units =
            [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms")];
        for (unit_us, unit) in units {
            if us >= unit_us && us.is_multiple_of(unit_us) {
                return write!(f, "{}{unit}", us / unit_us);
            }
        }
        write!(f, "{us}us")
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m", self.0)
    }
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shards::Auto => f.write_str("auto"),
            Shards::Number(number) => number.fmt(f),
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a number or a text by the type's own grammar.
struct Scalar<T>(PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a text")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! serde_by_text {
    ($($type:ty),+) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Scalar(PhantomData))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+};
}

serde_by_text!(ByteSize, Age, Cpu, Ratio, Shards, LogFilter);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_back_as_they_are_shown() {
        for text in ["65536", "64KiB", "16MiB", "1GiB", "1000"] {
            let size: ByteSize = text.parse().expect("it is a size");
            assert_eq!(size.to_string().parse::<ByteSize>(), Ok(size));
        }
        for (text, shown) in [
            ("90", "90s"),
            ("600s", "10m"),
            ("6h", "6h"),
            ("48h", "2d"),
            ("1500ms", "1500ms"),
            ("250us", "250us"),
        ] {
            let age: Age = text.parse().expect("it is a duration");
            assert_eq!(age.to_string(), shown);
        }
    }

    #[test]
    fn cpu_is_written_as_kubernetes_does() {
        for (text, millicores) in [("500m", 500), ("0.5", 500), ("2", 2000), ("1m", 1), ("0.0014", 1)] {
            assert_eq!(text.parse(), Ok(Cpu(millicores)), "{text}");
            assert_eq!(Cpu(millicores).to_string().parse(), Ok(Cpu(millicores)));
        }
        for text in ["", "0", "-1", "0.0001", "m", "1k", "NaN", "inf", "1e12"] {
            assert!(text.parse::<Cpu>().is_err_and(|error| error.contains("500m")), "{text}");
        }
    }

    #[test]
    fn shares_are_fractions_or_percent() {
        for (text, share) in [("0.8", 0.8), ("80%", 0.8), ("1", 1.0), ("0", 0.0), ("2.5 %", 0.025)] {
            assert_eq!(text.parse(), Ok(Ratio(share)), "{text}");
            assert_eq!(Ratio(share).to_string().parse(), Ok(Ratio(share)));
        }
        for text in ["", "80", "-0.1", "101%", "NaN", "inf", "%"] {
            assert!(text.parse::<Ratio>().is_err_and(|error| error.contains("80%")), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_an_example() {
        for text in ["", "16MB", "-1", "1.5GiB", "99999999999999999999", "99999999999GiB"] {
            assert!(text.parse::<ByteSize>().is_err_and(|error| error.contains("16MiB")), "{text}");
        }
        for text in ["", "10x", "1e3", "18446744073709551615h"] {
            assert!(text.parse::<Age>().is_err_and(|error| error.contains("90s")), "{text}");
        }
    }

    #[test]
    fn a_misspelt_log_level_is_not_taken_for_a_module() {
        for text in ["info", "DEBUG", "warn,agent::capture=trace", "agent=debug,info"] {
            assert!(text.parse::<LogFilter>().is_ok(), "{text}");
        }
        for text in ["inof", "", "agent", "agent=loud", "info,"] {
            assert!(text.parse::<LogFilter>().is_err(), "{text}");
        }
    }
}
