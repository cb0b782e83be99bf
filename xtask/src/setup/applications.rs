//! The applications of the live tests: grpcio, grpc-js, grpc-go, Envoy, Prometheus and what checks manifests.
//!
//! The recipes live with the tests that use them, in the program `provision` of the crate `tests`. It says what
//! it installs, into the same cache, and does nothing when all is there; this only runs it.

use anyhow::{Context, Result};

use crate::repo;
use crate::shell::cmd;

/// Installs what is missing.
pub(super) fn provision() -> Result<()> {
    cmd("cargo")
        .env("GRPCSCOPE_CACHE", repo::cache())
        .args(["run", "--quiet", "--package", "tests", "--bin", "provision"])
        .dir(repo::root())
        .run()
        .context("install the applications of the tests")
}
