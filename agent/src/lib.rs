//! The agent of grpcscope: everything with I/O. Modules stand in the order in which the data flows.

pub mod capture;
