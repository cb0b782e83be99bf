//! The contract between the kernel programs (`agent-ebpf`) and user space: the records of the ring, the
//! counters, and the frame walker that both sides share.
//!
//! Nothing here allocates or panics, and nothing here interprets what it carries: the kernel leaves bytes
//! out, it never decides what they mean.
#![no_std]
#![deny(unsafe_code)]

pub mod counter;
pub mod flow;
pub mod frame;
pub mod ring;
pub mod walk;
