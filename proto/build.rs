//! Compiles the `.proto` files with protox: no `protoc` is needed.

use std::error::Error;

const FILES: [&str; 6] = [
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
    "shop/v1/inventory.proto",
    "shop/v1/orders.proto",
    "shop/v1/payments.proto",
    "shop/v1/storefront.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
