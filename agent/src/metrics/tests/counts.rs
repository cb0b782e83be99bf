//! What an observation adds to which series.

use super::*;

#[test]
fn what_happens_to_a_connection_is_counted_by_who_did_it() {
    let metrics = metrics();
    let mut connection = metrics.connection(&workload("shop"));
    connection.status(&status(Some(Flow::Sent), Sync::Synced));
    events(Flow::Sent).iter().for_each(|event| connection.observe(event));
    connection.observe(&closed(Timestamp(7_000 * MS)));
    let mut late = metrics.connection(&workload("shop"));
    late.status(&status(Some(Flow::Sent), Sync::Late));
    late.observe(&closed(Timestamp(90_000 * MS)));
    let exported = exported(&metrics);
    let goaway = [("side", "client"), ("sender", "server"), ("reason", "max_age")];
    assert_eq!(exported.sum("grpcscope_goaways_total", &goaway), 1.0);
    for (sender, kind, answer) in
        [("client", "other", "yes"), ("server", "other", "yes"), ("client", "drain", "no")]
    {
        let labels = [("side", "client"), ("sender", sender), ("kind", kind), ("answer", answer)];
        assert_eq!(exported.sum("grpcscope_pings_total", &labels), 1.0, "{labels:?}");
    }
    let own = "the answer to the peer's PING is no round trip";
    assert_eq!(exported.sum("grpcscope_ping_round_trip_seconds_count", &[]), 1.0, "{own}");
    assert_eq!(exported.sum("grpcscope_ping_round_trip_seconds_sum", &[]), 0.002);
    assert_eq!(exported.sum("grpcscope_stream_limit_reached_total", &[("side", "client")]), 1.0);
    assert_eq!(exported.sum("grpcscope_stream_limit_seconds_total", &[("side", "client")]), 1.5);
    let late = "how long a connection had been there that was joined late is not known";
    assert_eq!(exported.sum("grpcscope_connection_lifetime_seconds_count", &[]), 1.0, "{late}");
    assert_eq!(exported.sum("grpcscope_connection_lifetime_seconds_sum", &[("side", "client")]), 7.0);
}

#[test]
fn a_connection_is_recycled_if_it_ends_as_its_server_has_said_in_good_order() {
    use GoawayReason::{Error, Graceful, GracefulNotice, MaxAge, MaxIdle, TooManyPings};
    let server = |reason| goaway(Flow::Received, reason);
    for (said, expected) in [
        (vec![server(GracefulNotice), server(Graceful)], Some("graceful")),
        // The second GOAWAY of a graceful end may give no reason.
        (vec![server(MaxAge), server(Graceful)], Some("max_age")),
        (vec![server(GracefulNotice), server(MaxIdle)], Some("max_idle")),
        (vec![server(MaxAge), server(Error)], None),
        (vec![server(TooManyPings)], None),
        (vec![goaway(Flow::Sent, Graceful)], None),
        (vec![], None),
    ] {
        let metrics = metrics();
        let mut connection = metrics.connection(&workload("shop"));
        connection.status(&status(Some(Flow::Sent), Sync::Synced));
        said.iter().for_each(|event| connection.observe(event));
        let recycled =
            |labels: &[(&str, &str)]| exported(&metrics).sum("grpcscope_connections_recycled_total", labels);
        assert_eq!(recycled(&[]), 0.0, "it is open");
        connection.observe(&closed(Timestamp(7_000 * MS)));
        assert_eq!(recycled(&[]), f64::from(u8::from(expected.is_some())), "{said:?}");
        if let Some(reason) = expected {
            assert_eq!(recycled(&[("side", "client"), ("reason", reason)]), 1.0, "{said:?}");
        }
    }
}

#[test]
fn retries_and_errors_are_counted_by_attempt_and_source() {
    let metrics = metrics();
    let mut connection = metrics.connection(&workload("shop"));
    for (stream, previous_attempts) in [None, Some(0), Some(1), Some(5), Some(4_000)].into_iter().enumerate()
    {
        let stream = stream as u32;
        let call = started(stream, Flow::Sent, "/shop.Cart/Add");
        connection.call_started(&CallStarted { previous_attempts, ..call });
        let status_source = if stream == 0 { StatusSource::Trailer } else { StatusSource::TrailersOnly };
        let (status, outcome) = if stream < 2 { (0, Outcome::Ok) } else { (5, Outcome::Error) };
        let call = ended(stream, Flow::Sent, "/shop.Cart/Add");
        connection.call_ended(&Call { status: Some(status), status_source, outcome, ..call });
    }
    let exported = exported(&metrics);
    let retries = |attempts| exported.sum("grpcscope_call_retries_total", &[("previous_attempts", attempts)]);
    assert_eq!((retries("1"), retries("5")), (1.0, 2.0));
    assert_eq!(exported.sum("grpcscope_call_retries_total", &[]), 3.0);
    let errors = [("rpc_response_status_code", "NOT_FOUND"), ("source", "trailers_only")];
    assert_eq!(exported.sum("grpcscope_call_errors_total", &errors), 3.0);
    assert_eq!(exported.sum("grpcscope_call_errors_total", &[]), 3.0);
}

