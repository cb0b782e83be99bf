//! What is exported: in every format, as documented, whatever strings come from outside.

use super::*;

#[test]
fn what_is_exported_is_the_catalogue() {
    let (metrics, _open) = everything();
    let exported = exported(&metrics);
    let catalogue: BTreeMap<String, String> = catalogue::CATALOGUE
        .iter()
        .map(|family| (family.name.to_owned(), family.kind.as_str().to_owned()))
        .collect();
    assert_eq!(exported.families, catalogue);
    for family in catalogue::CATALOGUE {
        let names = [family.name.to_owned(), format!("{}_count", family.name)];
        let samples = exported.samples.keys().filter(|(name, _)| names.contains(name));
        let labels: BTreeSet<&str> =
            samples.flat_map(|(_, labels)| labels.keys()).map(String::as_str).collect();
        assert_eq!(labels, family.labels.iter().copied().collect(), "{}", family.name);
    }
}

#[test]
fn names_carry_their_unit_and_type() {
    for family in catalogue::CATALOGUE {
        let is_counter = family.kind == catalogue::Kind::Counter;
        assert_eq!(family.name.ends_with("_total"), is_counter, "{}", family.name);
        if let Some(unit) = family.unit {
            assert!(
                family.name.contains(&format!("_{unit}")) && family.stem() != family.name,
                "{}",
                family.name
            );
        }
        assert!(family.help.ends_with('.') && family.help.is_ascii(), "{}", family.name);
    }
}

#[test]
fn the_documentation_is_the_catalogue() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let expected = catalogue::document();
    if std::env::var_os("GRPCSCOPE_BLESS").is_some() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(path, &expected))
            .expect("docs can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == expected, "docs/metrics.md is out of date: run this test with GRPCSCOPE_BLESS=1");
}

#[test]
fn protobuf_has_classic_and_native_buckets_of_the_same_values() {
    let (metrics, _open) = everything();
    let families = families(&metrics);
    let names: BTreeSet<&str> = families.iter().map(|family| family.name.as_str()).collect();
    assert_eq!(names, catalogue::CATALOGUE.iter().map(|family| family.name).collect());
    let mut histograms = 0;
    for family in &families {
        for metric in &family.metric {
            let Some(histogram) = &metric.histogram else { continue };
            histograms += 1;
            let last = histogram.bucket.last().expect("classic buckets");
            assert_eq!((last.upper_bound, last.cumulative_count), (f64::INFINITY, histogram.sample_count));
            let mut count = 0;
            let native: i64 = histogram
                .positive_delta
                .iter()
                .map(|delta| {
                    count += delta;
                    count
                })
                .sum();
            assert_eq!(native as u64 + histogram.zero_count, histogram.sample_count, "{}", family.name);
            let buckets: u32 = histogram.positive_span.iter().map(|span| span.length).sum();
            assert_eq!(buckets as usize, histogram.positive_delta.len());
            assert!(histogram.schema <= 3 && histogram.start_timestamp.is_some());
        }
    }
    assert!(histograms >= 14, "{histograms}");
}

/// Feeds a text to `promtool check metrics`, that of `cargo xtask setup` or else any; `None` if there is none.
fn promtool(text: &str) -> Option<(bool, String)> {
    let cache = std::env::var_os("GRPCSCOPE_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache"), PathBuf::from);
    let unpacked = cache.join("prometheus/usr/bin/promtool");
    let child = Command::new(if unpacked.exists() { unpacked } else { "promtool".into() })
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        assert!(std::env::var_os("CI").is_none(), "CI needs promtool: `cargo xtask setup --for tests`");
        eprintln!("SKIPPED promtool: it is not installed, run `cargo xtask setup --for tests`");
        return None;
    };
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Some((output.status.success(), said))
}

#[test]
fn promtool_finds_nothing_to_say() {
    let (metrics, _open) = everything();
    let text = encoded(&metrics, Format::Text);
    if let Some((success, said)) = promtool(&text) {
        assert!(success && said.is_empty(), "{said}");
    }
}

#[test]
fn t9_promtool_takes_hostile_strings() {
    let metrics = hostile();
    let text = encoded(&metrics, Format::Text);
    if let Some((success, said)) = promtool(&text) {
        assert!(success && said.is_empty(), "{said}");
    }
}

const HOSTILE: [&str; 12] = [
    "/a/b\"} 1\ngrpcscope_build_info 2\n#",
    "/a/b\\",
    "/a/b\\\"",
    "/a/b\n# EOF",
    "/a/\u{1b}[2J\u{1b}]0;x\u{7}",
    "/a/b\0c",
    "/a/\u{202e}b",
    "/<script>alert(1)</script>/x",
    "/a/\u{fffd}\u{fffd}",
    "",
    "/a/{{.}}",
    "/a/b\r\n",
];

fn hostile() -> Metrics {
    let metrics = metrics();
    for text in HOSTILE {
        let workload = Workload::new(text).with_container_id(text).with_server(text, 1);
        let mut connection = metrics.connection(&Arc::new(workload));
        connection.call_started(&started(1, Flow::Received, text));
        connection.call_ended(&Call { status: Some(u32::MAX), ..ended(1, Flow::Received, text) });
        let of_calls = (Some(Side::Server), Some(Method::of(Some(&Arc::from(text)))));
        let what = (Name::DeadlineMissing, Some("absent"));
        metrics.findings(Workload::new(text), of_calls, Verdict::Firing, what, None).count();
    }
    metrics.set_backend(Backend { name: "x\"\n".to_owned(), reason: "\\".to_owned() });
    metrics
}

#[test]
fn t9_hostile_strings_stay_values() {
    let metrics = hostile();
    let exported = exported(&metrics);
    let methods = exported.values("rpc_server_call_duration_seconds_count", "rpc_method");
    assert_eq!(methods, BTreeSet::from(["invalid".to_owned()]));
    let methods = exported.values("grpcscope_findings_total", "rpc_method");
    assert_eq!(methods, BTreeSet::from(["invalid".to_owned()]));
    let status = exported.values("rpc_server_call_duration_seconds_count", "rpc_response_status_code");
    assert_eq!(status, BTreeSet::from(["_OTHER".to_owned()]));
    for format in [Format::Text, Format::OpenMetrics] {
        let text = encoded(&metrics, format);
        assert!(text.bytes().all(|byte| byte >= 0x20 || byte == b'\n'), "a control character");
    }
    assert!(!families(&metrics).is_empty());
}
