//! Installs what the live tests need into the cache of the repository; `--check` only looks.

use std::process::ExitCode;

use clap::Parser;
use tests::provision::{self, ITEMS, State};
use tests::workspace;

/// Installs what the live tests need: gRPC implementations, a Go toolchain, Prometheus, Envoy.
///
/// Everything goes into `.cache` of the repository (or GRPCSCOPE_CACHE), nothing into the system. What is there
/// already is left alone. What cannot be installed is an error with CI=true or GRPCSCOPE_REQUIRE=1.
#[derive(Parser)]
struct Arguments {
    /// Only say what is there and what is missing; exit code 1 if something is.
    #[arg(long)]
    check: bool,
    /// Only these items.
    #[arg(value_name = "ITEM")]
    items: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let known: Vec<&str> = ITEMS.iter().map(|item| item.name).collect();
    if let Some(unknown) = arguments.items.iter().find(|name| !known.contains(&name.as_str())) {
        eprintln!("no item `{unknown}`; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    println!("cache: {}", workspace::cache().display());
    let mut missing = 0;
    for item in &ITEMS {
        if !arguments.items.is_empty() && !arguments.items.iter().any(|name| name == item.name) {
            continue;
        }
        match provision::state(item) {
            State::Ready(versions) => println!("{}: there ({versions})", item.name),
            State::Missing if arguments.check => {
                println!("{}: MISSING ({})", item.name, item.purpose);
                missing += 1;
            }
            State::Missing => {
                println!("{}: installing {} …", item.name, item.purpose);
                match provision::install(item) {
                    Ok(versions) => println!("{}: installed ({versions})", item.name),
                    Err(error) => {
                        println!("{}: NOT INSTALLED: {error:#}", item.name);
                        missing += 1;
                    }
                }
            }
        }
    }
    if missing > 0 && (arguments.check || workspace::is_strict()) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
