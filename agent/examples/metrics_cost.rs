//! What it costs to count a call, and to be scraped, in CPU time (other work on the machine does not count).
//!
//! `cargo run --release -p agent --example metrics_cost`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use agent::metrics::{ConnectionSeries, Format, Metrics, SeriesLimits, Workload};
use agent_core::observation::{
    Call, CallStarted, CallType, ConnectionStatus, EndedBy, Messages, Outcome, StatusSource, Sync, Timeout,
    Traces,
};
use agent_core::{ConnectionId, Flow, Timestamp};

const CALLS: u32 = 1_000_000;

fn main() {
    let metrics = Metrics::new(SeriesLimits::default());
    let workload = Arc::new(Workload::new("cart"));
    let method: Arc<str> = "/shop.v1.CartService/AddItem".into();

    let mut connection = open(&metrics, &workload);
    let run = |connection: &mut ConnectionSeries, name: &str, mut method: Box<dyn FnMut() -> Arc<str>>| {
        let begin = cpu_time();
        for number in 0..CALLS {
            call(connection, number, method());
        }
        report(name, begin, CALLS);
    };
    let same = Arc::clone(&method);
    run(&mut connection, "a call of a method that was just seen", Box::new(move || Arc::clone(&same)));
    let methods: Vec<Arc<str>> =
        (0..64).map(|number| format!("/shop.v1.Service/Method{number}").into()).collect();
    let mut next = 0;
    run(
        &mut connection,
        "a call, 64 methods in turn",
        Box::new(move || {
            next = (next + 1) % methods.len();
            Arc::clone(&methods[next])
        }),
    );

    let begin = cpu_time();
    for number in 0..CALLS {
        call(&mut open(&metrics, &workload), number, Arc::clone(&method));
    }
    report("a call with a connection of its own", begin, CALLS);

    let begin = cpu_time();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut connection = open(&metrics, &workload);
                for number in 0..CALLS / 2 {
                    call(&mut connection, number, Arc::clone(&method));
                }
            });
        }
    });
    report("a call, two threads on one workload", begin, CALLS);

    // As much as the limits allow.
    for service in 0..20 {
        let workload = Arc::new(Workload::new(&format!("service-{service}")));
        let mut connection = open(&metrics, &workload);
        for number in 0..100 {
            call(&mut connection, number, format!("/shop.v1.Service/Method{number}").into());
        }
    }
    for format in [Format::Protobuf, Format::OpenMetrics, Format::Text] {
        let begin = cpu_time();
        let bytes = black_box(metrics.encode(format)).map(|body| body.len());
        println!(
            "{:>8.1} ms  a scrape, {format:?}, {bytes:?} bytes",
            (cpu_time() - begin).as_secs_f64() * 1e3
        );
    }
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, which the call fills in.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn report(name: &str, begin: Duration, calls: u32) {
    println!("{:>8.0} ns  {name}", (cpu_time() - begin).as_nanos() as f64 / f64::from(calls));
}

fn open(metrics: &Metrics, workload: &Arc<Workload>) -> ConnectionSeries {
    let mut connection = metrics.connection(workload);
    connection.status(&ConnectionStatus {
        connection: ConnectionId(1),
        client_flow: Some(Flow::Received),
        sync: Sync::Synced,
        time: Timestamp(0),
    });
    connection
}

fn call(connection: &mut ConnectionSeries, number: u32, method: Arc<str>) {
    let time = Timestamp(u64::from(number) * 1_000);
    connection.call_started(&CallStarted {
        connection: ConnectionId(1),
        stream: number,
        client_flow: Flow::Received,
        method: Some(Arc::clone(&method)),
        timeout: Timeout::Ns(5_000_000_000),
        previous_attempts: None,
        traces: Traces::default(),
        thread: 0,
        time,
    });
    let messages = Messages { count: 1, bytes: u64::from(number % 4096), exact: true };
    connection.call_ended(&Call {
        connection: ConnectionId(1),
        stream: number,
        client_flow: Some(Flow::Received),
        method: Some(method),
        call_type: CallType::Unary,
        timeout: Timeout::Ns(5_000_000_000),
        started: Some(time),
        first_seen: time,
        first_response: None,
        ended: Some(time.plus(u64::from(number % 1000) * 10_000)),
        outcome: Outcome::Ok,
        status: Some(0),
        status_source: StatusSource::Trailer,
        ended_by: Some(EndedBy::Server),
        rst_code: None,
        http_status: Some(200),
        request: messages,
        response: messages,
        previous_attempts: None,
        method_ref: None,
        retry_pushback: None,
        traces: Traces::default(),
        thread: 0,
    });
}
