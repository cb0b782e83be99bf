//! The program from outside: wrong input is answered with one line and the exit code that is documented.

mod program;

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Stdio;

use program::{Ran, command, run};

/// A file that is removed at the end of its test.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("grpcscope-cli-{}-{name}", std::process::id()));
        fs::write(&path, content).expect("the temporary directory can be written to");
        TemporaryFile(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the temporary directory has a plain name")
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[track_caller]
fn assert_one_line(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "not one line: {:?}", ran.stderr);
    for part in parts {
        assert!(ran.stderr.contains(part), "no {part:?} in {:?}", ran.stderr);
    }
}

/// A pcap file: header, and packets that are no IP.
fn pcap(packets: usize) -> Vec<u8> {
    let mut file = Vec::new();
    for field in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(field.to_le_bytes());
    }
    for number in 0..packets as u32 {
        for field in [1_700_000_000, number, 20, 20] {
            file.extend(field.to_le_bytes());
        }
        file.extend([0xee; 20]);
    }
    file
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("a vector takes everything");
    encoder.finish().expect("a vector takes everything")
}

fn summary(ran: &Ran) -> serde_json::Value {
    let line = ran.stdout.lines().last().expect("there is a last line");
    let value: serde_json::Value = serde_json::from_str(line).expect("the last line is JSON");
    assert_eq!(value["type"], "summary");
    value
}

#[test]
fn an_unknown_key_in_the_configuration_is_code_78_with_its_place() {
    let file = TemporaryFile::new("unknown-key.yaml", b"http:\n  lisen: 127.0.0.1:1\n");
    for arguments in [vec!["replay", "x.pcap"], vec!["run"], vec!["check"], vec!["calls"]] {
        let ran = run(&[&["--config", file.path()], &arguments[..]].concat());
        assert_one_line(&ran, 78, &[file.path(), ":2:3: unknown key `lisen`, did you mean `listen`?"]);
    }
}

#[test]
fn a_wrong_variable_is_code_78_with_its_name() {
    let output = command(&["check"]).env("GRPCSCOPE_LIMITS_SERIES", "many").output().expect("it starts");
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(text, "grpcscope: GRPCSCOPE_LIMITS_SERIES: `many` is no count: write it like 4000\n");
}

