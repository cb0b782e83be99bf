//! Scenarios with implementations of gRPC that are not ours: grpcio, grpc-js and grpc-go, alone and in a chain of all three.
//!
//! One program a language (`tests/apps`) plays every part: the caller, who knows what goes wrong and writes it down for both
//! ends, a hop in the middle, and the callee. So any language can call any other. The demo's tonic has such a program too
//! (`grpcscope-demo hop`), for what it plays no other way.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::catalogue::{HEALTHY, Scenario, TONIC};
use super::links::{CALLS, CHAIN, Load, METHODS, MIDDLE};
use super::peers::{self, beside, gateway, hangs_up, heedless, stops};
use super::stage::{Process, Stage};
use crate::repo;

/// An implementation of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    /// grpcio, the C-core.
    Python,
    /// @grpc/grpc-js.
    Node,
    /// grpc-go.
    Go,
    /// tonic, the demo's own.
    Tonic,
}

/// How the implementations are called in the result.
const GRPCIO: &str = "grpcio";
const GRPC_JS: &str = "grpc-js";
const GRPC_GO: &str = "grpc-go";

impl Language {
    const fn name(self) -> &'static str {
        match self {
            Language::Python => GRPCIO,
            Language::Node => GRPC_JS,
            Language::Go => GRPC_GO,
            Language::Tonic => TONIC,
        }
    }

    /// The program in its part of a scenario.
    pub(super) fn command(self, stage: &Stage, scenario: &str, arguments: &[&str]) -> Command {
        let (cache, apps) = (repo::cache(), repo::root().join("tests/apps"));
        let mut command = match self {
            Language::Python => {
                let mut command = Command::new(cache.join("python/bin/python"));
                command.arg(apps.join("python/scenario.py"));
                command
            }
            Language::Node => {
                let mut command = Command::new("node");
                command.arg(apps.join("node/scenario.js")).env("NODE_PATH", cache.join("node/node_modules"));
                command
            }
            Language::Go => {
                let mut command = Command::new(cache.join("go/app"));
                command.arg("scenario");
                command
            }
            Language::Tonic => return stage.demo("hop", scenario, arguments),
        };
        command.args(["--scenario", scenario]).args(arguments);
        command
    }
}

/// One row a scenario: its name, what goes wrong, the thresholds, how it is played, and by whom.
macro_rules! scenarios {
    ($($name:literal, $about:literal, $thresholds:literal, $in_tests:literal, $play:ident: $($language:ident)*;)*) => {
        pub(super) const SCENARIOS: &[Scenario] = &[$($(
            Scenario {
                name: $name,
                implementation: Language::$language.name(),
                about: $about,
                thresholds: $thresholds,
                in_tests: $in_tests,
                play: |stage| $play(stage, $name, Language::$language),
            },
        )*)*];
    };
}

