//! The applications that are watched: a server, and a client that makes calls when it is told to.
//!
//! Those in other languages (`tests/apps/python/echo.py`, `tests/apps/go/echo.go`) speak the same: a server says
//! `{"ready":true,"port":N}` and serves until its standard input is closed. A client takes lines `SECONDS RATE`, opens its
//! connections anew for each, makes calls for [`WARM_UP`], says `{"begin":true}`, goes on for so long and says
//! [`Said`]. Rate 0 is a closed loop: each call begins when the one before it has ended. With a rate a call begins at its
//! turn, and its time counts from there if the caller was busy then (else a late call would hide how late it is), and
//! otherwise from when it was made (so that timers, which are coarse, are not measured).

mod http1;
mod tonic;

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Octets of a message of an echo.
pub(crate) const ECHO_BYTES: usize = 64;
/// Octets of a message of a stream.
pub(crate) const STREAM_BYTES: usize = 64 << 10;
/// Calls before those that count: connections, caches and the applications' own pools are warm then.
pub(crate) const WARM_UP: Duration = Duration::from_millis(250);

/// What the applications of this program do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Unary calls with tonic.
    Tonic,
    /// Messages of streams that never end, with tonic.
    Stream,
    /// Requests of HTTP/1.1.
    Http1,
}

/// How a client calls.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Shape {
    /// Connections to the server.
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// Calls that are open at once, over all connections.
    #[arg(long, default_value_t = 1)]
    pub(crate) concurrency: usize,
}

/// What a client says at the end of a line.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Always true, to be found.
    pub(crate) done: bool,
    /// Calls, or messages of streams, that count.
    pub(crate) calls: u64,
    /// The time in which they were made.
    pub(crate) seconds: f64,
    /// Of their times, in microseconds.
    pub(crate) p50_us: f64,
    /// Of their times, in microseconds.
    pub(crate) p99_us: f64,
    /// All calls of the line, with those of the warm-up.
    pub(crate) all: u64,
}

/// Sleeps and wakes until standard input is closed.
pub(crate) fn stand_in() -> Result<()> {
    end_with_stdin();
    say(&serde_json::json!({"ready": true}))?;
    loop {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn end_with_stdin() {
    std::thread::spawn(|| {
        // An error is an end, too.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
}

/// Serves until standard input is closed.
pub(crate) fn serve(kind: Kind) -> Result<()> {
    end_with_stdin();
    let ready = |port: u16| say(&serde_json::json!({"ready": true, "port": port}));
    match kind {
        Kind::Tonic | Kind::Stream => tonic::serve(ready),
        Kind::Http1 => http1::serve(ready),
    }
}

/// Makes calls as standard input says, until it is closed.
pub(crate) fn call(kind: Kind, server: SocketAddr, shape: Shape) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (seconds, rate) = line.split_once(' ').context("a line is not SECONDS RATE")?;
        let (seconds, rate): (f64, f64) = (seconds.parse()?, rate.parse()?);
        let interval = (rate > 0.0).then(|| Duration::from_secs_f64(shape.concurrency as f64 / rate));
        let time = Duration::from_secs_f64(seconds);
        let made = match kind {
            Kind::Tonic | Kind::Stream => tonic::load(kind, server, shape, time, interval)?,
            Kind::Http1 => http1::load(server, shape, time, interval)?,
        };
        say(&made.told()?)?;
    }
    Ok(())
}

fn say(what: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(what)?)?;
    Ok(out.flush()?)
}

/// The client's calls are about to count.
fn say_begin() -> Result<()> {
    say(&serde_json::json!({"begin": true}))
}

/// Calls that were made.
#[derive(Debug, Default)]
struct Made {
    /// How long each took that counts.
    times: Vec<Duration>,
    warm_up: u64,
    took: Duration,
}

impl Made {
    fn told(mut self) -> Result<Said> {
        self.times.sort_unstable();
        let quantile = |share: f64| {
            let place = ((self.times.len() as f64 * share) as usize).min(self.times.len().saturating_sub(1));
            self.times.get(place).map(|time| time.as_secs_f64() * 1e6).context("no call was made")
        };
        Ok(Said {
            done: true,
            calls: self.times.len() as u64,
            seconds: self.took.as_secs_f64(),
            p50_us: quantile(0.5)?,
            p99_us: quantile(0.99)?,
            all: self.warm_up + self.times.len() as u64,
        })
    }
}

/// When a caller's calls begin.
#[derive(Clone, Copy, Debug)]
struct Turns {
    next: Instant,
    interval: Option<Duration>,
    until: Instant,
}

impl Turns {
    /// The callers of a client take turns; this one is `place` of `of`.
    fn new(begin: Instant, time: Duration, interval: Option<Duration>, place: usize, of: usize) -> Self {
        let share = interval.map_or(Duration::ZERO, |all| all.mul_f64(place as f64 / of as f64));
        Turns { next: begin + share, interval, until: begin + time }
    }

    /// How long to sleep before the next call; nothing at the end.
    fn pause(&self) -> Option<Duration> {
        let now = Instant::now();
        match self.interval {
            None => (now < self.until).then_some(Duration::ZERO),
            Some(_) => (self.next.max(now) < self.until).then(|| self.next.saturating_duration_since(now)),
        }
    }

    /// The call begins; `pause` is what was slept for it.
    fn begin(&mut self, pause: Duration) -> Instant {
        let turn = self.next;
        let Some(interval) = self.interval else { return Instant::now() };
        self.next += interval;
        if pause.is_zero() { turn } else { Instant::now() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_comes_late_to_its_turn_counts_from_its_turn() {
        let begin = Instant::now();
        let mut turns = Turns::new(begin, Duration::from_secs(60), Some(Duration::from_millis(1)), 0, 1);
        std::thread::sleep(Duration::from_millis(3));
        let pause = turns.pause().unwrap();
        assert_eq!(pause, Duration::ZERO);
        assert_eq!(turns.begin(pause), begin);
        assert_eq!(turns.begin(pause), begin + Duration::from_millis(1));
    }

    #[test]
    fn callers_take_turns_within_an_interval() {
        let begin = Instant::now();
        let second = Turns::new(begin, Duration::from_secs(1), Some(Duration::from_millis(10)), 1, 4);
        assert_eq!(second.next - begin, Duration::from_micros(2500));
    }

    #[test]
    fn nothing_begins_after_the_end() {
        let turns = Turns::new(Instant::now(), Duration::ZERO, None, 0, 1);
        assert_eq!(turns.pause(), None);
    }

    #[test]
    fn a_client_without_calls_has_no_figures() {
        assert!(Made::default().told().is_err());
        let times = (1..=100).map(Duration::from_micros).collect();
        let said = Made { times, warm_up: 7, took: Duration::from_secs(1) }.told().unwrap();
        assert_eq!((said.calls, said.all, said.p99_us as u64), (100, 107, 100));
    }
}
