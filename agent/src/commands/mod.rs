//! The commands, one a file.

pub mod calls;
pub mod check;
pub mod replay;
pub mod run;
