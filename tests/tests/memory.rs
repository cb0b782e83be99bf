//! What the agent holds when nothing happens. Needs Linux 6.3 (tp_btf).

use anyhow::{Context as _, Result, ensure};
use tests::agent::{Kernel, Run};
use tests::workspace;

#[test]
fn memory_that_loading_took_is_given_back() -> Result<()> {
    let Some(kernel) = Kernel::take("memory") else { return Ok(()) };
    let agent = Run::start(&kernel, &workspace::scratch("memory")?)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    agent.stop()?;
    let heap = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no heap")?;
    let kib: u64 = heap.split_whitespace().next().context("no number")?.parse()?;
    // The kernel's types are 20 MiB while programs are loaded, and all that is needed afterwards is 4.
    ensure!(kib < 12 << 10, "{kib} KiB of heap after loading:\n{status}");
    Ok(())
}
