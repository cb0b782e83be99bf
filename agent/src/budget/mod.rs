//! What the agent may take of CPU and memory, and when it takes on less work.
//!
//! In: what it uses, once a second ([`usage`]). Out: a [`Step`]. Connections that are known are followed in any case, and what
//! begins and ends their calls is seen, so what is said of these stays right. Pure: time and usage are arguments.
//!
//! ```text
//!   Nothing ──over──► Data ──still over after a window──► Connections
//!      ▲               │ ▲                                    │
//!      └──well below───┘ └──well below for a while────────────┘
//! ```
//!
//! Over a budget the agent sheds at once; it takes a step back only after it has been well below for a while, and for longer each
//! time that this proves too early, so that it does not go to and fro.

mod usage;

use std::collections::VecDeque;

use agent_core::Timestamp;

pub use usage::usage;

/// CPU is what was used on average over this time: shorter bursts are no reason to shed. A step is given as long to show what it
/// saves.
const WINDOW_NS: u64 = 5_000_000_000;
/// How long usage has to be well below the budgets before a step is taken back.
const CALM_NS: u64 = 30_000_000_000;
/// It is doubled up to this where the budget is passed again soon after.
const CALM_MAX_NS: u64 = 600_000_000_000;
/// Shares of the budgets that are well below. Memory that was freed is not all given back to the kernel.
const CALM_CPU_RATIO: f64 = 0.8;
const CALM_MEMORY_RATIO: f64 = 0.95;

/// What may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    /// Thousandths of a CPU.
    pub cpu_millicores: Option<u32>,
    /// Bytes, counted as [`Usage::memory_bytes`] is.
    pub memory_bytes: Option<u64>,
}

/// What is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of the process since it began, in nanoseconds; `None` if it cannot be read.
    pub cpu_ns: Option<u64>,
    /// Resident memory of its own, and the ring once; `None` if it cannot be read.
    pub memory_bytes: Option<u64>,
}

/// What there is a budget of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
}

impl Resource {
    /// Its name in metrics and the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
        }
    }
}

/// What is left out: each step leaves out what those before it do, and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Nothing is.
    #[default]
    Nothing,
    /// DATA that ends no stream, and with it messages and windows.
    Data,
    /// Connections that are new.
    Connections,
}

impl Step {
    /// Those that leave something out, in their order.
    pub const ALL: [Step; 2] = [Step::Data, Step::Connections];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Step::Nothing => "nothing",
            Step::Data => "data",
            Step::Connections => "connections",
        }
    }

    fn more(self) -> Option<Step> {
        match self {
            Step::Nothing => Some(Step::Data),
            Step::Data => Some(Step::Connections),
            Step::Connections => None,
        }
    }

    fn less(self) -> Step {
        match self {
            Step::Nothing | Step::Data => Step::Nothing,
            Step::Connections => Step::Data,
        }
    }
}

/// The step changed, to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This budget is passed.
    Over(Resource, Step),
    /// Usage was well below the budgets for so many nanoseconds.
    Within(u64, Step),
}

/// What has come of a step so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepState {
    /// Times that it was taken for the budget of CPU.
    pub over_cpu: u64,
    /// Likewise for that of memory.
    pub over_memory: u64,
    /// How long it lasted, and those that leave out more, in nanoseconds.
    pub ns: u64,
}

/// What has come of the budgets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BudgetState {
    /// What is left out now.
    pub step: Step,
    /// Of [`Step::Data`].
    pub data: StepState,
    /// Of [`Step::Connections`].
    pub connections: StepState,
    /// Used CPU over the budget, if there is one and a window has passed.
    pub cpu_ratio: Option<f64>,
    /// Used memory over the budget, if there is one.
    pub memory_ratio: Option<f64>,
}

impl BudgetState {
    /// What has come of a step, if that leaves something out.
    #[must_use]
    pub fn of(&self, step: Step) -> Option<&StepState> {
        match step {
            Step::Nothing => None,
            Step::Data => Some(&self.data),
            Step::Connections => Some(&self.connections),
        }
    }

    fn of_mut(&mut self, step: Step) -> Option<&mut StepState> {
        match step {
            Step::Nothing => None,
            Step::Data => Some(&mut self.data),
            Step::Connections => Some(&mut self.connections),
        }
    }
}

/// Compares usage with the budgets.
#[derive(Debug)]
pub struct Controller {
    budgets: Budgets,
    /// CPU time by time, over the window.
    samples: VecDeque<(Timestamp, u64)>,
    looked_at: Option<Timestamp>,
    /// While it sheds: since when usage has been well below.
    calm_since: Option<Timestamp>,
    calm_ns: u64,
    /// When the step was last taken, and last taken back.
    began_at: Option<Timestamp>,
    stopped_at: Option<Timestamp>,
    state: BudgetState,
}

