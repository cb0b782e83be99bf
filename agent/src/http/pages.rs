//! What each path answers.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Shared, negotiation};
use crate::findings::Filter;
use crate::output::escape::Escaped as TerminalSafe;
use crate::output::json;
use crate::pipeline;

/// `/metrics`: written on a thread that may take its time, so that nothing else waits for it.
pub(super) async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let format = negotiation::format(&all(&headers, header::ACCEPT));
    let gzip = negotiation::wants_gzip(&all(&headers, header::ACCEPT_ENCODING));
    let written = tokio::task::spawn_blocking(move || {
        let body = shared.metrics.encode(format).map_err(|error| error.to_string())?;
        if gzip { compressed(&body).map_err(|error| format!("cannot compress: {error}")) } else { Ok(body) }
    });
    let body: Result<Vec<u8>, String> =
        written.await.unwrap_or_else(|_| Err("writing the metrics panicked".to_owned()));
    match body {
        Ok(body) => {
            let mut response = body.into_response();
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
            headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
            if gzip {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
        }
        Err(reason) => (StatusCode::INTERNAL_SERVER_ERROR, reason + "\n").into_response(),
    }
}

/// `/api/v1/findings`: what was found, as JSON; `?finding=`, `?service_name=`, `?verdict=` leave out the rest.
pub(super) async fn findings(State(shared): State<Shared>, uri: Uri) -> Response {
    let filter = match Filter::of_query(uri.query().unwrap_or_default()) {
        Ok(filter) => filter,
        Err(error) => {
            return (StatusCode::BAD_REQUEST, format!("{}\n", TerminalSafe(&error))).into_response();
        }
    };
    let written = tokio::task::spawn_blocking(move || {
        let answer = shared.findings.answer(&filter, pipeline::monotonic_now(), pipeline::unix_offset_ns());
        let mut body = Vec::new();
        json::write_line(&mut body, &answer).map(|()| body)
    });
    match written.await {
        Ok(Ok(body)) => {
            let headers = [
                (header::CONTENT_TYPE, "application/json"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (header::CACHE_CONTROL, "no-store"),
            ];
            (headers, body).into_response()
        }
        Ok(Err(_)) | Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "writing the findings failed\n").into_response()
        }
    }
}

/// All values of a header as one list.
fn all(headers: &HeaderMap, name: HeaderName) -> String {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

fn compressed(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 10), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// `/healthz`: the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// `/readyz`: 200 if every condition holds, else 503 with those that do not. `?verbose` lists all.
pub(super) async fn readyz(State(shared): State<Shared>, uri: Uri) -> Response {
    let verbose = uri
        .query()
        .is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some("verbose")));
    let mut text = String::new();
    let mut ready = true;
    for (name, state) in shared.readiness.conditions() {
        ready &= state.is_ok();
        match state {
            Ok(()) if verbose => text.push_str(&format!("[+] {name} ok\n")),
            Ok(()) => {}
            Err(reason) => {
                text.push_str(&format!("[-] {name}: {}\n", reason.replace(char::is_control, " ")));
            }
        }
    }
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, text).into_response()
}

/// Any other path.
pub(super) async fn not_found() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "not found; see / for what is here\n")
}

/// `/`: where to go.
pub(super) async fn index(State(shared): State<Shared>) -> Response {
    let mut conditions = String::new();
    for (name, state) in shared.readiness.conditions() {
        let (class, text) = match &state {
            Ok(()) => ("ok", "ok"),
            Err(reason) => ("bad", reason.as_str()),
        };
        conditions.push_str(&format!(
            "<li><b>{}</b> <span class={class}>{}</span></li>\n",
            Escaped(name),
            Escaped(text)
        ));
    }
    let page = INDEX
        .replace("{version}", &Escaped(env!("CARGO_PKG_VERSION")).to_string())
        .replace("{conditions}", &conditions);
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(page)).into_response()
}

/// Needs nothing from anywhere.
const INDEX: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>grpcscope</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem; }
code, b { font-family: ui-monospace, monospace; }
.ok { color: #1a7f37; } .bad { color: #cf222e; }
</style>
</head>
<body>
<h1>grpcscope {version}</h1>
<p>Watches the gRPC of every process on this node, and changes nothing.</p>
<ul>
<li><a href="/metrics">/metrics</a> for Prometheus (protobuf, OpenMetrics, text)</li>
<li><a href="/api/v1/findings">/api/v1/findings</a> what is wrong, with its evidence (JSON)</li>
<li><a href="/readyz?verbose">/readyz</a> whether it does its work, and if not, why</li>
<li><a href="/healthz">/healthz</a> whether it is alive</li>
</ul>
<h2>Now</h2>
<ul>
{conditions}</ul>
</body>
</html>
"#;

/// Text in HTML.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                control if control.is_control() => f.write_char('\u{fffd}')?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
