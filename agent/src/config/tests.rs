//! Which layer wins, and what a wrong setting is answered with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;

use super::*;

fn resolve(
    file: Option<&str>,
    variables: &[(&str, &str)],
    mut flags: FlagLayer,
) -> Result<Config, ConfigError> {
    let variables: BTreeMap<String, OsString> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
    let path = std::env::temp_dir().join(format!(
        "grpcscope-config-{}-{:?}.yaml",
        std::process::id(),
        std::thread::current().id()
    ));
    let path_of_none = std::path::PathBuf::from("/dev/null");
    flags.file = Some(path_of_none);
    if let Some(text) = file {
        let mut out = std::fs::File::create(&path).expect("the temporary directory can be written to");
        out.write_all(text.as_bytes()).expect("the file can be written");
        flags.file = Some(path.clone());
    }
    let result = Config::resolve(&flags, &|name| variables.get(name).cloned());
    if file.is_some() {
        std::fs::remove_file(&path).expect("the file is still there");
    }
    result.map_err(|error| ConfigError(error.0.replace(&path.display().to_string(), "FILE")))
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("it is an address")
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = Some("http:\n  listen: 10.0.0.1:1\n");
    let variables = [("GRPCSCOPE_HTTP_LISTEN", "10.0.0.2:2")];
    let flags = FlagLayer { listen: Some(address("10.0.0.3:3")), ..FlagLayer::default() };
    let listen = |file, variables: &[(&str, &str)], flags| {
        resolve(file, variables, flags).expect("all layers are right").http.listen
    };
    assert_eq!(listen(file, &variables, flags), address("10.0.0.3:3"));
    assert_eq!(listen(file, &variables, FlagLayer::default()), address("10.0.0.2:2"));
    assert_eq!(listen(file, &[], FlagLayer::default()), address("10.0.0.1:1"));
    assert_eq!(listen(None, &[], FlagLayer::default()), address("127.0.0.1:9464"));
}

#[test]
fn a_setting_in_one_layer_leaves_the_others_alone() {
    let config = resolve(
        Some("limits:\n  series: 7\n  series_ttl: 90s\ncapture: {ring_bytes: 64KiB}\n"),
        &[("GRPCSCOPE_LIMITS_METHODS", "8"), ("GRPCSCOPE_CAPTURE_BACKEND", "fexit")],
        FlagLayer { shards: NonZeroU8::new(2), log_format: Some(LogFormat::Json), ..FlagLayer::default() },
    )
    .expect("all layers are right");
    let defaults = LimitsConfig::default();
    assert_eq!((config.limits.series, config.limits.methods), (7, 8));
    assert_eq!(config.limits.series_ttl, Age(Duration::from_secs(90)));
    assert_eq!(config.limits.connections, defaults.connections);
    let shards = Shards::Number(NonZeroU8::MIN.saturating_add(1));
    assert_eq!(
        config.capture,
        CaptureConfig { backend: Backend::Fexit, ring_bytes: ByteSize(65_536), shards }
    );
    assert_eq!(config.log, LogConfig { format: LogFormat::Json, ..LogConfig::default() });
}

#[test]
fn every_setting_can_be_set_by_the_environment() {
    fn add_keys(keys: &mut Vec<String>, name: &str, settings: &serde_json::Value) {
        match settings.as_object() {
            Some(settings) => {
                settings.iter().for_each(|(key, setting)| add_keys(keys, &format!("{name}_{key}"), setting));
            }
            None => keys.push(name.to_uppercase()),
        }
    }
    let defaults = serde_json::to_value(Config::default()).expect("settings can be written");
    let mut keys = Vec::new();
    add_keys(&mut keys, "grpcscope", &defaults);
    assert!(keys.len() >= 13, "{keys:?}");
    assert!(keys.iter().any(|key| key == "GRPCSCOPE_FINDINGS_DEADLINES_LATE_COMPLETION"), "{keys:?}");
    for key in keys {
        // No setting takes this value, so a variable that is looked at is refused by its name.
        let error = resolve(None, &[(&key, "\u{1F600}")], FlagLayer::default())
            .expect_err("every variable is looked at");
        assert!(error.0.starts_with(&key), "{error}");
    }
}

#[test]
fn the_log_level_of_the_environment_is_ours_before_that_of_everybody() {
    let level = |variables: &[(&str, &str)]| {
        resolve(None, variables, FlagLayer::default()).expect("levels").log.level.to_string()
    };
    assert_eq!(level(&[("RUST_LOG", "debug")]), "debug");
    assert_eq!(level(&[("RUST_LOG", "debug"), ("GRPCSCOPE_LOG_LEVEL", "warn")]), "warn");
}

