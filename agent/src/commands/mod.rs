//! The commands, one a file.

mod signals;
pub mod calls;
pub mod check;
pub mod replay;
pub mod run;
