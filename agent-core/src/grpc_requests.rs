//! Recognises gRPC requests on a connection that was joined late by the fields that they share.
//!
//! A request whose content type refers to an entry from before the join says nothing by itself. But once a
//! request has shown to be gRPC (by a field that only gRPC sends, or by its messages), its content type is
//! one of the entries that it refers to; a request that refers to all of these has the same one.

use crate::hpack::EntryId;

/// Requests of one connection that were gRPC, by the unknown entries that they refer to.
#[derive(Debug, Default)]
pub(crate) struct GrpcRequests {
    proven: Vec<Vec<EntryId>>,
}

/// Different requests that are remembered.
const REMEMBERED: usize = 8;
/// Requests with more unknown fields are not remembered.
const FIELDS: usize = 16;

impl GrpcRequests {
    /// A request with these fields was gRPC, and its content type was not known.
    pub(crate) fn learn(&mut self, fields: &[EntryId]) {
        if fields.is_empty() || fields.len() > FIELDS || self.include(fields) {
            return;
        }
        if self.proven.len() >= REMEMBERED {
            self.proven.remove(0);
        }
        self.proven.push(fields.to_vec());
    }

    /// Heap bytes that are held now.
    pub(crate) fn heap_bytes(&self) -> usize {
        let fields: usize = self.proven.iter().map(Vec::capacity).sum();
        fields * size_of::<EntryId>() + self.proven.capacity() * size_of::<Vec<EntryId>>()
    }

    /// A request with these fields has the content type of one that was gRPC.
    pub(crate) fn include(&self, fields: &[EntryId]) -> bool {
        !fields.is_empty()
            && self.proven.iter().any(|proven| proven.iter().all(|field| fields.contains(field)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_all_fields_of_a_proven_one_has_its_content_type() {
        let id = |ordinal| EntryId { epoch: 1, ordinal };
        let mut requests = GrpcRequests::default();
        assert!(!requests.include(&[id(-1)]));
        requests.learn(&[id(-3), id(-4)]);
        assert!(requests.include(&[id(-4), id(-3), id(-9)]));
        assert!(!requests.include(&[id(-3)]), "the other one may be the content type");
        assert!(!requests.include(&[EntryId { epoch: 2, ordinal: -3 }, id(-4)]), "another epoch");
        assert!(!requests.include(&[]));
    }
}
