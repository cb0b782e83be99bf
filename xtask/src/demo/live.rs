//! The demo on this machine's kernel: the agent and an observer watch, the shop works, nobody tells the one of the
//! other.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::compare::Call;
use super::table::Table;
use super::{Args, Run};
use crate::child::{Running, while_we_live};
use crate::programs::Programs;
use crate::repo;

/// How long the programs may take to attach: the verifier needs seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the last events may take to come through.
const TAIL: Duration = Duration::from_secs(5);

/// What the observer says, line by line.
enum Said {
    Ready,
    Call(Box<Call>),
    Lost(u64),
    NotUnderstood(String),
    SomethingElse,
    NothingMore,
}

pub(super) fn watch(args: &Args, programs: &Programs) -> Result<Run> {
    let folder = repo::cache().join("runs/demo");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let address = free_port()?;
    eprintln!("demo: starting the agent");
    let mut agent = Running::start(
        "`grpcscope run`",
        Command::new(&programs.grpcscope)
            .args(["run", "--listen", &address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null()),
        folder.join("agent.log"),
    )?;
    let mut observer = Running::start(
        "`grpcscope calls`",
        Command::new(&programs.grpcscope)
            .args(["calls", "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped()),
        folder.join("calls.log"),
    )?;
    let (say, said) = mpsc::channel();
    observer.read_lines(move |line| {
        // The receiver is gone only after an error elsewhere.
        let _ = say.send(line.map_or(Said::NothingMore, |line| understand(&line)));
    })?;
    wait_until_ready(&mut agent, &mut observer, address, &said)?;

    let mut seen = Vec::new();
    let mut shop = Running::start(
        "the shop",
        while_we_live(
            Command::new(&programs.demo)
                .args([
                    "all",
                    "--seconds",
                    &args.seconds.to_string(),
                    "--rate",
                    &args.rate.to_string(),
                    "--truth",
                ])
                .arg(&folder),
        ),
        folder.join("shop.log"),
    )?;
    let (start, started) = mpsc::channel();
    shop.read_lines(move |line| {
        let pid = line.and_then(|line| serde_json::from_str::<Value>(&line).ok()?["pid"].as_u64());
        let _ = pid.map(|pid| start.send(pid));
    })?;
    let mut table = Table::new();
    let mut pids = BTreeSet::new();
    let mut shown = Instant::now();
    let began = Instant::now();
    while !shop.has_ended()? {
        pids.extend(started.try_iter());
        agent.must_run()?;
        observer.must_run()?;
        receive(&said, Duration::from_millis(100), &mut seen, |call| {
            if pids.contains(&call.pid()) {
                table.take(call);
            }
        })?;
        if shown.elapsed() > Duration::from_secs(1) {
            shown = Instant::now();
            let seconds = began.elapsed().as_secs();
            table.repaint(&format!(
                "{seconds} s. CALLS: seen on the client's / on the server's side. Metrics: http://{address}/metrics"
            ));
        }
    }

    let made = truth(&folder)?;
    let pids: BTreeSet<u64> = made.iter().map(Call::pid).collect();
    let is_of_the_shop = |call: &Call| pids.contains(&call.pid());
    let deadline = Instant::now() + TAIL;
    while seen.iter().filter(|call| is_of_the_shop(call)).count() < made.len() && Instant::now() < deadline {
        receive(&said, Duration::from_millis(100), &mut seen, |_| {})?;
    }
    observer.terminate()?;
    let lost = the_rest(&said, &mut seen)?;
    let metrics = scrape(address, "/metrics")?;
    let findings = findings(&scrape(address, "/api/v1/findings")?, &pids)?;
    agent.terminate()?;
    if !metrics.contains("rpc_server_call_duration_seconds_count{") {
        bail!("http://{address}/metrics has no rpc_server_call_duration_seconds_count");
    }
    seen.retain(is_of_the_shop);
    let farewell = format!(
        "{findings}\n\n\
         Where to look next, on a system of your own:\n  \
         {0} run                 then http://localhost:9464/metrics\n  \
         {0} calls --errors      a line for each call that fails\n  \
         {0} findings            what is wrong, and `{0} explain` what to do about it\n  \
         {0} replay FILE.pcap    the same from a packet capture\n  \
         dashboards/overview.json   for Grafana; deploy/daemonset.yaml for Kubernetes",
        programs.grpcscope.display()
    );
    Ok(Run { made, seen, lost, source: "live", farewell })
}

fn understand(line: &str) -> Said {
    let not_understood = || Said::NotUnderstood(line.to_owned());
    let Ok(said) = serde_json::from_str::<Value>(line) else { return not_understood() };
    match said["type"].as_str() {
        Some("call") => {
            Call::of_observer(&said).map_or_else(|_| not_understood(), |call| Said::Call(Box::new(call)))
        }
        Some("ready") => Said::Ready,
        Some("summary") => said["lost"].as_u64().map_or_else(not_understood, Said::Lost),
        // Connections and whatever later versions say.
        Some(_) | None => Said::SomethingElse,
    }
}

fn wait_until_ready(
    agent: &mut Running,
    observer: &mut Running,
    address: SocketAddr,
    said: &Receiver<Said>,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut observer_is_ready = false;
    let mut agent_is_ready = false;
    while !(observer_is_ready && agent_is_ready) {
        if Instant::now() > deadline {
            bail!("the agent is not ready after {PATIENCE:?}");
        }
        agent.must_run()?;
        observer.must_run()?;
        observer_is_ready |= said.try_iter().any(|said| matches!(said, Said::Ready));
        agent_is_ready = agent_is_ready || scrape(address, "/readyz").is_ok();
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Takes what the observer says until it is silent for `wait`.
fn receive(
    said: &Receiver<Said>,
    wait: Duration,
    seen: &mut Vec<Call>,
    mut on_call: impl FnMut(&Call),
) -> Result<()> {
    let until = Instant::now() + wait;
    loop {
        match said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Said::Call(call)) => {
                on_call(&call);
                seen.push(*call);
            }
            Ok(Said::NotUnderstood(line)) => bail!("`grpcscope calls` says {line:?}"),
            Ok(Said::Ready | Said::Lost(_) | Said::SomethingElse | Said::NothingMore) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Takes what the observer says until its end, and returns what it lost.
fn the_rest(said: &Receiver<Said>, seen: &mut Vec<Call>) -> Result<u64> {
    let mut lost = None;
    loop {
        match said.recv().context("`grpcscope calls` was cut off")? {
            Said::Call(call) => seen.push(*call),
            Said::Lost(count) => lost = Some(count),
            Said::Ready | Said::SomethingElse => {}
            Said::NotUnderstood(line) => bail!("`grpcscope calls` says {line:?}"),
            Said::NothingMore => return lost.context("`grpcscope calls` did not say what it lost"),
        }
    }
}

/// What the agent found wrong in the shop, a line each: the answer of `/api/v1/findings`, added up over its processes.
fn findings(answer: &str, pids: &BTreeSet<u64>) -> Result<String> {
    let context = || format!("`/api/v1/findings` answers {answer:?}");
    let (_, body) = answer.split_once("\r\n\r\n").with_context(context)?;
    let body: Value = serde_json::from_str(body).with_context(context)?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for finding in body["findings"].as_array().with_context(context)? {
        let is_of_the_shop = finding["pid"].as_u64().is_some_and(|pid| pids.contains(&pid));
        if is_of_the_shop && finding["verdict"] == "firing" {
            let text = |name: &str| finding[name].as_str().unwrap_or_default();
            let words = format!("{:<26} {:<12} {}", text("finding"), text("cause"), text("service_name"));
            *counts.entry(words).or_default() += finding["count"].as_u64().unwrap_or(0);
        }
    }
    let lines = counts.iter().map(|(words, count)| format!("\n  {count:>5} × {words}"));
    Ok(match counts.is_empty() {
        true => "Nothing wrong was found in the shop.".to_owned(),
        false => format!("What was found wrong in the shop:{}", lines.collect::<String>()),
    })
}

/// What the services wrote down.
fn truth(folder: &Path) -> Result<Vec<Call>> {
    let mut made = Vec::new();
    for service in ["load", "storefront", "orders", "inventory", "payments"] {
        let path = folder.join(format!("{service}.jsonl"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        // Between calls stand the findings that they provoke.
        for line in text.lines().filter(|line| !line.contains("\"finding\":")) {
            made.push(Call::of_truth(line)?);
        }
    }
    Ok(made)
}

/// A port that nobody listens on now.
fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}

/// Gets a page of the agent.
fn scrape(address: SocketAddr, path: &str) -> Result<String> {
    let context = || format!("get http://{address}{path}");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).with_context(context)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).with_context(context)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(context)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(context)?;
    if !answer.starts_with("HTTP/1.1 200 ") {
        bail!("http://{address}{path} answers {:?}", answer.lines().next().unwrap_or_default());
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_added_up_over_methods_and_only_those_of_the_shop_count() {
        let finding = |pid: u64, verdict: &str, count: u64| {
            serde_json::json!({
                "finding": "deadline_missing", "cause": "absent", "service_name": "load", "pid": pid,
                "verdict": verdict, "count": count,
            })
        };
        let body = serde_json::json!({"findings": [
            finding(7, "firing", 2), finding(7, "firing", 3), finding(8, "firing", 1), finding(7, "undecided", 1),
        ]});
        let said =
            findings(&format!("HTTP/1.1 200 OK\r\n\r\n{body}"), &BTreeSet::from([7])).expect("an answer");
        let words: Vec<&str> = said.lines().nth(1).expect("a line").split_whitespace().collect();
        assert_eq!((said.lines().count(), words), (2, vec!["5", "×", "deadline_missing", "absent", "load"]));
        assert!(findings("HTTP/1.1 200 OK\r\n\r\n{}", &BTreeSet::new()).is_err());
    }
}
