//! The controller over time: when it sheds, when it stops, and that it does not go to and fro.

use super::*;

const SECOND: u64 = 1_000_000_000;

/// Half a CPU and 100 MB.
const BUDGETS: Budgets = Budgets { cpu_millicores: Some(500), memory_bytes: Some(100_000_000) };

/// A controller and an agent that uses what it is told to.
struct Scene {
    controller: Controller,
    second: u64,
    cpu_ns: u64,
}

impl Scene {
    fn new(budgets: Budgets) -> Scene {
        Scene { controller: Controller::new(budgets), second: 1_000, cpu_ns: 7 * SECOND }
    }

    /// Uses so much for so many seconds; the changes, each with the second in which it came.
    fn uses(&mut self, cores: f64, memory_bytes: u64, seconds: u64) -> Vec<(u64, Change)> {
        let mut changes = Vec::new();
        for second in 1..=seconds {
            self.second += 1;
            self.cpu_ns += (cores * SECOND as f64) as u64;
            let usage = Usage { cpu_ns: Some(self.cpu_ns), memory_bytes: Some(memory_bytes) };
            let change = self.controller.look(Timestamp(self.second * SECOND), usage);
            changes.extend(change.map(|change| (second, change)));
        }
        changes
    }
}

#[test]
fn cpu_over_a_window_is_compared_with_its_budget_and_bursts_are_not() {
    let mut scene = Scene::new(BUDGETS);
    assert_eq!(scene.uses(0.49, 0, 60), []);
    assert_eq!(
        scene.uses(2.0, 0, 1),
        [(1, Change::Over(Resource::Cpu, Step::Data))],
        "0.79 cores over five seconds"
    );
    let mut scene = Scene::new(BUDGETS);
    assert_eq!(scene.uses(0.1, 0, 60), []);
    assert_eq!(scene.uses(2.0, 0, 1), [], "0.48 cores over five seconds");
    assert_eq!(scene.uses(0.1, 0, 60), []);
    assert_eq!(scene.uses(0.6, 0, 6), [(5, Change::Over(Resource::Cpu, Step::Data))]);
    assert_eq!(scene.controller.state().step, Step::Data);
}

#[test]
fn nothing_is_said_before_a_window_has_passed() {
    let mut scene = Scene::new(BUDGETS);
    assert_eq!(scene.uses(2.0, 0, 5), []);
    assert_eq!(scene.controller.state().cpu_ratio, None);
    assert_eq!(scene.uses(2.0, 0, 1), [(1, Change::Over(Resource::Cpu, Step::Data))]);
}

#[test]
fn memory_counts_at_once() {
    let mut scene = Scene::new(BUDGETS);
    assert_eq!(scene.uses(0.0, 100_000_000, 10), []);
    assert_eq!(scene.uses(0.0, 100_000_001, 1), [(1, Change::Over(Resource::Memory, Step::Data))]);
    assert_eq!(scene.uses(0.0, 96_000_000, 300), [], "not well below");
    assert_eq!(scene.uses(0.0, 94_000_000, 60).len(), 1);
}

#[test]
fn it_stops_after_it_has_been_well_below_for_half_a_minute_without_a_break() {
    let mut scene = Scene::new(BUDGETS);
    scene.uses(1.0, 0, 6);
    assert_eq!(scene.uses(0.45, 0, 600), [], "below the budget, and not well below");
    // The window still has seconds of 0.45 cores, which are not well below.
    assert_eq!(scene.uses(0.1, 0, 25), []);
    assert_eq!(scene.uses(0.48, 0, 5), []);
    let changes = scene.uses(0.1, 0, 60);
    assert_eq!(changes.len(), 1);
    let (second, change) = changes[0];
    assert!((30..=36).contains(&second), "{second}");
    assert_eq!(change, Change::Within(30 * SECOND, Step::Nothing));
    assert_eq!(scene.controller.state().step, Step::Nothing);
}

