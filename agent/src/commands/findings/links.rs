//! What each outbound call belongs to, a line each: `grpcscope findings --live --links`.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::sync::Arc;

use agent_core::detectors::correlation::Correlated;
use agent_core::observation::CallStarted;
use agent_core::{ConnectionId, Flow};
use foldhash::HashMap;
use serde::Serialize;

use crate::findings::seconds_of;
use crate::metrics::Method;
use crate::output::escape::Escaped;
use crate::output::{json, units};

/// Inbound calls whose methods are remembered, the latest: many times what a node has open.
const INBOUND_CALLS: usize = 65_536;

type Key = (ConnectionId, u32);

/// Names inbound calls by what was seen of them, and counts what is said of outbound ones.
#[derive(Debug)]
pub(super) struct Links {
    methods: HashMap<Key, Arc<str>>,
    /// The same calls, oldest first.
    order: VecDeque<Key>,
    bound: usize,
    /// Outbound calls by evidence.
    counts: BTreeMap<&'static str, u64>,
    /// Links to an inbound call whose method is not known, or not any more.
    unnamed: u64,
}

/// A call of a link.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Call {
    connection: u64,
    stream: u32,
    rpc_method: Option<String>,
}

/// An outbound call and what it belongs to.
#[derive(Debug, Serialize)]
pub(super) struct Link {
    r#type: &'static str,
    /// When the outbound call began, in seconds since the epoch.
    time: f64,
    evidence: &'static str,
    service_name: String,
    pid: u32,
    outbound: Call,
    inbound: Option<Call>,
    propagation: Option<&'static str>,
}

impl Links {
    pub(super) fn new() -> Self {
        Links::bounded(INBOUND_CALLS)
    }

    fn bounded(bound: usize) -> Self {
        Links {
            methods: HashMap::default(),
            order: VecDeque::new(),
            bound,
            counts: BTreeMap::new(),
            unnamed: 0,
        }
    }

    /// Remembers the method of an inbound call, longer than the call is open: its handler may go on calling when it was
    /// given up.
    pub(super) fn handle_call(&mut self, call: &CallStarted) {
        let (Flow::Received, Some(method)) = (call.client_flow, &call.method) else { return };
        let key = (call.connection, call.stream);
        if self.methods.insert(key, method.clone()).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.bound
            && let Some(oldest) = self.order.pop_front()
        {
            self.methods.remove(&oldest);
        }
    }

    /// What was found out about an outbound call of a process.
    pub(super) fn link(
        &mut self,
        service_name: &str,
        pid: u32,
        call: &CallStarted,
        correlated: &Correlated,
        unix_offset_ns: i64,
    ) -> Link {
        let evidence = correlated.correlation.as_str();
        *self.counts.entry(evidence).or_default() += 1;
        let inbound = correlated.inbound.map(|key| call_of(key, self.methods.get(&key)));
        self.unnamed += u64::from(inbound.as_ref().is_some_and(|inbound| inbound.rpc_method.is_none()));
        Link {
            r#type: "link",
            time: seconds_of(correlated.time, unix_offset_ns),
            evidence,
            service_name: service_name.to_owned(),
            pid,
            outbound: call_of((correlated.connection, correlated.stream), call.method.as_ref()),
            inbound,
            propagation: correlated.propagation.map(|propagation| propagation.as_str()),
        }
    }

    /// For the summary.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "by_evidence": self.counts, "unnamed": self.unnamed })
    }

    /// The same for people.
    pub(super) fn write_counts(&self, out: &mut impl Write) -> io::Result<()> {
        for (evidence, count) in &self.counts {
            writeln!(out, "{count} outbound calls: {evidence}")?;
        }
        if self.unnamed > 0 {
            writeln!(out, "{} inbound calls without a name", self.unnamed)?;
        }
        Ok(())
    }
}

