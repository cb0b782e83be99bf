//! The frame walker in this kernel, byte by byte against random traffic. Needs Linux 6.3 (tp_btf).
//!
//! `cargo xtask kernels` runs the same check on older kernels and with fexit.

use std::process::Command;

use serde_json::Value;
use tests::agent::Kernel;

#[test]
fn what_the_kernel_ships_is_what_was_sent_but_for_payload() {
    let Some(_kernel) = Kernel::take("walker") else { return };
    for (looping, seeds) in [("auto", "4"), ("bounded", "1")] {
        let output = Command::new(env!("CARGO_BIN_EXE_walker_check"))
            .args(["--backend", "tp_btf", "--loop", looping, "--seeds", seeds, "--json"])
            .output()
            .expect("walker_check was built with this test");
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        let report: Value =
            serde_json::from_str(last).unwrap_or_else(|error| panic!("{looping}: {error}: {said}{errors}"));
        assert!(output.status.success(), "{looping}: {report} {errors}");
        assert!(report["flows"].as_u64().is_some_and(|flows| flows > 0), "{looping}: {report}");
        assert_eq!(report["exact_flows"], report["flows"], "{looping}: {report}");
        assert_eq!(report["lost"], 0, "{looping}: {report}");
    }
}