impl Controller {
    /// A controller that has seen nothing yet.
    #[must_use]
    pub fn new(budgets: Budgets) -> Controller {
        Controller {
            budgets,
            samples: VecDeque::new(),
            looked_at: None,
            calm_since: None,
            calm_ns: CALM_NS,
            began_at: None,
            stopped_at: None,
            state: BudgetState::default(),
        }
    }

    /// What has come of it so far.
    #[must_use]
    pub fn state(&self) -> BudgetState {
        self.state
    }

    /// Nothing is shed from now on, until a budget is passed again: whoever was known has to be found anew.
    pub fn begin_anew(&mut self) {
        self.state.step = Step::Nothing;
        self.calm_since = None;
        self.samples.clear();
    }

    /// Takes what is used at `now`; to be asked about once a second.
    pub fn look(&mut self, now: Timestamp, usage: Usage) -> Option<Change> {
        let passed = self.looked_at.replace(now).map_or(0, |before| now.since(before));
        for step in Step::ALL {
            if self.state.step >= step
                && let Some(state) = self.state.of_mut(step)
            {
                state.ns += passed;
            }
        }
        self.state.cpu_ratio = self.cpu_ratio(now, usage);
        self.state.memory_ratio = self
            .budgets
            .memory_bytes
            .zip(usage.memory_bytes)
            .map(|(budget, used)| used as f64 / budget.max(1) as f64);
        let BudgetState { cpu_ratio, memory_ratio, .. } = self.state;
        let over = |ratio: Option<f64>| ratio.is_some_and(|ratio| ratio > 1.0);
        // The step before is given time to show what it saves.
        let is_due = self.state.step == Step::Nothing
            || self.began_at.is_none_or(|began_at| now.since(began_at) >= WINDOW_NS);
        let resource = if over(cpu_ratio) { Some(Resource::Cpu) } else { None };
        let resource = resource.or(if over(memory_ratio) { Some(Resource::Memory) } else { None });
        if let Some((resource, step)) = resource.zip(self.state.step.more()).filter(|_| is_due) {
            return Some(self.shed(now, resource, step));
        }
        if self.state.step == Step::Nothing {
            return None;
        }
        // Where there is a budget of CPU, a window has to have passed since the last change.
        let is_calm = match self.budgets.cpu_millicores.and(usage.cpu_ns) {
            Some(_) => cpu_ratio.is_some_and(|ratio| ratio < CALM_CPU_RATIO),
            None => true,
        } && memory_ratio.is_none_or(|ratio| ratio < CALM_MEMORY_RATIO);
        if !is_calm {
            self.calm_since = None;
            return None;
        }
        let calm_ns = now.since(*self.calm_since.get_or_insert(now));
        if calm_ns < self.calm_ns {
            return None;
        }
        self.state.step = self.state.step.less();
        self.stopped_at = Some(now);
        self.calm_since = None;
        self.samples.clear();
        Some(Change::Within(calm_ns, self.state.step))
    }

    fn shed(&mut self, now: Timestamp, resource: Resource, step: Step) -> Change {
        if let Some(state) = self.state.of_mut(step) {
            match resource {
                Resource::Cpu => state.over_cpu += 1,
                Resource::Memory => state.over_memory += 1,
            }
        }
        let too_early = self.stopped_at.is_some_and(|at| now.since(at) < 2 * self.calm_ns);
        self.calm_ns = if too_early { (2 * self.calm_ns).min(CALM_MAX_NS) } else { CALM_NS };
        self.state.step = step;
        self.began_at = Some(now);
        self.calm_since = None;
        self.samples.clear();
        Change::Over(resource, step)
    }

    fn cpu_ratio(&mut self, now: Timestamp, usage: Usage) -> Option<f64> {
        let (budget, used) = (self.budgets.cpu_millicores?, usage.cpu_ns?);
        self.samples.push_back((now, used));
        // The first one stays that is a window old.
        while self.samples.get(1).is_some_and(|(at, _)| now.since(*at) >= WINDOW_NS) {
            self.samples.pop_front();
        }
        let (since, before) = *self.samples.front()?;
        let passed = now.since(since);
        if passed < WINDOW_NS {
            return None;
        }
        let cores = used.saturating_sub(before) as f64 / passed as f64;
        Some(cores * 1000.0 / f64::from(budget.max(1)))
    }
}

#[cfg(test)]
mod tests;