impl Link {
    pub(super) fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        json::write_line(out, self)
    }

    pub(super) fn write_line(&self, out: &mut impl Write) -> io::Result<()> {
        // As in the lines of findings: what does not fit becomes the nearest that does.
        let time = units::time_of_day((self.time * 1e9) as u64, 3);
        let (service, evidence) = (Escaped(&self.service_name).to_string(), self.evidence);
        let outbound = self.outbound.name();
        write!(out, "{time}  {service:20}  {:24}  {outbound} ", "link")?;
        match &self.inbound {
            Some(inbound) => write!(out, "belongs to {} by {evidence}", inbound.name())?,
            None => write!(out, "belongs to no known call: {evidence}")?,
        }
        match self.propagation {
            Some(propagation) => writeln!(out, ", deadline {propagation}"),
            None => writeln!(out),
        }
    }
}

impl Call {
    fn name(&self) -> String {
        let method = self.rpc_method.as_deref().unwrap_or("?");
        format!("{} ({} stream {})", Escaped(method), self.connection, self.stream)
    }
}

fn call_of((connection, stream): Key, method: Option<&Arc<str>>) -> Call {
    Call {
        connection: connection.0,
        stream,
        rpc_method: method.map(|method| Method::of(Some(method)).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use agent_core::Timestamp;
    use agent_core::detectors::correlation::{Correlation, Evidence};
    use agent_core::observation::{Timeout, Traces};

    use super::*;

    fn started(connection: u64, stream: u32, client_flow: Flow, method: &str) -> CallStarted {
        CallStarted {
            connection: ConnectionId(connection),
            stream,
            client_flow,
            method: Some(Arc::from(method)),
            timeout: Timeout::Absent,
            previous_attempts: None,
            traces: Traces::default(),
            thread: 0,
            time: Timestamp(0),
        }
    }

    fn correlated(correlation: Correlation, inbound: Option<(u64, u32)>) -> Correlated {
        Correlated {
            connection: ConnectionId(9),
            stream: 5,
            time: Timestamp(2_000_000_000),
            correlation,
            inbound: inbound.map(|(connection, stream)| (ConnectionId(connection), stream)),
            propagation: None,
        }
    }

    fn json(links: &mut Links, correlated: &Correlated) -> serde_json::Value {
        let outbound = started(9, 5, Flow::Sent, "/shop.Stock/Get");
        let link = links.link("shop", 7, &outbound, correlated, 0);
        serde_json::to_value(link).expect("it is JSON")
    }

    #[test]
    fn a_link_names_both_calls_and_its_evidence() {
        let mut links = Links::new();
        links.handle_call(&started(1, 3, Flow::Received, "/shop.Front/Buy"));
        let link = json(&mut links, &correlated(Correlation::Linked(Evidence::Trace), Some((1, 3))));
        assert_eq!(
            link,
            serde_json::json!({
                "type": "link", "time": 2.0, "evidence": "trace", "service_name": "shop", "pid": 7,
                "outbound": {"connection": 9, "stream": 5, "rpc_method": "shop.Stock/Get"},
                "inbound": {"connection": 1, "stream": 3, "rpc_method": "shop.Front/Buy"},
                "propagation": null
            })
        );
        assert_eq!(
            json(&mut links, &correlated(Correlation::Ambiguous, None))["inbound"],
            serde_json::Value::Null
        );
        assert_eq!(
            links.json(),
            serde_json::json!({"by_evidence": {"ambiguous": 1, "trace": 1}, "unnamed": 0})
        );
    }

    #[test]
    fn the_oldest_inbound_call_loses_its_name_first_and_that_is_counted() {
        let mut links = Links::bounded(2);
        for stream in [1, 3, 5] {
            links.handle_call(&started(1, stream, Flow::Received, "/shop.Front/Buy"));
        }
        // Calls that a process makes are nobody's inbound ones.
        links.handle_call(&started(1, 7, Flow::Sent, "/shop.Front/Buy"));
        let mut name = |stream| {
            let sole = correlated(Correlation::Linked(Evidence::Sole), Some((1, stream)));
            json(&mut links, &sole)["inbound"]["rpc_method"].clone()
        };
        assert_eq!((name(1), name(7)), (serde_json::Value::Null, serde_json::Value::Null));
        assert_eq!((name(3), name(5)), ("shop.Front/Buy".into(), "shop.Front/Buy".into()));
        assert_eq!((links.unnamed, links.methods.len()), (2, 2));
    }
}