#[test]
fn d7_calls_in_flight_have_an_age_and_a_silence_until_they_are_gone() {
    let metrics = metrics();
    let mut connection = metrics.connection(&workload("shop"));
    connection.status(&status(Some(Flow::Sent), Sync::Synced));
    let look = |calls: &[OpenCall]| {
        let mut open = OpenCalls::default();
        calls.iter().for_each(|call| open.add(&connection, call, Timestamp(9_000 * MS)));
        metrics.set_open_calls(0, open);
        let exported = exported(&metrics);
        [
            exported.sum("grpcscope_call_oldest_age_seconds", &[("rpc_method", "shop.Cart/Add")]),
            exported.sum("grpcscope_call_silence_seconds", &[("side", "client")]),
            exported.sum("grpcscope_call_open_messages", &[("direction", "sent")]),
            exported.sum("grpcscope_call_open_messages", &[("direction", "received")]),
        ]
    };
    let younger = OpenCall { started: Some(Timestamp(3_000 * MS)), ..open_call() };
    assert_eq!(look(&[younger, open_call()]), [8.0, 5.0, 4.0, 6.0]);
    let over = OpenCall { server_ended: Some(Timestamp(4_000 * MS)), ..open_call() };
    assert_eq!(look(&[over]), [0.0; 4], "what its server has ended is not in flight");
    assert_eq!(look(&[]), [0.0; 4]);
    // Its last frame was seen at four seconds.
    let left_out = |until| OpenCall { left_out_until: Some(Timestamp(until)), ..open_call() };
    assert_eq!(look(&[left_out(5_000 * MS)]), [8.0, 0.0, 0.0, 0.0], "it may have sent since");
    assert_eq!(look(&[left_out(3_000 * MS)]), [8.0, 5.0, 0.0, 0.0]);
}

#[test]
fn what_was_left_of_deadlines_and_what_became_of_them_at_a_hop_is_exported() {
    let (metrics, _open) = everything();
    let exported = exported(&metrics);
    let client = ("side", "client");
    assert_eq!(exported.sum("grpcscope_call_deadline_used_ratio_sum", &[client]), 0.25);
    assert_eq!(exported.sum("grpcscope_call_deadline_used_ratio_count", &[client]), 1.0);
    assert_eq!(exported.sum("grpcscope_call_deadline_left_seconds_sum", &[client]), 0.003);
    for evidence in ["thread", "none"] {
        assert_eq!(exported.sum("grpcscope_correlated_calls_total", &[("evidence", evidence)]), 1.0);
    }
    assert_eq!(exported.sum("grpcscope_correlated_calls_total", &[]), 2.0);
    let dropped = [("result", "dropped"), ("evidence", "thread")];
    assert_eq!(exported.sum("grpcscope_deadline_propagation_total", &dropped), 1.0);
    assert_eq!(exported.sum("grpcscope_deadline_propagation_total", &[]), 1.0);
}

#[test]
fn work_for_nobody_is_counted_under_the_method_and_on_the_side_where_it_was_done() {
    let (metrics, mut open) = everything();
    open[0].wasted(&wasted(Flow::Sent));
    let exported = exported(&metrics);
    let of = |side| [("side", side), ("service_name", if side == "client" { "shop" } else { "cart" })];
    let outbound = [of("client")[0], of("client")[1], ("rpc_method", "shop.Cart/Add"), ("evidence", "trace")];
    assert_eq!(exported.sum("grpcscope_uncancelled_seconds_total", &outbound), 3.0);
    assert_eq!(exported.sum("grpcscope_uncancelled_seconds_total", &[]), 3.0);
    assert_eq!(exported.sum("grpcscope_late_work_seconds_total", &of("server")), 0.25);
    assert_eq!(exported.sum("grpcscope_late_work_bytes_total", &of("server")), 900.0);
    assert_eq!(exported.sum("grpcscope_late_work_bytes_total", &[]), 900.0);
}

