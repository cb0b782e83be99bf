//! Reading and writing fields of what several programs share: each access is one load or store, and none is left out.

macro_rules! get {
    ($p:ident . $field:ident) => {
        core::ptr::read_volatile(&raw const (*$p).$field)
    };
}

macro_rules! set {
    ($p:ident . $field:ident = $value:expr) => {{
        let value = $value;
        core::ptr::write_volatile(&raw mut (*$p).$field, value)
    }};
}

pub(crate) use {get, set};
