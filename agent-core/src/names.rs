//! Texts from the wire that are kept once each, up to a bound: names of methods, and authorities.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

/// All texts of one kind of an observer.
#[derive(Debug)]
pub(crate) struct Names {
    names: HashMap<Box<[u8]>, Arc<str>, RandomState>,
    limit: usize,
    /// A name was left out since this was last asked.
    limit_hit: bool,
}

/// A longer text is no name.
const LONGEST_NAME: usize = 1024;

impl Names {
    pub(crate) fn new(limit: usize) -> Names {
        Names { names: HashMap::default(), limit, limit_hit: false }
    }

    /// The kept name for `octets`, or none beyond the limit.
    pub(crate) fn intern(&mut self, octets: &[u8]) -> Option<Arc<str>> {
        if let Some(name) = self.names.get(octets) {
            return Some(Arc::clone(name));
        }
        if self.names.len() >= self.limit || octets.len() > LONGEST_NAME {
            self.limit_hit = true;
            return None;
        }
        let name: Arc<str> = Arc::from(String::from_utf8_lossy(octets));
        self.names.insert(Box::from(octets), Arc::clone(&name));
        Some(name)
    }

    /// Says once that a name was left out.
    pub(crate) fn take_limit_hit(&mut self) -> bool {
        std::mem::take(&mut self.limit_hit)
    }
}