#[test]
fn a_wrong_command_line_is_code_2() {
    for arguments in [
        &["replay"][..],
        &["repaly", "x"],
        &["replay", "--jsn", "x"],
        &["run", "--listen", "nowhere"],
        &["run", "--capture", "magic"],
        &["check", "-v", "-q"],
        &["calls", "--pid", "x"],
        &[],
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {ran:?}");
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{ran:?}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [&["--help"][..], &["-h"], &["--version"], &["-V"], &["replay", "--help"]] {
        let ran = run(arguments);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
    assert_eq!(run(&["-V"]).stdout, format!("grpcscope {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_settings_can_be_printed_and_read_back() {
    let ran = run(&["run", "--listen", "[::1]:1", "--capture", "fexit", "--print-config"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let file = TemporaryFile::new("printed.yaml", ran.stdout.as_bytes());
    assert_eq!(run(&["check", "--config", file.path(), "--print-config"]).stdout, ran.stdout);
    assert!(ran.stdout.contains("[::1]:1") && ran.stdout.contains("fexit"), "{}", ran.stdout);
}

#[test]
fn what_is_no_recording_is_code_1_with_a_line() {
    let text = TemporaryFile::new("text.pcap", b"this is not a recording\n");
    let empty = TemporaryFile::new("empty.pcap", b"");
    let zstd = TemporaryFile::new("x.pcap.zst", &[0x28, 0xb5, 0x2f, 0xfd, 0, 0]);
    let directory = std::env::temp_dir();
    for (path, parts) in [
        (text.path(), ["no recording", "pcap nor pcapng"]),
        (empty.path(), ["no recording", "empty"]),
        (zstd.path(), ["cannot open", "zstd -dc FILE | grpcscope replay -"]),
        (directory.to_str().expect("a plain name"), ["cannot open", "directory"]),
        ("/nonexistent/x.pcap", ["cannot open", "No such file"]),
    ] {
        let ran = run(&["replay", "--json", path]);
        assert_one_line(&ran, 1, &[&[path][..], &parts[..]].concat());
        assert_eq!(summary(&ran)["complete"], false);
    }
}

#[test]
fn a_truncated_recording_is_code_1_with_a_line_after_what_stands_before() {
    let whole = pcap(3);
    let cut = TemporaryFile::new("cut.pcap", &whole[..whole.len() - 5]);
    let zipped = gzip(&pcap(4_000));
    let cut_gzip = TemporaryFile::new("cut.pcap.gz", &zipped[..zipped.len() - 12]);
    let ran = run(&["replay", "--json", cut.path()]);
    assert_one_line(&ran, 1, &[cut.path(), "truncated after packet 2"]);
    assert_eq!((&summary(&ran)["packets"], &summary(&ran)["complete"]), (&2.into(), &false.into()));
    let ran = run(&["replay", "--json", cut_gzip.path()]);
    assert_one_line(&ran, 1, &["truncated after packet "]);
    assert!(summary(&ran)["packets"].as_u64().is_some_and(|packets| packets > 100), "{ran:?}");
}

#[test]
fn a_corrupt_recording_is_code_1_with_a_line() {
    let mut bytes = pcap(2);
    bytes[24 + 36 + 8..24 + 36 + 12].fill(0xff);
    let file = TemporaryFile::new("corrupt.pcap", &bytes);
    assert_one_line(&run(&["replay", file.path()]), 1, &["corrupt after packet 1"]);
}

#[test]
fn one_bad_recording_does_not_keep_the_others_from_being_read() {
    let good = TemporaryFile::new("good.pcap", &pcap(3));
    let bad = TemporaryFile::new("bad.pcap", b"nothing");
    let ran = run(&["replay", "--json", bad.path(), good.path()]);
    assert_one_line(&ran, 1, &[bad.path()]);
    assert_eq!(summary(&ran)["packets"], 3);
}

#[test]
fn hostile_file_names_cannot_forge_lines() {
    let ran = run(&["replay", "/nonexistent/a\nERROR\x1b[2Jforged"]);
    assert_one_line(&ran, 1, &[r"/nonexistent/a\nERROR\x1b[2Jforged"]);
}

#[test]
fn content_decides_and_not_the_name_and_a_dash_is_the_standard_input() {
    let plain = TemporaryFile::new("plain.gz", &pcap(3));
    let zipped = TemporaryFile::new("zipped.pcap", &gzip(&pcap(3)));
    for file in [&plain, &zipped] {
        let ran = run(&["replay", "--json", file.path()]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        let summary = summary(&ran);
        assert_eq!((&summary["packets"], &summary["skipped_packets"]["not_ip"]), (&3.into(), &3.into()));
    }
    for bytes in [pcap(5), gzip(&pcap(5))] {
        let mut child = command(&["replay", "--json", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut input = child.stdin.take().expect("it is piped");
        // Two parts: the first read does not give the whole header.
        input.write_all(&bytes[..3]).expect("it reads");
        input.flush().expect("it reads");
        input.write_all(&bytes[3..]).expect("it reads");
        drop(input);
        let mut stdout = String::new();
        child.stdout.take().expect("it is piped").read_to_string(&mut stdout).expect("UTF-8");
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
        assert!(stdout.contains(r#""packets":5"#), "{stdout}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let file = TemporaryFile::new("reader.pcap", &pcap(3));
    let mut child = command(&["replay", file.path()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn a_finding_is_explained_and_without_a_name_all_are_listed() {
    let list = run(&["explain"]);
    assert_eq!((list.code, list.stderr.as_str()), (Some(0), ""));
    for name in agent_core::detectors::Name::ALL {
        assert!(list.stdout.lines().any(|line| line.starts_with(name.as_str())), "{}", name.as_str());
    }
    let one = run(&["explain", "deadline_missing"]);
    assert_eq!((one.code, one.stderr.as_str()), (Some(0), ""));
    for part in
        ["deadline_missing (problem, event)", "What it means", "Why it hurts", "`context.WithTimeout`"]
    {
        assert!(one.stdout.contains(part), "{part}: {}", one.stdout);
    }
    let late = run(&["explain", "deadline_late_completion"]);
    assert!(late.stdout.contains("findings.deadlines.late_completion: 5ms"));
    let unknown = run(&["explain", "deadline"]);
    assert!(
        unknown.code == Some(2) && unknown.stderr.contains("is none of pinned_connection, "),
        "{unknown:?}"
    );
}

#[test]
fn links_are_shown_only_where_the_command_watches_by_itself() {
    let refused = run(&["findings", "--links"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("--live"), "{refused:?}");
    let settings = run(&["findings", "--live", "--links", "--print-config"]);
    assert_eq!((settings.code, settings.stderr.as_str()), (Some(0), ""));
}