scenarios! {
    "no_deadline", "calls without a deadline", "", true, pair: Python Node Go;
    "deadline_exceeded", "a callee that does not answer before the deadline", "", false, pair: Python Node Go;
    "max_connection_age", "a server that ends connections at an age", "", false, pair: Python Node Go;
    // grpc-js as a server does not mind PINGs.
    "too_many_pings", "keepalive PINGs more often than the server allows", "", false, pair: Python Go;
    "stream_limit", "more calls at once than the server allows streams", "", false, pair: Python Node Go Tonic;
    "slow_reader", "a client that stops reading a stream for two seconds", "", false, pair: Python Node Go;
    "retry_not_retryable", "a retry policy with a status that trying again cannot change", "", false, pair: Python Node Go;
    "retry_storm", "a method most of whose calls are tried again", "{retry_storm: {window: 5s, calls: 50}}", false, pair: Python Node Go Tonic;
    "leaked_stream", "a stream of which the client waits for a server that is silent",
        "{lifecycle: {half_closed: 3s}}", false, pair: Python Node Go;
    "idle_stream", "a stream on which nothing happens, beside one whose client sends PINGs",
        "{lifecycle: {idle: 3s}}", false, beside: Python Node;
    "ping_unanswered", "a server that is stopped, and whose client sends PINGs", "", false, stops: Python Node;
    "retry_pushback_ignored", "a retry layer that does not know pushback, beside gRPC's own", "", false, beside: Python Node;
    "http_status_mismatch", "a gateway without gRPC that answers calls by itself", "", false, gateway: Python Node;
    "reconnect_storm", "a client that connects again and again to one who hangs up, beside one that waits",
        "", false, hangs_up: Node;
    "work_after_end", "a hand-written server that does not look at RST_STREAM, beside gRPC's own",
        "", false, heedless: Python Node;
    // Its resets come while the other end is inside of a send: what is told then costs recall if it is taken for a loss.
    "server_dies", "a server that dies with open streams", "", true, dies: Go;
    "server_dies", "a server that dies with open streams", "", false, dies: Python Node;
    "pinned", "a client that takes the first of three backends, beside one that takes them in turn",
        "{pinned: {window: 12s}}", false, pinned: Python Node Go Tonic;
    "scale_up", "a backend that is added when its clients have their connections, and gets nothing",
        "{pinned: {window: 12s}}", false, scale_up: Python Tonic;
    "deadline_reset", "a hop that sets the deadline anew", "", false, hop: Python Node Go;
    "deadline_dropped", "a hop that does not hand the deadline on", "", false, hop: Python Node Go;
    "deadline_fixed", "a hop that gives each call the same timeout", "", false, untraced: Python Node;
    "ignores_cancellation", "a handler that goes on calling when its caller has gone", "", false, hop: Python Node Go;
    "chain", "calls over a hop, of which is known what belongs to what", "", false, linked: Python Node Go Tonic;
    "healthy", "everything done right, under load, over a hop and two backends", "", false, healthy: Python Node Go;
}

/// What tonic does in its own way.
pub(super) const OF_TONIC: &[Scenario] = &[
    Scenario {
        name: "max_connection_age",
        implementation: TONIC,
        about: "a server that ends connections at an age, for which tonic gives no reason: it is told if every graceful end is",
        thresholds: "{connection_health: {tell_graceful: true}}",
        in_tests: false,
        play: |stage| pair(stage, "max_connection_age", Language::Tonic),
    },
    // tonic as a server does not mind PINGs (h2 counts resets, not PINGs).
    Scenario {
        name: "too_many_pings",
        implementation: "tonic to grpcio",
        about: "keepalive PINGs of tonic's client more often than grpcio's server allows; tonic's server allows any",
        thresholds: "",
        in_tests: false,
        play: |stage| pair_of(stage, "too_many_pings", Language::Tonic, Language::Python),
    },
];

/// The orders of the mixed chains: the caller, the hop, the callee.
const PY_NODE_GO: [Language; 3] = [Language::Python, Language::Node, Language::Go];
const GO_PY_NODE: [Language; 3] = [Language::Go, Language::Python, Language::Node];

/// One row a scenario that chains of all three play, each in both orders.
macro_rules! mixed {
    ($($name:literal, $about:literal, $play:expr;)*) => {
        /// Chains of all three: whatever one of them does on the wire, the next one has to be understood beside it.
        pub(super) const MIXED: &[Scenario] = &[$(
            mixed("grpcio > grpc-js > grpc-go", $name, $about, |stage| $play(stage, $name, PY_NODE_GO)),
            mixed("grpc-go > grpcio > grpc-js", $name, $about, |stage| $play(stage, $name, GO_PY_NODE)),
        )*];
    };
}

mixed! {
    "healthy", "everything done right, under load, over a hop of another implementation", chain;
    "chain", "calls over a hop of another implementation, of which is known what belongs to what", links;
    "deadline_reset", "a hop of another implementation that sets the deadline anew", hops;
    "deadline_dropped", "a hop of another implementation that does not hand the deadline on", hops;
    "ignores_cancellation", "a handler of another implementation that goes on calling when its caller has gone", hops;
}

