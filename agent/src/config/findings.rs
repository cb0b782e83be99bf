//! When each detector speaks: `findings.DETECTOR.KEY`, a section a file of `agent-core/src/detectors`.
//!
//! The defaults are those of the core, so that they stand in one place; here is only how people write them. A new
//! threshold is a line of [`detectors!`] with its type, the core's field, and a sentence, which is also what
//! `docs/findings.md` and `grpcscope explain` say of it.

use std::ffi::OsString;

use agent_core::detectors;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::environment::Environment;
use super::values::{Age, ByteSize, Ratio};

/// A setting that the core has in a type of its own.
trait Threshold<Core>: std::fmt::Display + Sized {
    fn of_core(core: Core) -> Self;
    fn to_core(&self) -> Core;
    fn parse(text: &str) -> Result<Self, String>;
}

/// The core has nanoseconds.
impl Threshold<u64> for Age {
    fn of_core(core: u64) -> Self {
        Age(std::time::Duration::from_nanos(core))
    }

    fn to_core(&self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl Threshold<u64> for ByteSize {
    fn of_core(core: u64) -> Self {
        ByteSize(core)
    }

    fn to_core(&self) -> u64 {
        self.0
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl Threshold<f64> for Ratio {
    fn of_core(core: f64) -> Self {
        Ratio(core)
    }

    fn to_core(&self) -> f64 {
        self.0
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl Threshold<bool> for bool {
    fn of_core(core: bool) -> Self {
        core
    }

    fn to_core(&self) -> bool {
        *self
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("`{text}` is neither `true` nor `false`"))
    }
}

macro_rules! counts {
    ($($type:ty),+) => {$(
        impl Threshold<$type> for $type {
            fn of_core(core: $type) -> Self {
                core
            }

            fn to_core(&self) -> $type {
                *self
            }

            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("`{text}` is no count: write it like 4000"))
            }
        }
    )+};
}

counts!(u32, u64, usize);

/// A threshold, as the documentation has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documented {
    /// `findings.DETECTOR.KEY`.
    pub key: String,
    /// Its default.
    pub default: String,
    /// What it is, in a sentence.
    pub text: String,
}

macro_rules! detectors {
    ($($(#[$section_doc:meta])* $section:ident: $config:ident {
        $($(#[doc = $doc:literal])+ $key:ident: $type:ty => $field:ident,)+
    })+) => {
        /// When each detector speaks.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct FindingsConfig {
            $($(#[$section_doc])* pub $section: $config,)+
        }

        $(
            $(#[$section_doc])*
            #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub struct $config {
                $($(#[doc = $doc])+ pub $key: $type,)+
            }

            impl Default for $config {
                fn default() -> Self {
                    let core = detectors::$section::Thresholds::default();
                    $config { $($key: Threshold::of_core(core.$field),)+ }
                }
            }
        )+

        impl FindingsConfig {
            /// As the core wants them.
            #[must_use]
            pub fn thresholds(&self) -> detectors::Thresholds {
                let mut thresholds = detectors::Thresholds::default();
                $($(thresholds.$section.$field = self.$section.$key.to_core();)+)+
                thresholds
            }

            /// Every threshold with its default, in the order in which they are documented.
            #[must_use]
            pub fn documented() -> Vec<Documented> {
                let defaults = FindingsConfig::default();
                vec![$($(Documented {
                    key: concat!("findings.", stringify!($section), ".", stringify!($key)).to_owned(),
                    default: defaults.$section.$key.to_string(),
                    text: concat!($($doc),+).trim().to_owned(),
                },)+)+]
            }

            /// Sets what the environment names.
            ///
            /// # Errors
            /// A value makes no sense.
            pub(super) fn apply(
                &mut self,
                variable: &dyn Fn(&str) -> Option<OsString>,
            ) -> Result<(), ConfigError> {
                let environment = Environment { variable };
                $($(
                    let name = concat!("GRPCSCOPE_FINDINGS_", stringify!($section), "_", stringify!($key));
                    environment.set(
                        &name.to_uppercase(),
                        &mut self.$section.$key,
                        |text| Threshold::parse(text),
                    )?;
                )+)+
                Ok(())
            }
        }
    };
}

detectors! {
    /// Deadlines of single calls.
    deadlines: DeadlinesConfig {
        /// A unary call with a longer timeout has no deadline to speak of.
        absurd_timeout: Age => absurd_ns,
        /// A completion is late when it comes more than this after the deadline.
        late_completion: Age => late_ns,
    }
    /// Calls on one connection.
    pinned: PinnedConfig {
        /// How far back calls are counted; also how long a connection, or a backend without calls, must have been there.
        /// At least 12 s.
        window: Age => window_ns,
        /// Fewer calls in a window say nothing about how they are spread.
        calls: u64 => calls_min,
        /// The share of the calls that makes a connection the only one that matters.
        share: Ratio => share_min,
        /// A single connection is suspected when it is older.
        suspected_age: Age => suspected_age_ns,
    }
    /// Backends without calls.
    starved: StarvedConfig {
        /// Siblings with fewer calls in the window do not show that there was anything to get.
        sibling_calls: u64 => sibling_calls_min,
    }
    /// Connections that are made again and again.
    reconnects: ReconnectsConfig {
        /// How far back attempts are counted.
        window: Age => window_ns,
        /// Fewer attempts are no storm.
        attempts: u32 => attempts_min,
        /// A connection that lasted longer was of some use.
        short: Age => short_ns,
    }
    /// Stalls of flow control.
    flow_control: FlowControlConfig {
        /// A stall that is as long is said by itself.
        long: Age => long_ns,
        /// A stall that has lasted for so long is said before it is over.
        lasting: Age => lasting_ns,
        /// What goes on is said again after so long, with new numbers.
        again: Age => again_ns,
        /// Credit that takes more round trips than this was withheld by a slow receiver.
        withheld_round_trips: u64 => withheld_round_trips,
        /// Credit that takes at most so many round trips was not: the window is too small.
        prompt_round_trips: u64 => prompt_round_trips,
        /// Windows are not called too small where the round trip is shorter.
        delay: Age => delay_ns,
        /// Shorter stalls of a slow receiver are only counted.
        short: Age => short_ns,
        /// So many stalls in a row are said, although none of them is long.
        row: u32 => row,
        /// They are not where the sender waits for less than this share of the time.
        share: Ratio => share,
        /// A row ends when there was no stall for so long.
        row_ends: Age => row_ends_ns,
    }
    /// Clients at their stream limit.
    stream_limit: StreamLimitConfig {
        /// A client that is at the limit for less than this touched it, and nobody waited for long.
        at_limit: Age => at_limit_ns,
    }
    /// GOAWAY and PING.
    connection_health: ConnectionHealthConfig {
        /// A PING that had no answer for this long, also when its connection ended, was not answered.
        ping_unanswered: Age => unanswered_ns,
        /// A notice of a graceful end is told alone when the GOAWAY that counts has not come by then.
        goaway_notice: Age => notice_ns,
        /// Whether a GOAWAY without an error and without a reason is told: nearly every connection that is closed in order
        /// ends with one.
        tell_graceful: bool => tell_graceful,
    }
    /// Attempts after those that failed.
    retries: RetriesConfig {
        /// A retry may come this much earlier than the server asked for.
        early: Age => early_ns,
        /// For how long a failed attempt may be followed by the next one.
        memory: Age => memory_ns,
    }
    /// Methods that are tried again and again.
    retry_storm: RetryStormConfig {
        /// The calls of how long are looked at together.
        window: Age => window_ns,
        /// Fewer calls than this in a window say nothing of a share.
        calls: u64 => calls,
        /// More than this share of the calls being retries is a storm.
        retried_share: Ratio => retried_share,
    }
    /// Calls that stay.
    lifecycle: LifecycleConfig {
        /// One side of a call has ended, and the other one sent nothing for this long.
        half_closed: Age => half_closed_ns,
        /// No frame of a call, and no keepalive PING on its connection, for this long.
        idle: Age => idle_ns,
    }
    /// Calls whose connection was lost.
    abrupt_end: AbruptEndConfig {
        /// For how long a finding waits to tell when the client called the method again.
        resume: Age => resume_ns,
    }
    /// Which outbound call belongs to which inbound call.
    correlation: CorrelationConfig {
        /// A call that ended is remembered for so long, for outbound calls of its trace that begin after it.
        ended: Age => ended_ns,
        /// A call that was given up is remembered for so long, since its handler may go on.
        given_up: Age => given_up_ns,
        /// A method that was called while nothing was open belongs to nobody for so long, but by its trace.
        own_account: Age => own_account_ns,
        /// So long after a loss or a late join an inbound call may be open that was not seen.
        unseen: Age => unseen_ns,
    }
    /// Deadlines across a hop.
    propagation: PropagationConfig {
        /// An outbound deadline may be this much later than the inbound one.
        tolerance: Age => tolerance_ns,
        /// Or this share of its timeout, whichever is more.
        tolerance_share: Ratio => tolerance_ratio,
        /// An outbound call that begins more than this after the inbound deadline began when nothing was left.
        waiting: Age => waiting_ns,
        /// More than this left is no limit to hand on.
        unlimited: Age => unlimited_ns,
    }
    /// Timeouts that are always the same.
    fixed: FixedConfig {
        /// Calls of a method with the same timeout, within two minutes.
        calls: u32 => calls,
        /// The timeout is this share longer than the longest that came in.
        longer_share: Ratio => longer_ratio,
    }
    /// Work that nobody waits for.
    uncancelled: UncancelledConfig {
        /// What ends within this after the end of the inbound call was told in time.
        grace: Age => grace_ns,
        /// An outbound call that is open for so long after the end is told of before it ends.
        goes_on: Age => goes_on_ns,
    }
}