#[test]
fn a_load_that_comes_back_as_soon_as_it_is_followed_makes_changes_rarer_and_rarer() {
    let mut scene = Scene::new(BUDGETS);
    let mut changes = 0;
    // An hour in which shedding saves just what makes it stop.
    for _ in 0..3_600 {
        let cores = if scene.controller.state().step == Step::Nothing { 0.7 } else { 0.3 };
        changes += scene.uses(cores, 0, 1).len();
    }
    // 5 s over and 35 s calm each time would be 180 changes.
    assert!((10..=24).contains(&changes), "{changes}");
    // A load that stays away for long begins with half a minute again.
    scene.uses(0.0, 0, 3_600);
    assert_eq!(scene.uses(1.0, 0, 6).len(), 1);
    let changes = scene.uses(0.0, 0, 60);
    assert!(matches!(changes[..], [(30..=41, Change::Within(_, Step::Nothing))]), "{changes:?}");
}

/// DATA first; new connections only where that does not suffice; and back in the other order.
#[test]
fn each_step_is_given_a_window_to_show_what_it_saves_and_taken_back_on_its_own() {
    let mut scene = Scene::new(BUDGETS);
    assert_eq!(scene.uses(1.0, 0, 6), [(6, Change::Over(Resource::Cpu, Step::Data))]);
    assert_eq!(scene.uses(0.6, 0, 5), []);
    assert_eq!(scene.uses(0.6, 0, 60), [(1, Change::Over(Resource::Cpu, Step::Connections))]);
    assert_eq!(scene.uses(0.45, 0, 600), [], "below the budget, and not well below");
    let changes = scene.uses(0.1, 0, 90);
    let [(first, back), (second, over)] = changes[..] else { panic!("{changes:?}") };
    assert_eq!(back, Change::Within(30 * SECOND, Step::Data));
    assert_eq!(over, Change::Within(30 * SECOND, Step::Nothing));
    assert!((30..=41).contains(&first) && (30..=41).contains(&(second - first)), "{changes:?}");

    let mut scene = Scene::new(BUDGETS);
    let over = |step| Change::Over(Resource::Memory, step);
    assert_eq!(scene.uses(0.0, 200_000_000, 60), [(1, over(Step::Data)), (6, over(Step::Connections))]);
}

#[test]
fn where_the_first_step_suffices_there_is_no_second() {
    let mut scene = Scene::new(BUDGETS);
    scene.uses(1.0, 0, 6);
    assert_eq!(scene.uses(0.45, 0, 600), []);
    assert_eq!(scene.controller.state().step, Step::Data);
    // It did, and does no more.
    assert_eq!(scene.uses(0.7, 0, 6).len(), 1);
    assert_eq!(scene.controller.state().step, Step::Connections);
}

#[test]
fn what_came_of_it_is_counted() {
    let mut scene = Scene::new(BUDGETS);
    scene.uses(1.0, 0, 8);
    scene.uses(0.0, 0, 100);
    scene.uses(0.0, 200_000_000, 12);
    let state = scene.controller.state();
    assert_eq!(state.step, Step::Connections);
    let StepState { over_cpu, over_memory, ns } = state.data;
    assert_eq!((over_cpu, over_memory), (1, 1));
    assert!((40..=53).contains(&(ns / SECOND)), "{ns}");
    assert_eq!(state.connections, StepState { over_cpu: 0, over_memory: 1, ns: 6 * SECOND });
    assert_eq!((state.cpu_ratio, state.memory_ratio), (Some(0.0), Some(2.0)));
}

#[test]
fn without_budgets_or_without_figures_nothing_is_shed() {
    let mut scene = Scene::new(Budgets::default());
    assert_eq!(scene.uses(64.0, u64::MAX, 60), []);
    let mut controller = Controller::new(BUDGETS);
    for second in 0..60 {
        let unknown = Usage { cpu_ns: None, memory_bytes: None };
        assert_eq!(controller.look(Timestamp(second * SECOND), unknown), None);
    }
}
