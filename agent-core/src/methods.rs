//! What a connection's calls have shown of the types of their methods.

use std::sync::Arc;

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
