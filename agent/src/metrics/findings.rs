//! The series of what was found of one workload: a counter, and for what lasts how many hold now.

use std::sync::Arc;

use agent_core::detectors::{Name, Verdict, correlation};
use agent_core::observation::Side;

use super::Metrics;
use super::labels::{Method, Workload};
use super::series::{Cell, Found, Key, Scope, Update};
use super::store::{Place, Store};

/// Counts findings that have the same labels.
#[derive(Debug)]
pub struct FindingSeries {
    store: Arc<Store>,
    shard: usize,
    key: Key,
    verdict: Verdict,
    found: Found,
    place: Option<Place>,
}

/// A finding that holds; dropping it ends it.
#[derive(Debug)]
pub struct Firing {
    store: Arc<Store>,
    shard: usize,
    place: Place,
    cell: Cell,
}

impl Metrics {
    /// The series of findings that have these labels; `method` is `None` if they are not about calls.
    pub(crate) fn findings(
        &self,
        workload: Workload,
        (side, method): (Option<Side>, Option<Method>),
        verdict: Verdict,
        (name, cause): (Name, Option<&'static str>),
        link: Option<correlation::Evidence>,
    ) -> FindingSeries {
        let store = Arc::clone(&self.sources.store);
        FindingSeries {
            shard: store.shard_of(&workload),
            store,
            key: Key { workload: Arc::new(workload), scope: Scope::Findings(side, method) },
            verdict,
            found: Found { name, cause, link },
            place: None,
        }
    }
}

impl FindingSeries {
    /// One more.
    pub fn count(&mut self) {
        self.add(Cell::Finding(self.verdict, self.found));
    }

    /// One more that lasts.
    pub fn begin(&mut self) -> Firing {
        self.count();
        let (place, is_general) = self.add(Cell::Firing(self.found));
        let cell = Cell::Firing(self.found);
        let cell = if is_general { cell.general() } else { cell };
        Firing { store: Arc::clone(&self.store), shard: self.shard, place, cell }
    }

    fn add(&mut self, cell: Cell) -> (Place, bool) {
        let mut update = Update::default();
        update.add(cell, 1);
        let mut shard = self.store.shard(self.shard);
        let place = match self.place {
            Some(place) if shard.still(place) => shard.place_at(place, &update),
            Some(_) | None => shard.place(self.key.clone(), &update),
        };
        self.place = Some(place);
        (place, shard.is_general(place))
    }
}

impl Drop for Firing {
    fn drop(&mut self) {
        self.store.shard(self.shard).decrement(self.place, self.cell);
    }
}
