//! `grpcscope findings`: asks the running agent, and shows its list.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use axum::body::Body;
use axum::http::{Request, StatusCode, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::FindingsArgs;
use crate::config::Config;
use crate::exit::Failure;
use crate::findings::{Answer, Filter};
use crate::output::findings::FindingLines;
use crate::output::json;
use crate::output::terminal::Look;

/// An agent on the same node answers in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer has at most a thousand entries of about a kilobyte.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Asks and shows.
///
/// # Errors
/// No agent answers, or what answers is none.
pub(super) fn execute(args: &FindingsArgs, config: &Config) -> Result<(), Failure> {
    let authority = match &args.from {
        Some(url) => authority_of(url).map_err(Failure::Usage)?,
        None => reachable(config.http.listen).to_string(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime of the HTTP client")?;
    let filter = args.filter();
    let body = runtime.block_on(async {
        let answer = tokio::time::timeout(TIMEOUT, ask(&authority, &filter));
        answer.await.unwrap_or_else(|_| Err(anyhow!("no answer within {} s", TIMEOUT.as_secs())))
    });
    let body = body.with_context(|| {
        format!("ask the agent at {authority} (`grpcscope run` serves there, --from names another address)")
    })?;
    let not_ours = || format!("what answers at {authority} is no grpcscope, or one of another version");
    let shown = if args.json {
        let answer: serde_json::Value = serde_json::from_slice(&body).with_context(not_ours)?;
        json::write_line(&mut io::stdout(), &answer)
    } else {
        let answer: Answer = serde_json::from_slice(&body).with_context(not_ours)?;
        FindingLines::new(Look::of_stdout(config.log.color)).write_answer(&mut io::stdout().lock(), &answer)
    };
    match shown.and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result.context("write to the standard output")?),
    }
}

/// The address under which one reaches what listens on `listen`.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Host and port of a URL, which may leave out `http://`, and whose port is 80 as everywhere.
fn authority_of(url: &Uri) -> Result<String, String> {
    let wrong = || format!("`{url}` is no address of an agent: write it like http://127.0.0.1:9464");
    let scheme = url.scheme_str().unwrap_or("http");
    let authority = url.authority().ok_or_else(wrong)?;
    if scheme != "http" || authority.as_str().contains('@') || !matches!(url.path(), "" | "/") {
        return Err(wrong());
    }
    Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
}

async fn ask(authority: &str, filter: &Filter) -> anyhow::Result<Vec<u8>> {
    let stream = TcpStream::connect(authority).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let talk = async {
        let request = Request::get(format!("/api/v1/findings?{}", filter.to_query()))
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/json")
            .body(Body::empty())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await?;
        if status != StatusCode::OK {
            let text = String::from_utf8_lossy(&body);
            bail!("it answers {status}: {}", text.lines().next().unwrap_or_default());
        }
        Ok(body.to_vec())
    };
    // The connection must be driven for as long as it is talked over, and not longer.
    let mut connection = std::pin::pin!(connection);
    let mut talk = std::pin::pin!(talk);
    tokio::select! {
        biased;
        answer = &mut talk => answer,
        ended = &mut connection => match ended {
            Ok(()) => talk.await,
            Err(error) => Err(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(url: &str) -> Result<String, String> {
        authority_of(&url.parse().expect("a URI"))
    }

    #[test]
    fn an_agent_is_named_by_a_url_or_by_host_and_port() {
        for (url, expected) in [
            ("http://127.0.0.1:9464", "127.0.0.1:9464"),
            ("http://node-1:9464/", "node-1:9464"),
            ("http://[::1]:9464", "[::1]:9464"),
            ("node-1:9464", "node-1:9464"),
            ("http://node-1", "node-1:80"),
        ] {
            assert_eq!(authority(url).as_deref(), Ok(expected));
        }
        for url in ["https://node-1:9464", "http://a@b:1", "http://node-1:9464/metrics", "/x"] {
            assert!(authority(url).is_err_and(|error| error.contains("http://127.0.0.1:9464")), "{url}");
        }
    }

    #[test]
    fn what_listens_everywhere_is_asked_on_loopback() {
        let reached = |listen: &str| reachable(listen.parse().expect("an address")).to_string();
        assert_eq!(reached("0.0.0.0:9464"), "127.0.0.1:9464");
        assert_eq!(reached("[::]:9464"), "[::1]:9464");
        assert_eq!(reached("10.0.0.1:1"), "10.0.0.1:1");
    }
}