#[test]
fn late_calls_have_used_more_than_their_timeout_and_have_nothing_left() {
    let metrics = metrics();
    let mut connection = metrics.connection(&workload("shop"));
    connection.status(&status(Some(Flow::Received), Sync::Synced));
    // Calls of a millisecond each: in time, just in time, late, very late, and those without a share.
    for (stream, timeout) in [
        (1, Timeout::Ns(2 * MS)),
        (3, Timeout::Ns(MS)),
        (5, Timeout::Ns(MS / 2)),
        (7, Timeout::Ns(1)),
        (9, Timeout::Ns(0)),
        (11, Timeout::Absent),
        (13, Timeout::Invalid),
    ] {
        let call = ended(stream, Flow::Received, "/shop.Cart/Add");
        assert_eq!(call.ended.zip(call.started).map(|(ended, started)| ended.since(started)), Some(MS));
        connection
            .call_started(&CallStarted { timeout, ..started(stream, Flow::Received, "/shop.Cart/Add") });
        connection.call_ended(&Call { timeout, ..call });
    }
    let exported = exported(&metrics);
    let used = |le: &str| exported.sum("grpcscope_call_deadline_used_ratio_bucket", &[("le", le)]);
    // What has no timeout, or one of zero, has no share of it: neither 0 nor infinite.
    assert_eq!(exported.sum("grpcscope_call_deadline_used_ratio_count", &[]), 4.0);
    assert_eq!(exported.sum("grpcscope_call_deadline_used_ratio_sum", &[]), 0.5 + 1.0 + 2.0 + 1e6);
    assert_eq!((used("1.0"), used("+Inf")), (2.0, 4.0), "two were late");
    assert_eq!(exported.sum("grpcscope_call_deadline_left_seconds_count", &[]), 4.0);
    assert_eq!(exported.sum("grpcscope_call_deadline_left_seconds_sum", &[]), 0.001, "never below zero");
    // A timeout of zero was sent all the same.
    assert_eq!(exported.sum("grpcscope_call_timeout_seconds_count", &[]), 5.0);
}

#[test]
fn the_spread_of_calls_is_exported_by_workload_and_destination() {
    let (metrics, _open) = everything();
    let exported = exported(&metrics);
    let labels = [("service_name", "shop"), ("destination", "cart:80")];
    assert_eq!(exported.sum("grpcscope_busiest_connection_ratio", &labels), 1.0);
    let one = [labels[0], labels[1], ("balanced", "one_connection")];
    assert_eq!(exported.sum("grpcscope_client_processes", &one), 1.0);
    assert_eq!(exported.sum("grpcscope_client_processes", &labels), 1.0);
    assert_eq!(exported.sum("grpcscope_server_processes", &[("calls", "some")]), 1.0);
    assert_eq!(exported.sum("grpcscope_server_window_calls", &[]), 120.0);
}

#[test]
fn both_sides_count_a_call_from_where_they_stand() {
    let (metrics, _open) = everything();
    let exported = exported(&metrics);
    let ok = [("rpc_method", "shop.Cart/Add"), ("rpc_response_status_code", "OK")];
    assert_eq!(exported.sum("rpc_server_call_duration_seconds_count", &ok), 1.0);
    assert_eq!(exported.sum("rpc_client_call_duration_seconds_sum", &ok), 0.001);
    let sizes = [("grpc_method", "shop.Cart/Add"), ("grpc_status", "OK")];
    // The late call's response is exact as well.
    assert_eq!(exported.sum("grpc_server_call_sent_total_compressed_message_size_bytes_sum", &sizes), 600.0);
    assert_eq!(exported.sum("grpc_server_call_rcvd_total_compressed_message_size_bytes_sum", &sizes), 100.0);
    assert_eq!(
        exported.sum("grpc_client_attempt_sent_total_compressed_message_size_bytes_sum", &sizes),
        100.0
    );
    let messages = [("side", "client"), ("direction", "received")];
    assert_eq!(exported.sum("grpcscope_call_messages_total", &messages), 6.0);
}

#[test]
fn a_call_whose_start_was_not_seen_is_counted_and_not_measured() {
    let (metrics, _open) = everything();
    let exported = exported(&metrics);
    assert_eq!(exported.sum("grpcscope_calls_ended_total", &[("start", "unseen"), ("outcome", "ok")]), 2.0);
    assert_eq!(exported.sum("grpcscope_calls_unmeasured_total", &[("histogram", "duration")]), 2.0);
    assert_eq!(
        exported.sum("grpcscope_calls_unmeasured_total", &[("side", "client"), ("histogram", "sent")]),
        1.0
    );
    assert_eq!(exported.sum("rpc_server_call_duration_seconds_count", &[]), 2.0);
}

