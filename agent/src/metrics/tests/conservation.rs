//! Started is ended and in flight, and no counter goes back, whatever happens.

use super::*;

#[test]
fn a_connection_that_is_dropped_gives_up_its_calls() {
    let metrics = metrics();
    let mut connection = metrics.connection(&workload("cart"));
    connection.call_started(&started(1, Flow::Sent, "/a/b"));
    connection.call_started(&started(3, Flow::Sent, "/a/b"));
    connection.call_started(&started(3, Flow::Sent, "/a/b"));
    drop(connection);
    let exported = exported(&metrics);
    assert_eq!(exported.sum("grpcscope_calls_in_flight", &[]), 0.0);
    assert_eq!(
        exported.sum("grpcscope_calls_ended_total", &[("outcome", "evicted"), ("start", "seen")]),
        3.0
    );
}

fn assert_conserved(exported: &Exposition) {
    for (side, name) in
        [("server", "grpc_server_call_started_total"), ("client", "grpc_client_attempt_started_total")]
    {
        let side = ("side", side);
        let ended = exported.sum("grpcscope_calls_ended_total", &[side, ("start", "seen")]);
        let in_flight = exported.sum("grpcscope_calls_in_flight", &[side]);
        assert_eq!(exported.sum(name, &[]), ended + in_flight, "{side:?}");
    }
}

#[test]
fn m3_started_is_ended_and_in_flight_at_every_scrape() {
    let limits = SeriesLimits { methods_per_workload_max: 3, series_max: 9_000, ..SeriesLimits::default() };
    let metrics = Metrics::new(limits);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3u32)
            .map(|worker| {
                let metrics = &metrics;
                scope.spawn(move || {
                    for round in 0..60u32 {
                        let workload = workload(&format!("service-{}", (worker + round) % 40));
                        let mut connection = metrics.connection(&workload);
                        let flow = if round % 2 == 0 { Flow::Sent } else { Flow::Received };
                        for stream in 0..20 {
                            let method = format!("/a.B/M{}", stream % 7);
                            connection.call_started(&started(stream, flow, &method));
                            if stream >= 3 {
                                let call = ended(stream - 3, flow, &method);
                                let status = Some((stream + round) % 18);
                                connection.call_ended(&Call { status, outcome: Outcome::Error, ..call });
                            }
                        }
                    }
                })
            })
            .collect();
        let scraper = scope.spawn(|| {
            let mut scrapes = 0;
            while !done.load(Ordering::Relaxed) || scrapes == 0 {
                let text = encoded(&metrics, Format::Text);
                assert_conserved(&read(&text, Dialect::Text).expect("strict 0.0.4"));
                scrapes += 1;
            }
        });
        for worker in workers {
            worker.join().expect("no worker panics");
        }
        done.store(true, Ordering::Relaxed);
        scraper.join().expect("every scrape is conserved");
    });
    let exported = exported(&metrics);
    assert_conserved(&exported);
    let started = exported.sum("grpc_server_call_started_total", &[])
        + exported.sum("grpc_client_attempt_started_total", &[]);
    assert_eq!(started, 3.0 * 60.0 * 20.0);
    assert_eq!(exported.sum("grpcscope_calls_in_flight", &[]), 0.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn started_is_ended_and_in_flight_after_any_sequence(
        steps in prop::collection::vec((0..6u8, 0..8u32, 0..5u8, 0..20u32), 0..40),
    ) {
        let limits = SeriesLimits { methods_per_workload_max: 2, ..SeriesLimits::default() };
        let Clockwork { metrics, milliseconds } = clockwork(limits);
        let workloads = [workload("a"), workload("b")];
        let mut connections: Vec<_> = workloads.iter().map(|workload| metrics.connection(workload)).collect();
        for (step, stream, method, status) in steps {
            let at = usize::from(method % 2);
            let method = format!("/a.B/M{method}");
            let flow = if stream % 2 == 0 { Flow::Sent } else { Flow::Received };
            match step {
                0 | 1 => connections[at].call_started(&started(stream, flow, &method)),
                2 => connections[at].call_ended(&Call { status: Some(status), ..ended(stream, flow, &method) }),
                3 => connections[at].call_ended(&Call { outcome: Outcome::Open, ..ended(stream, flow, &method) }),
                4 => connections[at] = metrics.connection(&workloads[at]),
                _ => drop(milliseconds.fetch_add(100_000, Ordering::Relaxed)),
            }
            let text = encoded(&metrics, Format::Text);
            let exported = read(&text, Dialect::Text).expect("strict 0.0.4");
            for (side, name) in
                [("server", "grpc_server_call_started_total"), ("client", "grpc_client_attempt_started_total")]
            {
                let ended = exported.sum("grpcscope_calls_ended_total", &[("side", side), ("start", "seen")]);
                let in_flight = exported.sum("grpcscope_calls_in_flight", &[("side", side)]);
                prop_assert_eq!(exported.sum(name, &[]), ended + in_flight);
            }
        }
    }
}

/// Whether a sample only grows.
fn is_cumulative(name: &str) -> bool {
    ["_total", "_count", "_sum", "_bucket"].iter().any(|suffix| name.ends_with(suffix))
        && !name.starts_with("process_")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn t17_t18_whatever_the_times_and_amounts_no_counter_goes_back_and_no_sum_is_odd(
        calls in prop::collection::vec((any::<[u64; 3]>(), any::<[u64; 4]>(), any::<bool>(), 0..20u32), 1..12),
    ) {
        let metrics = metrics();
        let mut connection = metrics.connection(&workload("cart"));
        let mut before: BTreeMap<_, f64> = BTreeMap::new();
        for (stream, (times, amounts, server, code)) in (1u32..).zip(calls) {
            let flow = if server { Flow::Received } else { Flow::Sent };
            let [began, first, over] = times.map(Timestamp);
            let messages = |at: usize| Messages { count: amounts[at], bytes: amounts[at + 1], exact: true };
            let timeout = Timeout::Ns(amounts[0]);
            connection.call_started(&CallStarted { time: began, timeout, ..started(stream, flow, "/a.B/C") });
            connection.call_ended(&Call {
                started: Some(began),
                first_seen: first,
                first_response: Some(first),
                ended: Some(over),
                timeout,
                status: Some(code),
                request: messages(0),
                response: messages(2),
                ..ended(stream, flow, "/a.B/C")
            });
            let now = exported(&metrics);
            for ((name, labels), value) in now.samples.iter().filter(|((name, _), _)| is_cumulative(name)) {
                prop_assert!(value.is_finite() && *value >= 0.0, "{} {:?}: {}", name, labels, value);
                let earlier = before.insert((name.clone(), labels.clone()), *value).unwrap_or(0.0);
                prop_assert!(*value >= earlier, "{} {:?} went from {} to {}", name, labels, earlier, value);
            }
        }
    }
}
