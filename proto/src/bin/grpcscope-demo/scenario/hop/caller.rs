//! The caller, who does what the scenario is about, and writes down for both ends what is to be found.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::{Request, Status};

use super::next::Next;
use super::{GET, LIMIT, Load, Options, Scenario};
use crate::dice::Dice;
use crate::ledger::{Ledger, Side};
use crate::provoked::{self, Provoked};
use crate::scenario::trace;

/// More than anything needs, on any machine.
const GENEROUS: Duration = Duration::from_secs(20);
/// How long a scenario waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(50);
const ROUNDS: usize = 5;
/// Calls that need more than one attempt.
const STORM: usize = 120;
/// Connections that get old.
const AGES: usize = 4;
/// What a call takes that holds a stream, and how long after it the others begin.
const HOLD: &str = "slow 1000";
const HELD: Duration = Duration::from_millis(300);
/// Calls that wait for a stream.
const WAITING: usize = 5;
/// A call starts the server's count of PINGs anew, so this long there are none.
const SILENCE: Duration = Duration::from_secs(8);
/// A notice of the end shall reach the wire before the connection goes.
const GOOD_BYE: Duration = Duration::from_millis(200);

/// Makes the calls, and ends.
pub(super) async fn call(options: &Options, next: Arc<Next>, ledger: &Arc<Ledger>) -> anyhow::Result<()> {
    let dice = (!options.load.no_trace).then(|| Arc::new(Dice::new(7)));
    let caller = Caller { next, dice, ledger: Arc::clone(ledger), callee: options.callee.clone() };
    match options.scenario {
        Scenario::Pinned => {
            let pinned = Provoked::since("pinned_connection", provoked::now_ns());
            ledger.provokes(&pinned.on(Side::Client).lasting().at_any_time_after());
            caller.load(&options.load).await
        }
        Scenario::Balanced | Scenario::Chain => caller.load(&options.load).await,
        Scenario::ScaleUp => {
            caller.get("ok").await?;
            let starved =
                Provoked::since("starved_backend", provoked::now_ns()).because("unused_connections");
            ledger.provokes_at(&caller.callee, &starved.on(Side::Server).lasting().at_any_time_after());
            tokio::time::sleep(Duration::from_secs_f64(options.load.seconds)).await;
        }
        Scenario::StreamLimit => caller.stream_limit().await?,
        Scenario::TooManyPings => caller.too_many_pings().await?,
        Scenario::MaxConnectionAge => caller.max_connection_age().await?,
        Scenario::RetryStorm => caller.retry_storm().await?,
    }
    tokio::time::sleep(GOOD_BYE).await;
    println!("{}", serde_json::json!({"done": true}));
    Ok(())
}

#[derive(Clone)]
struct Caller {
    next: Arc<Next>,
    /// For traces, if there are any.
    dice: Option<Arc<Dice>>,
    ledger: Arc<Ledger>,
    callee: String,
}

impl Caller {
    async fn get(&self, text: &str) -> Result<String, Status> {
        self.call("Get", text).await
    }

    async fn call(&self, method: &str, text: &str) -> Result<String, Status> {
        let in_trace = |request: &mut Request<Vec<u8>>| {
            if let Some(dice) = &self.dice {
                trace::begin(request, dice);
            }
        };
        self.next.call(method, text, GENEROUS, in_trace).await
    }

    /// Writes down what both ends see.
    fn both(&self, provoked: &Provoked) {
        self.ledger.provokes(&provoked.clone().on(Side::Client));
        self.ledger.provokes_at(&self.callee, &provoked.clone().on(Side::Server));
    }

    /// Calls at the rate, so many at once; a call that fails is no reason to stop.
    async fn load(&self, load: &Load) {
        let numbers = Arc::new(AtomicUsize::new(0));
        let until = load.calls.is_none().then(|| Instant::now() + Duration::from_secs_f64(load.seconds));
        let calls = load.calls.unwrap_or(usize::MAX);
        let gap = load.rate.map(|rate| Duration::from_secs_f64(load.concurrency as f64 / rate));
        let methods = load.calls.map(|calls| load.methods.unwrap_or(calls).max(1));
        let mut workers = JoinSet::new();
        for _ in 0..load.concurrency {
            let (caller, numbers) = (self.clone(), Arc::clone(&numbers));
            workers.spawn(async move {
                let mut ticks = gap.map(tokio::time::interval);
                while until.is_none_or(|until| Instant::now() < until) {
                    if let Some(ticks) = &mut ticks {
                        ticks.tick().await;
                    }
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    if number >= calls {
                        return;
                    }
                    let made = match methods {
                        Some(methods) => caller.call(&format!("C{}", number % methods), "slow 5").await,
                        None => caller.get("ok").await,
                    };
                    if let Err(status) = made {
                        eprintln!("a call failed: {status}");
                    }
                }
            });
        }
        workers.join_all().await;
    }

    async fn stream_limit(&self) -> Result<(), Status> {
        // The limit is known to a client from the server's SETTINGS on, which come before any answer.
        self.get("ok").await?;
        for _ in 0..ROUNDS {
            let since = provoked::now_ns();
            let mut calls = JoinSet::new();
            let mut begin = |text: &'static str| {
                let caller = self.clone();
                calls.spawn(async move { caller.get(text).await });
            };
            (0..LIMIT).for_each(|_| begin(HOLD));
            tokio::time::sleep(HELD).await;
            (0..WAITING).for_each(|_| begin("ok"));
            for made in calls.join_all().await {
                made?;
            }
            self.both(&Provoked::since("stream_limit", since).because("at_limit"));
        }
        Ok(())
    }

    async fn too_many_pings(&self) -> Result<(), Status> {
        let (since, first) = (provoked::now_ns(), self.get("peer").await?);
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            tokio::time::sleep(SILENCE).await;
            // A call that fails with the connection is the same news.
            if self.get("peer").await.ok().as_ref() != Some(&first) {
                self.both(&Provoked::since("connection_error", since).because("too_many_pings"));
                return Ok(());
            }
        }
        Err(Status::deadline_exceeded("the server does not mind PINGs"))
    }

    async fn max_connection_age(&self) -> Result<(), Status> {
        let (mut since, mut peer) = (provoked::now_ns(), self.get("peer").await?);
        let (began, mut ages) = (Instant::now(), 0);
        while ages < AGES {
            if began.elapsed() > PATIENCE {
                return Err(Status::deadline_exceeded("connections do not get old"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            // One that fails since its connection goes is made again on the next.
            let Ok(now) = self.get("peer").await else { continue };
            if now != peer {
                // A client without open streams answers in kind, another one does not: so it is said again, or not.
                self.both(&Provoked::since("goaway", since).because("graceful").lasting());
                (since, peer, ages) = (provoked::now_ns(), now, ages + 1);
            }
        }
        Ok(())
    }

    async fn retry_storm(&self) -> Result<(), Status> {
        let since = provoked::now_ns();
        for _ in 0..STORM {
            self.get("flaky 2 14").await?;
        }
        let storm = Provoked::since("retry_storm", since).lasting().at_any_time_after();
        self.ledger.provokes(&storm.clone().by_call(Side::Client, GET));
        self.ledger.provokes_at(&self.callee, &storm.by_call(Side::Server, GET));
        Ok(())
    }
}