#[test]
fn deadlines_are_counted_as_sent_and_as_exceeded() {
    let (metrics, _open) = everything();
    let exported = exported(&metrics);
    let server = ("side", "server");
    assert_eq!(exported.sum("grpcscope_call_deadlines_total", &[server, ("deadline", "none")]), 2.0);
    assert_eq!(exported.sum("grpcscope_call_deadlines_total", &[server, ("deadline", "set")]), 1.0);
    assert_eq!(exported.sum("grpcscope_call_timeout_seconds_sum", &[server]), 5.0);
    assert_eq!(
        exported.sum("grpcscope_call_deadlines_exceeded_total", &[server, ("ended_by", "client")]),
        1.0
    );
    let exceeded = [("error_type", "DEADLINE_EXCEEDED"), ("rpc_response_status_code", "none")];
    assert_eq!(exported.sum("rpc_server_call_duration_seconds_count", &exceeded), 1.0);
    let rst = [("side", "server"), ("sender", "client"), ("code", "CANCEL")];
    assert_eq!(exported.sum("grpcscope_rst_streams_total", &rst), 1.0);
}

#[test]
fn x2_a_stream_that_is_meant_to_stay_open_is_no_call_without_a_deadline() {
    let metrics = metrics();
    let mut connection = metrics.connection(&workload("cart"));
    for (stream, method, timeout) in [
        (1, "/grpc.health.v1.Health/Watch", Timeout::Absent),
        (3, "/grpc.health.v1.Health/Check", Timeout::Absent),
        (5, "/grpc.health.v1.Health/Watch", Timeout::Ns(1)),
    ] {
        connection.call_started(&CallStarted { timeout, ..started(stream, Flow::Received, method) });
    }
    let exported = exported(&metrics);
    for deadline in ["long_lived", "none", "set"] {
        assert_eq!(
            exported.sum("grpcscope_call_deadlines_total", &[("deadline", deadline)]),
            1.0,
            "{deadline}"
        );
    }
}

#[test]
fn a_connection_is_counted_in_the_state_that_it_has() {
    let metrics = metrics();
    let workload = workload("cart");
    let mut connection = metrics.connection(&workload);
    let state = |metrics: &Metrics, side, state| {
        exported(metrics).sum("grpcscope_connections", &[("side", side), ("state", state)])
    };
    connection.status(&status(None, Sync::Late));
    assert_eq!(state(&metrics, "unresolved", "late"), 1.0);
    connection.status(&status(Some(Flow::Received), Sync::Late));
    assert_eq!((state(&metrics, "unresolved", "late"), state(&metrics, "server", "late")), (0.0, 1.0));
    connection.status(&status(Some(Flow::Received), Sync::Desynced));
    connection.status(&status(Some(Flow::Received), Sync::Desynced));
    assert_eq!((state(&metrics, "server", "late"), state(&metrics, "server", "desynced")), (0.0, 1.0));
    connection.close();
    drop(connection);
    let exported = exported(&metrics);
    assert_eq!(exported.sum("grpcscope_connections", &[]), 0.0);
    assert_eq!(exported.sum("grpcscope_connections_opened_total", &[]), 1.0);
    assert_eq!(exported.sum("grpcscope_connections_closed_total", &[]), 1.0);
    assert_eq!(exported.sum("grpcscope_connection_state_changes_total", &[("state", "late")]), 1.0);
    assert_eq!(exported.sum("grpcscope_connection_state_changes_total", &[("state", "desynced")]), 1.0);
}

#[test]
fn every_observation_can_be_handed_over_as_it_is() {
    let metrics = metrics();
    let mut connection = metrics.connection(&workload("cart"));
    let flow = Flow::Received;
    for observation in [
        Observation::Connection(status(Some(flow), Sync::Synced)),
        Observation::CallStarted(started(1, flow, "/a/b")),
        Observation::CallEnded(Box::new(ended(1, flow, "/a/b"))),
        Observation::Anomaly(Anomaly {
            connection: CONNECTION,
            stream: 1,
            kind: "hpack",
            time: Timestamp(0),
        }),
    ] {
        connection.observe(&observation);
    }
    assert_eq!(exported(&metrics).sum("grpcscope_calls_ended_total", &[("outcome", "ok")]), 1.0);
}
