//! The commands, one a file.

mod live;
mod signals;
pub mod calls;
pub mod check;
pub mod explain;
pub mod findings;
pub mod replay;
pub mod run;
