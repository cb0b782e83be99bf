//! Method names: kept once each, up to a bound; and what a connection's calls have shown of their types.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

/// All method names of an observer.
#[derive(Debug)]
pub(crate) struct Methods {
    names: HashMap<Box<[u8]>, Arc<str>, RandomState>,
    limit: usize,
    /// A name was left out since this was last asked.
    limit_hit: bool,
}

/// What calls of a method have shown so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Some call had more than one request message.
    pub(crate) streams_requests: bool,
    /// Some call had more than one response message.
    pub(crate) streams_responses: bool,
    /// Some call was complete with one message each way.
    pub(crate) seen_unary: bool,
}

/// A longer `:path` is not a method name.
const LONGEST_NAME: usize = 1024;

impl Methods {
    pub(crate) fn new(limit: usize) -> Methods {
        Methods { names: HashMap::default(), limit, limit_hit: false }
    }

    /// The kept name for `path`, or none beyond the limit.
    pub(crate) fn intern(&mut self, path: &[u8]) -> Option<Arc<str>> {
        if let Some(name) = self.names.get(path) {
            return Some(Arc::clone(name));
        }
        if self.names.len() >= self.limit || path.len() > LONGEST_NAME {
            self.limit_hit = true;
            return None;
        }
        let name: Arc<str> = Arc::from(String::from_utf8_lossy(path));
        self.names.insert(Box::from(path), Arc::clone(&name));
        Some(name)
    }

    /// Says once that a name was left out.
    pub(crate) fn take_limit_hit(&mut self) -> bool {
        std::mem::take(&mut self.limit_hit)
    }
}

/// What the calls of one connection have shown of their methods. Not shared between connections, so that
/// what is said of a connection depends on nothing else.
///
/// Names are told apart by their address, since each is kept once: a hash of the name and a comparison took 2 % of the
/// instructions of a call.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    by_method: Vec<(Arc<str>, Shape)>,
}

/// Methods of one connection whose shape is remembered.
const REMEMBERED_SHAPES: usize = 256;

impl Shapes {
    /// Heap bytes that are held now; the names are shared.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.by_method.capacity() * size_of::<(Arc<str>, Shape)>()
    }

    /// What is known of a method, to be added to; nothing beyond the bound.
    pub(crate) fn of(&mut self, method: &Arc<str>) -> Option<&mut Shape> {
        let known = self.by_method.iter().position(|(name, _)| Arc::ptr_eq(name, method));
        let at = match known {
            // Those that are in use gather at the front.
            Some(at) => {
                let nearer = at / 2;
                self.by_method.swap(at, nearer);
                nearer
            }
            None if self.by_method.len() >= REMEMBERED_SHAPES => return None,
            None => {
                self.by_method.push((Arc::clone(method), Shape::default()));
                self.by_method.len() - 1
            }
        };
        self.by_method.get_mut(at).map(|(_, shape)| shape)
    }
}
