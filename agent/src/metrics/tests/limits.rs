//! The limits hold, and what is beyond them is counted; what nothing happens to expires.

use super::*;

#[test]
fn t8_a_million_methods_stay_under_the_limit() {
    let metrics = metrics();
    let mut connection = metrics.connection(&workload("attacked"));
    let total = 1_000_000u32;
    let mut start = started(1, Flow::Received, "");
    let mut end = Call { status: Some(12), ..ended(1, Flow::Received, "") };
    for number in 0..total {
        let method: Arc<str> = format!("/attack.v1.Service/Method{number}").into();
        start.method = Some(Arc::clone(&method));
        end.method = Some(method);
        connection.call_started(&start);
        connection.call_ended(&end);
    }
    let text = encoded(&metrics, Format::Text);
    assert!(text.len() <= 5_000_000, "{} bytes", text.len());
    let exported = exported(&metrics);
    let limits = SeriesLimits::default();
    assert!(exported.sum("grpcscope_series", &[]) <= limits.series_max as f64);
    let methods = exported.values("grpc_server_call_started_total", "grpc_method");
    assert_eq!(methods.len(), limits.methods_per_workload_max + 1);
    assert!(methods.contains("_OTHER"));
    assert_eq!(exported.sum("grpc_server_call_started_total", &[]), f64::from(total));
    assert_eq!(exported.sum("grpcscope_calls_ended_total", &[]), f64::from(total));
    assert_eq!(exported.sum("grpcscope_calls_in_flight", &[]), 0.0);
    assert!(exported.sum("grpcscope_series_dropped_total", &[("limit", "methods")]) > 0.0);
}

#[test]
fn many_workloads_with_every_status_stay_under_the_limit() {
    let metrics = metrics();
    let mut calls = 0;
    for number in 0..400 {
        let mut connection = metrics.connection(&workload(&format!("service-{number}")));
        connection.status(&status(Some(Flow::Received), Sync::Synced));
        for (stream, code) in (0..17).enumerate() {
            for method in ["/a.B/C", "/a.B/D"] {
                connection.call_started(&started(stream as u32, Flow::Received, method));
                let call = ended(stream as u32, Flow::Received, method);
                connection.call_ended(&Call { status: Some(code), outcome: Outcome::Error, ..call });
                calls += 1;
            }
        }
    }
    let exported = exported(&metrics);
    let limit = SeriesLimits::default().series_max;
    let counted = exported.sum("grpcscope_series", &[]);
    assert!(counted <= limit as f64, "{counted}");
    // The gauge says what is really there: everything but what the agent says about itself.
    let about_itself = |name: &str| name.starts_with("process_") || AGENT.contains(&name);
    let there = exported.samples.keys().filter(|(name, _)| !about_itself(name)).count();
    assert_eq!(counted, there as f64);
    assert_eq!(exported.sum("grpc_server_call_started_total", &[]), f64::from(calls));
    assert_eq!(exported.sum("rpc_server_call_duration_seconds_count", &[]), f64::from(calls));
    assert!(exported.sum("grpc_server_call_started_total", &[("service_name", "_OTHER")]) > 0.0);
    assert!(encoded(&metrics, Format::Text).len() <= 6_000_000);
}

const AGENT: [&str; 24] = [
    "grpcscope_data_left_out_bytes_total",
    "grpcscope_data_left_out_frames_total",
    "grpcscope_over_budget",
    "grpcscope_over_budget_times_total",
    "grpcscope_over_budget_seconds_total",
    "grpcscope_connections_left_out_total",
    "grpcscope_flows_resumed_total",
    "grpcscope_balance_refused_total",
    "grpcscope_findings_forgotten_total",
    "grpcscope_findings_unjudged_total",
    "grpcscope_build_info",
    "grpcscope_kernel_events_produced_total",
    "grpcscope_kernel_events_received_total",
    "grpcscope_state_bytes",
    "grpcscope_state_limit_bytes",
    "grpcscope_series",
    "grpcscope_series_limit",
    "grpcscope_series_dropped_total",
    "grpcscope_series_expired_total",
    "grpcscope_scrape_duration_seconds",
    "grpcscope_scrapes_total",
    "grpcscope_anomalies_total",
    "grpcscope_backend_info",
    "grpcscope_reader_lag_seconds",
];

fn missing_deadline(metrics: &Metrics, workload: &str, method: &str) -> FindingSeries {
    let of_calls = (Some(Side::Client), Some(Method::of(Some(&Arc::from(method)))));
    let what = (Name::DeadlineMissing, Some("absent"));
    metrics.findings(Workload::new(workload), of_calls, Verdict::Firing, what, None)
}

#[test]
fn findings_of_more_methods_than_there_is_room_for_are_counted_under_other() {
    let metrics = metrics();
    for number in 0..5_000 {
        missing_deadline(&metrics, "attacked", &format!("/a.B/C{number}")).count();
    }
    for number in 0..30_000 {
        missing_deadline(&metrics, &format!("service-{number}"), "/a.B/C").count();
    }
    let exported = exported(&metrics);
    assert_eq!(exported.sum("grpcscope_findings_total", &[]), 35_000.0);
    assert!(exported.sum("grpcscope_series", &[]) <= SeriesLimits::default().series_max as f64);
    let of_others = exported.sum("grpcscope_findings_total", &[("service_name", "_OTHER")]);
    assert!(of_others > 0.0);
    // What nobody knows beforehand how many of there are is left out where room was set aside.
    assert_eq!(
        exported.sum("grpcscope_findings_total", &[("service_name", "_OTHER"), ("cause", "absent")]),
        0.0
    );
}