#[test]
fn variables_that_kubernetes_sets_for_a_service_are_ignored() {
    let variables = [("GRPCSCOPE_SERVICE_HOST", "10.0.0.1"), ("GRPCSCOPE_PORT", "tcp://10.0.0.1:9464")];
    assert_eq!(resolve(None, &variables, FlagLayer::default()), Ok(Config::default()));
}

#[test]
fn a_wrong_setting_is_answered_with_its_place_and_what_would_be_right() {
    let cases: [(&str, &str); 19] = [
        ("http:\n  lisen: 127.0.0.1:1\n", "FILE:2:3: unknown key `lisen`, did you mean `listen`?"),
        ("limit:\n  series: 1\n", "FILE:1:1: unknown key `limit`, did you mean `limits`?"),
        (
            "foo: 1\n",
            "FILE:1:1: unknown key `foo`, possible here: http, capture, rights, limits, budget, findings, restart, log",
        ),
        ("findings: {deadline: {}}\n", "FILE:1:12: unknown key `deadline`, did you mean `deadlines`?"),
        (
            "findings:\n  deadlines:\n    late: 5ms\n",
            "FILE:3:5: unknown key `late`, possible here: absurd_timeout, late_completion",
        ),
        ("findings:\n  deadlines: {absurd_timeout: long}\n", "`long` is no duration: write it like"),
        ("capture:\n  backend: fxit\n", "FILE:2:12: unknown value `fxit`, did you mean `fexit`?"),
        ("rights:\n  system_calls: kil\n", "FILE:2:17: unknown value `kil`, did you mean `kill`?"),
        ("rights: {user: 4294967295}\n", "rights.user is 4294967295: this is no user id"),
        ("limits:\n  series: many\n", "FILE:2:11: not a whole number"),
        ("capture:\n  ring_bytes: 16MB\n", "`16MB` is no size: write it like 65536, 64KiB, 16MiB or 1GiB"),
        ("capture:\n  shards: many\n", "`many` is no number of shards: write it like auto, 1 or 4"),
        ("capture:\n  shards: 0\n", "`0` is no number of shards: write it like auto, 1 or 4"),
        ("capture:\n  shards: 65\n", "capture.shards is 65: it must be auto, or from 1 to 64"),
        (
            "capture: {shards: 4}\nlimits: {state_bytes: 3MiB}\n",
            "is 3MiB: it must be at least 1MiB for each of 4 shards (capture.shards)",
        ),
        ("capture:\n  ring_bytes: 100000\n", "capture.ring_bytes is 100000: it must be a power of two"),
        ("restart: {file: state}\n", "restart.file is `state`: it must begin with /"),
        ("limits: {series: 0}\n", "limits.series is 0: it must be at least 1"),
        ("http: [\n", "FILE:1:7: "),
    ];
    for (file, expected) in cases {
        let error = resolve(Some(file), &[], FlagLayer::default()).expect_err(file);
        assert!(error.0.contains(expected), "{file:?} gave {error}");
        assert!(!error.0.contains('\n'), "more than one line: {error:?}");
    }
}

#[test]
fn a_file_with_nothing_in_it_means_the_defaults() {
    for text in ["", "\n\n", "# only\n  # comments\n", "{}", "http: {}\n"] {
        assert_eq!(resolve(Some(text), &[], FlagLayer::default()), Ok(Config::default()), "{text:?}");
    }
}

#[test]
fn a_file_that_is_not_there_is_an_error_if_it_was_named() {
    let flags = FlagLayer { file: Some("/nonexistent/x.yaml".into()), ..FlagLayer::default() };
    let error = Config::resolve(&flags, &|_| None).expect_err("there is no such file");
    assert!(error.0.starts_with("/nonexistent/x.yaml: cannot read the configuration: "), "{error}");
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let mut config = Config::default();
    config.http.listen = address("[::]:9464");
    config.limits.series_ttl = Age(Duration::from_millis(1_500));
    config.findings.deadlines.late_completion = Age(Duration::from_micros(250));
    config.log.level = "info,agent::capture=debug".parse().expect("a filter");
    let yaml = config.to_yaml().expect("settings can be written");
    assert_eq!(file::parse(&yaml), Ok(config), "{yaml}");
}

