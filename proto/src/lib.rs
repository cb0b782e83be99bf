//! The demo's services and the public `google.rpc` error types, compiled without `protoc`.
//!
//! The shop is small but behaves like a system: shoppers call the storefront, it calls orders and inventory, orders
//! call inventory and payments: three hops, all four call types. The programs that serve it are in
//! `src/bin/grpcscope-demo`.

pub mod raw;

/// The services of the demo's shop (`proto/shop/v1`).
pub mod shop {
    #![expect(missing_docs, reason = "generated; the comments are in the .proto files")]
    #![expect(clippy::allow_attributes, reason = "generated")]
    tonic::include_proto!("shop.v1");
}

/// The public error types that `grpc-status-details-bin` carries (`proto/google/rpc`).
pub mod google {
    pub mod rpc {
        //! `google.rpc`: [`Status`] and its standard details.
        #![expect(missing_docs, reason = "generated; the comments are in the .proto files")]
        tonic::include_proto!("google.rpc");
    }
}