#[test]
fn a_method_whose_calls_have_a_name_has_it_where_findings_are_counted() {
    let limits = SeriesLimits { methods_per_workload_max: 1, ..SeriesLimits::default() };
    let metrics = Metrics::new(limits);
    let mut connection = metrics.connection(&workload("shop"));
    connection.call_started(&started(1, Flow::Sent, "/a.B/Known"));
    connection.call_started(&started(3, Flow::Sent, "/a.B/Beyond"));
    missing_deadline(&metrics, "shop", "/a.B/Known").count();
    missing_deadline(&metrics, "shop", "/a.B/Beyond").count();
    let methods = exported(&metrics).values("grpcscope_findings_total", "rpc_method");
    assert_eq!(methods, BTreeSet::from(["a.B/Known".to_owned(), "_OTHER".to_owned()]));
}

#[test]
fn what_lasts_is_a_gauge_that_goes_back_even_where_it_is_counted_with_others() {
    let metrics = metrics();
    let firing = |metrics: &Metrics| exported(metrics).sum("grpcscope_findings_firing", &[]);
    let mut holding = Vec::new();
    for number in 0..30_000 {
        holding.push(missing_deadline(&metrics, &format!("service-{number}"), "/a.B/C").begin());
    }
    assert_eq!(firing(&metrics), 30_000.0);
    holding.truncate(7);
    assert_eq!(firing(&metrics), 7.0);
    holding.clear();
    assert_eq!(firing(&metrics), 0.0);
    assert_eq!(exported(&metrics).sum("grpcscope_findings_total", &[]), 30_000.0);
}

#[test]
fn series_expire_when_nothing_happens_to_them() {
    let Clockwork { metrics, milliseconds } = clockwork(SeriesLimits::default());
    let mut connection = metrics.connection(&workload("cart"));
    let one_call = |connection: &mut ConnectionSeries| {
        connection.call_started(&started(1, Flow::Received, "/a/b"));
        connection.call_ended(&ended(1, Flow::Received, "/a/b"));
    };
    one_call(&mut connection);
    one_call(&mut connection);
    milliseconds.store(299_999, Ordering::Relaxed);
    assert_eq!(exported(&metrics).sum("grpc_server_call_started_total", &[]), 2.0);
    milliseconds.store(300_000, Ordering::Relaxed);
    let gone = exported(&metrics);
    assert!(!gone.families.contains_key("grpc_server_call_started_total"));
    assert_eq!(
        (gone.sum("grpcscope_series", &[]), gone.sum("grpcscope_series_expired_total", &[]) > 50.0),
        (0.0, true)
    );
    // The same connection, whose place has gone, counts on from zero: a counter reset for Prometheus.
    one_call(&mut connection);
    let back = exported(&metrics);
    assert_eq!(back.sum("grpc_server_call_started_total", &[]), 1.0);
    assert_eq!(back.sum("rpc_server_call_duration_seconds_count", &[]), 1.0);
}

#[test]
fn what_is_open_does_not_expire() {
    let Clockwork { metrics, milliseconds } = clockwork(SeriesLimits::default());
    let mut connection = metrics.connection(&workload("cart"));
    connection.status(&status(Some(Flow::Received), Sync::Synced));
    connection.call_started(&started(1, Flow::Received, "/a/Watch"));
    milliseconds.store(86_400_000, Ordering::Relaxed);
    let day = exported(&metrics);
    assert_eq!(
        (day.sum("grpcscope_calls_in_flight", &[]), day.sum("grpcscope_connections", &[])),
        (1.0, 1.0)
    );
    connection.call_ended(&ended(1, Flow::Received, "/a/Watch"));
    drop(connection);
    milliseconds.store(2 * 86_400_000, Ordering::Relaxed);
    assert_eq!(exported(&metrics).sum("grpcscope_series", &[]), 0.0);
}

#[test]
fn a_call_that_began_beyond_the_limit_ends_there() {
    let limits = SeriesLimits { methods_per_workload_max: 1, ..SeriesLimits::default() };
    let Clockwork { metrics, milliseconds } = clockwork(limits);
    let workload = workload("cart");
    let mut other = metrics.connection(&workload);
    other.call_started(&started(1, Flow::Received, "/a/First"));
    other.call_ended(&ended(1, Flow::Received, "/a/First"));
    let mut connection = metrics.connection(&workload);
    connection.call_started(&started(1, Flow::Received, "/a/Second"));
    // The first method expires, so that there is room for the second when its call ends.
    milliseconds.store(400_000, Ordering::Relaxed);
    assert_eq!(exported(&metrics).sum("grpcscope_calls_in_flight", &[("rpc_method", "_OTHER")]), 1.0);
    connection.call_ended(&ended(1, Flow::Received, "/a/Second"));
    let exported = exported(&metrics);
    assert_eq!(exported.sum("grpcscope_calls_in_flight", &[]), 0.0);
    assert_eq!(exported.sum("grpcscope_calls_ended_total", &[("rpc_method", "_OTHER")]), 1.0);
}
