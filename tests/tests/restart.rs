//! The agent is restarted while a connection is open: what refers to headers from before has its names still.
//!
//! Both ends are sockets of the test, so that nothing moves while no agent is there: gRPC's own PINGs would.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tests::agent::{Kernel, Run, sum};
use tests::apps::PATIENCE;
use tests::workspace;

const TEST: &str = "restart";

const METHOD: &str = "restart.test.Orders/Place";

const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

#[test]
fn methods_that_were_named_before_a_restart_are_known_after_it() {
    let Some(kernel) = Kernel::take(TEST) else { return };
    let known = known_after_restart(&kernel, true).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(known, 2.0, "the call is seen at both its ends");
    let known = known_after_restart(&kernel, false).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(known, 0.0, "without what was kept the method cannot be known");
}

/// How often a call is counted under its method that was named before the agent was restarted.
fn known_after_restart(kernel: &Kernel, keep: bool) -> anyhow::Result<f64> {
    let folder = workspace::scratch(&format!("{TEST}/{keep}"))?;
    let state = folder.join("state");
    let start = || {
        let keep = if keep { "true" } else { "false" };
        let settings =
            [("GRPCSCOPE_RESTART_KEEP", keep.as_ref()), ("GRPCSCOPE_RESTART_FILE", state.as_ref())];
        Run::start_with(kernel, &folder, &settings)
    };
    let agent = start()?;
    let mut connection = Connection::new()?;
    connection.call(1, &named())?;
    wait_for(&agent, |series| known(series) == 2.0)?;
    agent.stop()?;
    check_file(&state, keep)?;

    let agent = start()?;
    anyhow::ensure!(!state.exists(), "the file is taken up once");
    let resumed = "grpcscope_flows_resumed_total";
    connection.call(3, &referring())?;
    if keep {
        // Two flows at each end, at least: other processes of the machine count as well.
        wait_for(&agent, |series| sum(series, resumed, &["result=\"taken_up\""]) >= 4.0)?;
    } else {
        let unresolved = ["rpc_method=\"unresolved\""];
        wait_for(&agent, |series| sum(series, "grpcscope_calls_ended_total", &unresolved) >= 2.0)?;
        anyhow::ensure!(sum(&agent.series("")?, resumed, &[]) == 0.0, "nothing was kept");
    }
    wait_for(&agent, |series| sum(series, "grpcscope_calls_ended_total", &[]) >= 2.0)?;
    let series = agent.series("")?;
    agent.stop()?;
    Ok(known(&series))
}

/// A client and a server that speak as much HTTP/2 as it takes.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn new() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        let mut connection = Connection { client, server };
        let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SETTINGS].concat();
        connection.send(true, &preface)?;
        connection.send(false, SETTINGS)?;
        Ok(connection)
    }

    /// One end sends, the other reads.
    fn send(&mut self, client: bool, bytes: &[u8]) -> anyhow::Result<()> {
        let Connection { client: from, server: to } = self;
        let (from, to) = if client { (from, to) } else { (to, from) };
        from.write_all(bytes)?;
        to.read_exact(&mut vec![0; bytes.len()])?;
        Ok(())
    }

    /// A unary call whose request has this header block.
    fn call(&mut self, stream: u8, request: &[u8]) -> anyhow::Result<()> {
        let message = [0, 0, 0, 0, 2, 8, 1];
        self.send(true, &[frame(1, 4, stream, request), frame(0, 1, stream, &message)].concat())?;
        // `:status: 200`, then literals that leave the table as it is.
        let head = [&[0x88], literal(0, "content-type", "application/grpc").as_slice()].concat();
        let trailers = literal(0, "grpc-status", "0");
        let answer =
            [frame(1, 4, stream, &head), frame(0, 0, stream, &message), frame(1, 5, stream, &trailers)];
        self.send(false, &answer.concat())
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

/// A literal field with its name in the block (RFC 7541 §6.2): 0x40 puts it into the table, 0 does not.
fn literal(pattern: u8, name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![pattern, name.len() as u8];
    field.extend(name.as_bytes());
    field.push(value.len() as u8);
    field.extend(value.as_bytes());
    field
}

/// A request that names its method, and puts it into the table.
fn named() -> Vec<u8> {
    // `:method: POST`, `:scheme: http`.
    let mut block = vec![0x83, 0x86];
    block.extend(literal(0x40, ":path", &format!("/{METHOD}")));
    block.extend(literal(0x40, "content-type", "application/grpc"));
    block.extend(literal(0x40, "te", "trailers"));
    block
}

/// The same by reference.
fn referring() -> Vec<u8> {
    vec![0x83, 0x86, 0xc0, 0xbf, 0xbe]
}

fn known(series: &[String]) -> f64 {
    sum(series, "grpcscope_calls_ended_total", &[&format!("rpc_method=\"{METHOD}\"")])
}

fn check_file(state: &Path, keep: bool) -> anyhow::Result<()> {
    anyhow::ensure!(state.exists() == keep, "{} exists: {}", state.display(), !keep);
    if keep {
        let mode = state.metadata()?.mode() & 0o7777;
        anyhow::ensure!(mode == 0o600, "its mode is {mode:o}");
    }
    Ok(())
}

fn wait_for(agent: &Run, is_there: impl Fn(&[String]) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let series = agent.series("")?;
        if is_there(&series) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "it was not counted:\n{}", series.join("\n"));
        std::thread::sleep(Duration::from_millis(100));
    }
}
