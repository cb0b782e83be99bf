//! All scenarios, a line of words each: what happens in them is in the files beside this one, by family.

use anyhow::Result;

use super::stage::Stage;
use super::{deadlines, flow_control, foreign, healthy};

/// Everything done right.
pub(super) const HEALTHY: &str = "healthy";

/// A reader of long streams that keeps up: no stall is found.
pub(super) const KEEPING_UP: &str = "keeping_up";

/// The demo's own implementation of gRPC.
pub(super) const TONIC: &str = "tonic";

/// One scenario, played by one implementation of gRPC.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) implementation: &'static str,
    /// What goes wrong.
    pub(super) about: &'static str,
    /// Thresholds of the agent, YAML as under `findings:`; empty for the defaults.
    pub(super) thresholds: &'static str,
    /// A part of `cargo xtask test`.
    pub(super) in_tests: bool,
    /// Starts the processes, lets them work, and ends them in order.
    pub(super) play: fn(&Stage) -> Result<()>,
}

/// All of them.
pub(super) fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    let foreign = foreign::SCENARIOS.iter().chain(foreign::MIXED).chain(foreign::APART_HOPS);
    SCENARIOS.iter().chain(foreign::OF_TONIC).chain(foreign)
}

/// Those of the demo.
const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "no_deadline",
        implementation: TONIC,
        about: "calls without a deadline, and with a grpc-timeout that is none",
        thresholds: "",
        in_tests: true,
        play: |stage| deadlines::play(stage, "no_deadline"),
    },
    Scenario {
        name: "deadline_absurd",
        implementation: TONIC,
        about: "unary calls with a deadline of hours",
        thresholds: "",
        in_tests: true,
        play: |stage| deadlines::play(stage, "deadline_absurd"),
    },
    Scenario {
        name: "deadline_exceeded",
        implementation: TONIC,
        about: "callees that do not answer before the deadline",
        thresholds: "",
        in_tests: true,
        play: |stage| deadlines::play(stage, "deadline_exceeded"),
    },
    Scenario {
        name: "late_completion",
        implementation: TONIC,
        about: "a server that completes calls after their deadline, for a client that waits",
        thresholds: "",
        in_tests: true,
        play: |stage| deadlines::play(stage, "late_completion"),
    },
    Scenario {
        name: "deadline_reset",
        implementation: TONIC,
        about: "a hop that sets the deadline anew",
        thresholds: "",
        in_tests: true,
        play: |stage| deadlines::play(stage, "deadline_reset"),
    },
    Scenario {
        name: "deadline_dropped",
        implementation: TONIC,
        about: "a hop that does not hand the deadline on",
        thresholds: "",
        in_tests: true,
        play: |stage| deadlines::play(stage, "deadline_dropped"),
    },
    Scenario {
        name: "deadline_exhausted",
        implementation: TONIC,
        about: "a hop that goes on calling when nothing is left of the deadline",
        thresholds: "",
        in_tests: true,
        play: |stage| deadlines::play(stage, "deadline_exhausted"),
    },
    Scenario {
        name: "ignores_cancellation",
        implementation: TONIC,
        about: "a handler that goes on calling when its caller has gone",
        thresholds: "",
        in_tests: true,
        play: |stage| deadlines::play(stage, "ignores_cancellation"),
    },
    Scenario {
        name: "retry_amplification",
        implementation: TONIC,
        about: "a second attempt while the first is still worked on",
        thresholds: "",
        in_tests: true,
        play: |stage| deadlines::play(stage, "retry_amplification"),
    },
    Scenario {
        name: "retry_not_retryable",
        implementation: TONIC,
        about: "retries of what was not found",
        thresholds: "",
        in_tests: true,
        play: |stage| deadlines::play(stage, "retry_not_retryable"),
    },
    Scenario {
        name: "leaked_stream",
        implementation: TONIC,
        about: "streams that the server never ends",
        thresholds: "{lifecycle: {half_closed: 1s}}",
        in_tests: false,
        play: |stage| deadlines::play(stage, "leaked_stream"),
    },
    Scenario {
        name: "server_dies",
        implementation: TONIC,
        about: "a server that dies with open streams",
        thresholds: "{abrupt_end: {resume: 1s}}",
        in_tests: true,
        play: deadlines::server_dies,
    },
    Scenario {
        name: "slow_reader",
        implementation: TONIC,
        about: "a reader that stops reading a stream now and then",
        thresholds: "",
        in_tests: true,
        play: |stage| flow_control::near(stage, "slow_reader"),
    },
    Scenario {
        name: "slow_reader",
        implementation: "tonic to grpcio",
        about: "the same with a reader that is not ours, of tonic's streams",
        thresholds: "",
        in_tests: false,
        play: flow_control::grpcio,
    },
    Scenario {
        name: "slow_reader",
        implementation: "tonic to grpc-js",
        about: "the same with a reader that is not ours, of tonic's streams",
        thresholds: "",
        in_tests: false,
        play: flow_control::grpc_js,
    },
    Scenario {
        name: "head_of_line",
        implementation: TONIC,
        about: "a stream that nobody reads and that takes the window of its connection",
        thresholds: "",
        in_tests: false,
        play: |stage| flow_control::near(stage, "head_of_line"),
    },
    Scenario {
        name: "small_window",
        implementation: TONIC,
        about: "a window that is too small for a round trip of 50 ms",
        thresholds: "",
        in_tests: false,
        play: |stage| flow_control::far(stage, "small_window"),
    },
    Scenario {
        name: KEEPING_UP,
        implementation: TONIC,
        about: "a reader that keeps up with what it is sent",
        thresholds: "",
        in_tests: false,
        play: |stage| flow_control::near(stage, KEEPING_UP),
    },
    Scenario {
        name: HEALTHY,
        implementation: TONIC,
        about: "everything done right, under load, over several backends",
        thresholds: "",
        in_tests: true,
        play: healthy::play,
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::scenarios;

    #[test]
    fn a_scenario_and_its_implementation_are_named_once() {
        let names: BTreeSet<_> =
            scenarios().map(|scenario| (scenario.name, scenario.implementation)).collect();
        assert_eq!(names.len(), scenarios().count());
    }
}