/// Hops between a caller of grpcio, with a connection for each call, and a callee of grpcio.
pub(super) const APART_HOPS: &[Scenario] = &[
    mixed("h2, blocking", CHAIN, "calls over a hop that has a thread for each of them", linked_by_threads),
    mixed("grpcio, apart", CHAIN, OVER_CONNECTIONS, |stage| linked_apart(stage, Language::Python)),
    mixed("grpc-js, apart", CHAIN, OVER_CONNECTIONS, |stage| linked_apart(stage, Language::Node)),
    mixed("grpc-go, apart", CHAIN, OVER_CONNECTIONS, |stage| linked_apart(stage, Language::Go)),
];
const OVER_CONNECTIONS: &str = "calls over a hop that has a connection for each of them";

const fn mixed(
    implementation: &'static str,
    name: &'static str,
    about: &'static str,
    play: fn(&Stage) -> Result<()>,
) -> Scenario {
    Scenario { name, implementation, about, thresholds: "", in_tests: false, play }
}

/// A caller and a callee.
fn pair(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    pair_of(stage, scenario, language, language)
}

fn pair_of(stage: &Stage, scenario: &str, caller: Language, callee: Language) -> Result<()> {
    let callee = serve(stage, "callee", callee, scenario, &[])?;
    let caller = call(stage, caller, scenario, &["--next", callee.address()?])?;
    caller.ends()?;
    callee.finish()
}

/// A caller with open streams, whose callee is killed.
fn dies(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    let callee = serve(stage, "callee", language, scenario, &[])?;
    let mut caller = call(stage, language, scenario, &["--next", callee.address()?])?;
    caller.wait_for(|said| said["open"] == true)?;
    callee.kill()?;
    caller.ends()
}

/// Two callers that know the same three callees; one of them uses one only.
fn pinned(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    let names = ["callee-1", "callee-2", "callee-3"];
    let callees: Vec<Process> =
        names.into_iter().map(|name| serve(stage, name, language, scenario, &[])).collect::<Result<_>>()?;
    let addresses: Vec<&str> = callees.iter().map(Process::address).collect::<Result<_>>()?;
    // Longer than the window, and more calls in it than a verdict needs.
    let next = addresses.join(",");
    let load = ["--next", &next, "--seconds", "22", "--rate", "50"];
    let balanced = stage.start("balanced", language.command(stage, "balanced", &load))?;
    let caller = call(stage, language, scenario, &load)?;
    caller.ends()?;
    balanced.ends()?;
    callees.into_iter().try_for_each(Process::finish)
}

/// A caller that takes two callees of a workload in turn, and a third one that is added: somebody connects to it, and calls it once.
fn scale_up(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    let serve = |name: &str| stage.serve_of("backend", name, language.command(stage, scenario, &["--serve"]));
    let (first, second) = (serve("callee-1")?, serve("callee-2")?);
    let both = format!("{},{}", first.address()?, second.address()?);
    let load = ["--next", &both, "--seconds", "30", "--rate", "50"];
    let balanced = stage.start("balanced", language.command(stage, "balanced", &load))?;
    let added = serve("callee-3")?;
    // Silent for longer than the window, while the others are called.
    let late = ["--next", added.address()?, "--callee", "callee-3", "--seconds", "22"];
    let caller = call(stage, language, scenario, &late)?;
    caller.ends()?;
    balanced.ends()?;
    [first, second, added].into_iter().try_for_each(Process::finish)
}

/// Calls a second that a healthy caller aims at, and how many at once at most; the hop makes as many again. What the machine gave
/// of it is in the result.
const HEALTHY_RATE: &str = "1000";
const HEALTHY_AT_ONCE: &str = "32";

/// A caller, a hop, and two callees that get their calls in turn.
fn healthy(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    chain(stage, scenario, [language; 3])
}

