//! Records all sixteen pairs of the test applications on the loopback interface, with both truths.
//!
//! For every pair: `CLIENT_to_SERVER.pcap`, `.client.jsonl`, `.server.jsonl`, and with `--hold` a pause in the
//! middle, whose time is in `.cut`: from there on, the recording is one that joined late. Needs `tcpdump` and root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use tests::apps::{Address, Client, Implementation, Pace, Server};
use tests::plan;
use tests::process::Process;
use tests::truth::wall_clock_ns;
use tests::workspace;

#[derive(Parser)]
struct Arguments {
    /// Folder for the recordings.
    folder: PathBuf,
    /// Calls for each pair.
    #[arg(long, default_value_t = 120)]
    calls: u64,
    /// Calls at once.
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Pause in the middle.
    #[arg(long)]
    hold: bool,
    /// Only pairs whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.folder)?;
    for (index, client) in Implementation::ALL.into_iter().enumerate() {
        for (other, server) in Implementation::ALL.into_iter().enumerate() {
            let name = format!("{client}_to_{server}");
            if name.contains(&arguments.only) {
                let seed = (index * 4 + other) as u64 + 100;
                record(&arguments, &name, client, server, seed).with_context(|| name)?;
            }
        }
    }
    Ok(())
}

fn record(
    arguments: &Arguments,
    name: &str,
    client: Implementation,
    server: Implementation,
    seed: u64,
) -> anyhow::Result<()> {
    let folder = workspace::scratch(&format!("record-{name}"))?;
    let server = Server::start(server, &folder, false)?;
    let Address::Port(port) = server.address else { anyhow::bail!("the server listens on no port") };
    let recording = arguments.folder.join(format!("{name}.pcap"));
    let mut tcpdump = Command::new("tcpdump");
    tcpdump.args(["-i", "lo", "-s", "0", "-B", "65536", "-U", "--immediate-mode", "-Z", "root", "-w"]);
    tcpdump.arg(&recording).args(["tcp", "port", &port.to_string()]);
    let mut recorder = Process::start("tcpdump", &mut tcpdump, &folder.join("tcpdump.log"))?;
    wait_for_text(&folder.join("tcpdump.log"), "listening on")?;

    let calls = plan::mixed(arguments.calls, seed);
    let pace = Pace { concurrency: arguments.concurrency, rate: None, hold: arguments.hold };
    let mut client = Client::start(client, &server.address, &folder, "1", &calls, pace)?;
    if arguments.hold {
        client.wait_until_held()?;
        // What is still under way after the last answer shall be over.
        std::thread::sleep(Duration::from_millis(500));
        std::fs::write(arguments.folder.join(format!("{name}.cut")), wall_clock_ns().to_string())?;
        client.go_on()?;
    }
    let made = client.finish()?;
    let handled = server.truth()?;
    std::thread::sleep(Duration::from_millis(300));
    recorder.signal(libc::SIGINT);
    recorder.wait(Duration::from_secs(20))?;
    let kept = std::fs::read_to_string(folder.join("tcpdump.log"))?;
    anyhow::ensure!(kept.contains("\n0 packets dropped by kernel"), "the recording has gaps: {kept}");
    for side in ["client-1", "server"] {
        let short = side.trim_end_matches("-1");
        std::fs::copy(
            folder.join(format!("{side}.truth.jsonl")),
            arguments.folder.join(format!("{name}.{short}.jsonl")),
        )?;
    }
    println!("{name}: {} calls made, {} handled", made.len(), handled.len());
    Ok(())
}

fn wait_for_text(path: &Path, text: &str) -> anyhow::Result<()> {
    for _ in 0..500 {
        if std::fs::read_to_string(path).unwrap_or_default().contains(text) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("{} does not say `{text}`", path.display())
}
