//! A load that is no gRPC: requests of HTTP/1.1 and their answers, one at a time on each connection.
//!
//! Server and client are threads that block, so that hardly anything but socket calls is measured.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Made, Shape, Turns, WARM_UP};

const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok";

pub(super) fn serve(ready: impl Fn(u16) -> Result<()>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    ready(listener.local_addr()?.port())?;
    for connection in listener.incoming() {
        let mut connection = connection.context("accept a connection")?;
        connection.set_nodelay(true)?;
        thread::spawn(move || {
            let mut request = [0; REQUEST.len()];
            // An error is the end of the connection.
            while connection.read_exact(&mut request).is_ok() && connection.write_all(RESPONSE).is_ok() {}
        });
    }
    Ok(())
}

/// A thread for each connection.
pub(super) fn load(
    server: SocketAddr,
    shape: Shape,
    time: Duration,
    interval: Option<Duration>,
) -> Result<Made> {
    let mut connections = Vec::new();
    for _ in 0..shape.connections {
        let connection = TcpStream::connect(server).with_context(|| format!("connect to {server}"))?;
        connection.set_nodelay(true)?;
        connections.push(connection);
    }
    let warm_up = calls(&mut connections, WARM_UP, interval)?.len() as u64;
    super::say_begin()?;
    let begin = Instant::now();
    let times = calls(&mut connections, time, interval)?;
    Ok(Made { times, warm_up, took: begin.elapsed() })
}

fn calls(connections: &mut [TcpStream], time: Duration, interval: Option<Duration>) -> Result<Vec<Duration>> {
    let (begin, count) = (Instant::now(), connections.len());
    let mut all = Vec::new();
    thread::scope(|scope| -> Result<()> {
        let callers: Vec<_> = connections
            .iter_mut()
            .enumerate()
            .map(|(place, connection)| {
                let turns = Turns::new(begin, time, interval, place, count);
                scope.spawn(move || one_caller(connection, turns))
            })
            .collect();
        for caller in callers {
            let Ok(times) = caller.join() else { bail!("a caller panicked") };
            all.extend(times?);
        }
        Ok(())
    })?;
    Ok(all)
}

fn one_caller(connection: &mut TcpStream, mut turns: Turns) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut response = [0; RESPONSE.len()];
    while let Some(pause) = turns.pause() {
        if !pause.is_zero() {
            thread::sleep(pause);
        }
        let begin = turns.begin(pause);
        connection.write_all(REQUEST)?;
        connection.read_exact(&mut response)?;
        times.push(begin.elapsed());
        if response != *RESPONSE {
            bail!("the answer is another than was sent");
        }
    }
    Ok(times)
}