fn chain(stage: &Stage, _: &str, [caller, middle, callee]: [Language; 3]) -> Result<()> {
    let first = serve(stage, "callee-1", callee, HEALTHY, &[])?;
    let second = serve(stage, "callee-2", callee, HEALTHY, &[])?;
    let both = format!("{},{}", first.address()?, second.address()?);
    let middle = serve(stage, "middle", middle, HEALTHY, &["--next", &both])?;
    let seconds = stage.seconds();
    let load = ["--seconds", &seconds.to_string(), "--rate", HEALTHY_RATE, "--concurrency", HEALTHY_AT_ONCE];
    let mut caller = call(stage, caller, HEALTHY, &[&["--next", middle.address()?], &load[..]].concat())?;
    caller.wait_within(Duration::from_secs_f64(seconds), |said| said["done"] == true)?;
    caller.ends()?;
    middle.finish()?;
    first.finish()?;
    second.finish()
}

/// A caller, a hop that does something wrong, and a callee.
fn hop(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    hops(stage, scenario, [language; 3])
}

fn hops(stage: &Stage, scenario: &str, [caller, middle, callee]: [Language; 3]) -> Result<()> {
    let callee = serve(stage, "callee", callee, scenario, &[])?;
    let middle = serve(stage, MIDDLE, middle, scenario, &["--next", callee.address()?])?;
    call(stage, caller, scenario, &["--next", middle.address()?, "--callee", MIDDLE])?.ends()?;
    middle.finish()?;
    callee.finish()
}

/// The same without a traceparent.
fn untraced(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    let callee = serve(stage, "callee", language, scenario, &[])?;
    let middle = serve(stage, MIDDLE, language, scenario, &["--next", callee.address()?])?;
    let arguments = ["--next", middle.address()?, "--callee", MIDDLE, "--no-trace"];
    call(stage, language, scenario, &arguments)?.ends()?;
    middle.finish()?;
    callee.finish()
}

/// The same chain under each load, with processes of its own for each.
fn linked(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    links(stage, scenario, [language; 3])
}

fn links(stage: &Stage, _: &str, [caller, middle, callee]: [Language; 3]) -> Result<()> {
    linked_by(stage, [caller, callee], &[], |next| middle.command(stage, CHAIN, &["--serve", "--next", next]))
}

/// The same with a connection for each call in flight, over a hop that has a thread for each connection.
fn linked_by_threads(stage: &Stage) -> Result<()> {
    linked_by(stage, [Language::Python; 2], APART, peers::blocking)
}

/// The same over a hop whose threads are shared.
fn linked_apart(stage: &Stage, middle: Language) -> Result<()> {
    linked_by(stage, [Language::Python; 2], APART, |next| {
        middle.command(stage, CHAIN, &["--serve", "--next", next])
    })
}

/// The caller makes a connection for each call that is in flight.
const APART: &[&str] = &["--apart"];

fn linked_by(
    stage: &Stage,
    [caller, callee]: [Language; 2],
    how: &[&str],
    middle: impl Fn(&str) -> Command,
) -> Result<()> {
    for load in Load::all() {
        let (calls, in_flight) = (CALLS.to_string(), load.in_flight.to_string());
        let methods = METHODS.to_string();
        let callee = serve(stage, &load.name("callee"), callee, CHAIN, &[])?;
        let middle = stage.serve_as(&load.name(MIDDLE), middle(callee.address()?))?;
        let mut arguments = vec!["--next", middle.address()?, "--calls", &calls, "--concurrency", &in_flight];
        arguments.extend(how);
        if !load.traceparent {
            arguments.extend(["--no-trace", "--methods", &methods]);
        }
        stage.start(&load.name("caller"), caller.command(stage, CHAIN, &arguments))?.ends()?;
        middle.finish()?;
        callee.finish()?;
    }
    Ok(())
}

pub(super) fn serve(
    stage: &Stage,
    name: &str,
    language: Language,
    scenario: &str,
    arguments: &[&str],
) -> Result<Process> {
    stage.serve_as(name, language.command(stage, scenario, &[&["--serve"], arguments].concat()))
}

pub(super) fn call(stage: &Stage, language: Language, scenario: &str, arguments: &[&str]) -> Result<Process> {
    stage.start("caller", language.command(stage, scenario, arguments))
}
