//! How calls are spread, as of the detectors' last look: gauges that are replaced as a whole, with a bound of their own.
//!
//! Processes of one workload are put together, so that no series names a process or an address: the greatest share, the
//! oldest connection, and how many processes are how. What is made of it over all nodes is in `deploy/prometheus`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_core::detectors::{Balanced, Served, Spread};

use super::labels::{OTHER, SERVICE_BYTES_MAX, UNRESOLVED, Workload, printable};

/// Most pairs of a client workload and a destination, and most server workloads. Those beyond share `_OTHER`.
const PAIRS_MAX: usize = 500;

/// What there is now, by shard: the processes of a workload may be in several.
#[derive(Debug, Default)]
pub(super) struct Balance(Mutex<BTreeMap<u32, BalanceSnapshot>>);

/// One moment of it.
#[derive(Clone, Debug, Default)]
pub(super) struct BalanceSnapshot {
    /// By client workload and destination.
    pub(super) clients: BTreeMap<(String, String), Clients>,
    /// By server workload.
    pub(super) servers: BTreeMap<String, Servers>,
    pub(super) refused: u64,
}

/// The client processes of a workload, for one destination.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clients {
    pub(super) one: u64,
    pub(super) several: u64,
    pub(super) few_calls: u64,
    /// Greatest share of a busiest connection; `None` if none has enough calls.
    pub(super) busiest_ratio: Option<f64>,
    pub(super) connections: u64,
    pub(super) oldest_ns: u64,
    pub(super) backends: u64,
}

/// The server processes of a workload.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Servers {
    pub(super) with_calls: u64,
    pub(super) without_calls: u64,
    pub(super) calls: u64,
    pub(super) busiest_calls: u64,
}

impl Balance {
    pub(super) fn set(&self, shard: u32, spreads: &[Spread], served: &[Served], refused: u64) {
        let mut next = BalanceSnapshot { refused, ..BalanceSnapshot::default() };
        for spread in spreads {
            let workload = Workload::new(&spread.owner.workload).service_name().to_owned();
            let destination = spread.destination.as_deref();
            let destination =
                destination.map_or_else(|| UNRESOLVED.to_owned(), |name| printable(name, SERVICE_BYTES_MAX));
            next.client((workload, destination)).add(&Clients::of(spread));
        }
        for served in served {
            let workload = Workload::new(&served.owner.workload).service_name().to_owned();
            next.server(workload).add(&Servers::of(served));
        }
        self.lock().insert(shard, next);
    }

    pub(super) fn snapshot(&self) -> BalanceSnapshot {
        let shards = self.lock();
        let mut shards = shards.values();
        // What is within the bounds stays as it is; that of the others is added within them.
        let mut all = shards.next().cloned().unwrap_or_default();
        for of_one in shards {
            all.refused = all.refused.saturating_add(of_one.refused);
            for (key, clients) in &of_one.clients {
                all.client(key.clone()).add(clients);
            }
            for (key, servers) in &of_one.servers {
                all.server(key.clone()).add(servers);
            }
        }
        all
    }

    /// A thread that panicked while it held the lock left numbers that are still numbers.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, BalanceSnapshot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BalanceSnapshot {
    fn client(&mut self, key: (String, String)) -> &mut Clients {
        let is_full = self.clients.len() >= PAIRS_MAX && !self.clients.contains_key(&key);
        let key = if is_full { (OTHER.to_owned(), OTHER.to_owned()) } else { key };
        self.clients.entry(key).or_default()
    }

    fn server(&mut self, key: String) -> &mut Servers {
        let is_full = self.servers.len() >= PAIRS_MAX && !self.servers.contains_key(&key);
        self.servers.entry(if is_full { OTHER.to_owned() } else { key }).or_default()
    }
}

impl Clients {
    fn of(spread: &Spread) -> Clients {
        let is = |balanced| u64::from(spread.balanced == balanced);
        let ratio = spread.busiest_calls as f64 / spread.calls.max(1) as f64;
        Clients {
            one: is(Balanced::OneConnection),
            several: is(Balanced::SeveralConnections),
            few_calls: is(Balanced::FewCalls),
            busiest_ratio: (spread.balanced != Balanced::FewCalls).then_some(ratio),
            connections: u64::from(spread.connections),
            oldest_ns: spread.oldest_ns,
            backends: u64::from(spread.backends),
        }
    }