#[test]
fn thresholds_of_findings_default_to_those_of_the_core_and_reach_it() {
    use agent_core::detectors::Thresholds;
    assert_eq!(FindingsConfig::default().thresholds(), Thresholds::default());
    let file = "findings: {deadlines: {late_completion: 20ms}}\n";
    let config =
        resolve(Some(file), &[("GRPCSCOPE_FINDINGS_DEADLINES_ABSURD_TIMEOUT", "10m")], FlagLayer::default());
    let thresholds = config.expect("all layers are right").findings.thresholds();
    assert_eq!((thresholds.deadlines.late_ns, thresholds.deadlines.absurd_ns), (20_000_000, 600_000_000_000));
}

#[test]
fn every_threshold_of_a_finding_says_what_it_is_and_can_be_set_to_its_default() {
    for documented in FindingsConfig::documented() {
        assert!(documented.text.ends_with('.') && documented.text.len() > 10, "{documented:?}");
        let variable = format!("GRPCSCOPE_{}", documented.key.replace('.', "_")).to_uppercase();
        let config = resolve(None, &[(&variable, &documented.default)], FlagLayer::default());
        assert_eq!(config, Ok(Config::default()), "{documented:?}");
    }
}

#[test]
fn every_threshold_of_the_core_is_a_setting() {
    // A field a line, indented by its depth: eight spaces are a threshold of a detector.
    let core = format!("{:#?}", agent_core::detectors::Thresholds::default());
    let mut thresholds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut detector = "";
    for line in core.lines() {
        let name = line.trim_start();
        match (line.len() - name.len(), name.split_once(": ")) {
            (4, Some((name, _))) => detector = name,
            (8, Some(_)) => *thresholds.entry(detector).or_default() += 1,
            _ => {}
        }
    }
    let settings = serde_json::to_value(FindingsConfig::default()).expect("settings can be written");
    for (detector, count) in thresholds {
        let settings = settings[detector].as_object().map_or(0, serde_json::Map::len);
        assert_eq!(settings, count, "settings of {detector}: see config/findings.rs");
    }
}

#[test]
fn budgets_come_from_every_layer_and_bound_the_state_of_connections() {
    let file = Some("budget: {cpu: 0.25, memory: 64MiB}\n");
    let config = resolve(file, &[], FlagLayer::default()).expect("it is right");
    assert_eq!(config.budget, BudgetConfig { cpu: Some(Cpu(250)), memory: Some(ByteSize(64 << 20)) });
    assert_eq!(config.core_limits().state_bytes, 24 << 20, "half of what a ring of 16 MiB leaves");
    let variables = [("GRPCSCOPE_BUDGET_CPU", "300m"), ("GRPCSCOPE_BUDGET_MEMORY", "100MiB")];
    let config = resolve(file, &variables, FlagLayer::default()).expect("it is right");
    assert_eq!(config.budgets(), Budgets { cpu_millicores: Some(300), memory_bytes: Some(100 << 20) });
    let flags =
        FlagLayer { max_cpu: Some(Cpu(2)), max_memory: Some(ByteSize(1 << 30)), ..FlagLayer::default() };
    let config = resolve(file, &variables, flags).expect("it is right");
    assert_eq!(config.budgets(), Budgets { cpu_millicores: Some(2), memory_bytes: Some(1 << 30) });
    assert_eq!(config.core_limits().state_bytes, 128 << 20, "the limit is still one");
    let none = resolve(None, &[], FlagLayer::default()).expect("it is right");
    assert_eq!(none.budgets(), Budgets::default());
    let error = resolve(Some("budget: {memory: 17MiB}\n"), &[], FlagLayer::default()).expect_err("too small");
    assert!(error.0.contains("budget.memory is 17MiB") && error.0.contains("18MiB"), "{error}");
}

#[test]
fn the_number_of_shards_follows_the_cpus_and_the_memory_unless_it_is_given() {
    let shards =
        |file, cpus| resolve(Some(file), &[], FlagLayer::default()).expect("it is right").shards(cpus);
    let by_cpus = [1, 2, 15, 16, 64, 512].map(|cpus| shards("capture: {}\n", cpus));
    assert_eq!(by_cpus, [1, 1, 1, 2, 8, 8]);
    assert_eq!(shards("limits: {state_bytes: 3MiB}\n", 64), 3);
    assert_eq!(shards("capture: {shards: auto}\n", 32), 4);
    assert_eq!(shards("capture: {shards: 3}\n", 1), 3);
}
