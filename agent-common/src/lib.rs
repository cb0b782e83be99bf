//! The contract between the kernel programs (`agent-ebpf`) and user space: the records of the ring, and
//! the frame walker that both sides share.
//!
//! Nothing here allocates or panics, and nothing here interprets what it carries: the kernel leaves bytes
//! out, it never decides what they mean.
#![no_std]
#![forbid(unsafe_code)]

pub mod ring;
