//! `cargo xtask bench`: figures, each side by side in one run with a peer.
//!
//! The benches are a workspace of their own (`bench/`), so that peers with open advisories (`hpack`) stay out
//! of the product's lock file.

use anyhow::Result;

use crate::repo;
use crate::shell::cmd;

/// Which bench.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is measured.
    #[arg(value_enum)]
    what: What,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// The HPACK decoder, with nghttp2, h2, hpack and loona-hpack.
    Hpack,
}

/// Runs `cargo xtask bench`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let bin = match args.what {
        What::Hpack => "hpack",
    };
    let json: &[&str] = if args.json { &["--", "--json"] } else { &[] };
    cmd("cargo")
        .args(["run", "--quiet", "--release", "--manifest-path", "bench/Cargo.toml", "--bin", bin])
        .args(json)
        .dir(repo::root())
        .run()
}