    fn add(&mut self, other: &Clients) {
        self.one += other.one;
        self.several += other.several;
        self.few_calls += other.few_calls;
        self.busiest_ratio = match (self.busiest_ratio, other.busiest_ratio) {
            (Some(one), Some(other)) => Some(one.max(other)),
            (one, other) => one.or(other),
        };
        self.connections += other.connections;
        self.oldest_ns = self.oldest_ns.max(other.oldest_ns);
        self.backends = self.backends.max(other.backends);
    }
}

impl Servers {
    fn of(served: &Served) -> Servers {
        Servers {
            with_calls: u64::from(served.calls > 0),
            without_calls: u64::from(served.calls == 0),
            calls: served.calls,
            busiest_calls: served.calls,
        }
    }

    fn add(&mut self, other: &Servers) {
        self.with_calls += other.with_calls;
        self.without_calls += other.without_calls;
        self.calls = self.calls.saturating_add(other.calls);
        self.busiest_calls = self.busiest_calls.max(other.busiest_calls);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent_core::detectors::{Owner, ProcessId};

    use super::*;

    fn owner(process: u64, workload: &str) -> Arc<Owner> {
        Arc::new(Owner { process: ProcessId(process), workload: workload.into() })
    }

    fn spread(process: u64, destination: &str, calls: u64, busiest_calls: u64, balanced: Balanced) -> Spread {
        Spread {
            owner: owner(process, "orders"),
            destination: Some(destination.into()),
            calls,
            busiest_calls,
            connections: 2,
            backends: 3,
            oldest_ns: process,
            balanced,
        }
    }

    #[test]
    fn processes_of_a_workload_are_put_together() {
        let balance = Balance::default();
        let spreads = [
            spread(1, "shop:80", 100, 100, Balanced::OneConnection),
            spread(2, "shop:80", 100, 50, Balanced::SeveralConnections),
            spread(3, "shop:80", 1, 1, Balanced::FewCalls),
        ];
        let served = [7, 0, 3].map(|calls| Served { owner: owner(calls, "shop"), calls, connections: 1 });
        balance.set(0, &spreads, &served, 0);
        let snapshot = balance.snapshot();
        let clients = snapshot.clients[&("orders".to_owned(), "shop:80".to_owned())];
        assert_eq!((clients.one, clients.several, clients.few_calls), (1, 1, 1));
        assert_eq!((clients.busiest_ratio, clients.connections, clients.oldest_ns), (Some(1.0), 6, 3));
        let servers = snapshot.servers["shop"];
        assert_eq!((servers.with_calls, servers.without_calls), (2, 1));
        assert_eq!((servers.calls, servers.busiest_calls), (10, 7));
        balance.set(0, &[], &[], 0);
        assert!(balance.snapshot().clients.is_empty() && balance.snapshot().servers.is_empty());
    }

    #[test]
    fn processes_of_a_workload_are_put_together_over_all_shards() {
        let spreads = [
            spread(1, "shop:80", 100, 100, Balanced::OneConnection),
            spread(2, "shop:80", 100, 50, Balanced::SeveralConnections),
            spread(3, "shop:80", 1, 1, Balanced::FewCalls),
        ];
        let served = [7, 0, 3].map(|calls| Served { owner: owner(calls, "shop"), calls, connections: 1 });
        let (together, spread) = (Balance::default(), Balance::default());
        together.set(0, &spreads, &served, 5);
        spread.set(0, &spreads[..1], &served[1..], 2);
        spread.set(1, &spreads[1..], &served[..1], 3);
        assert_eq!(format!("{:?}", spread.snapshot()), format!("{:?}", together.snapshot()));
        spread.set(1, &[], &[], 3);
        assert_eq!(spread.snapshot().clients.values().map(|clients| clients.several).sum::<u64>(), 0);
        assert_eq!(spread.snapshot().refused, 5);
    }

    #[test]
    fn destinations_are_bounded_and_print() {
        let balance = Balance::default();
        let spreads: Vec<Spread> = (0..2_000)
            .map(|number| spread(number, &format!("shop-{number}\n"), 100, 100, Balanced::OneConnection))
            .collect();
        balance.set(0, &spreads, &[], 0);
        let snapshot = balance.snapshot();
        assert_eq!(snapshot.clients.len(), PAIRS_MAX + 1);
        assert_eq!(snapshot.clients.values().map(|clients| clients.one).sum::<u64>(), 2_000);
        assert!(snapshot.clients.keys().all(|(_, name)| !name.contains('\n')));
    }
}
