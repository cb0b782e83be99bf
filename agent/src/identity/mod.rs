//! Who a process is: its container and pod, and a service name that a person recognises.
//!
//! In comes a pid with the name that the kernel recorded; out goes an [`Identity`] in which whatever could
//! not be read any more is missing. Nothing else of a process' environment or command line is kept.

mod cache;
mod container;
mod process;
mod service_name;

pub use cache::Identities;
pub use container::Container;
pub use process::Identity;
pub use service_name::NameSource;
