//! A short run of `cargo xtask mutate`, as an ordinary test: nothing that is said of a damaged recording is wrong.

use mutate::late_join::AfterLateJoin;
use mutate::plan::Mutation;
use mutate::tally::Tally;
use mutate::{corpus, replay_one};

/// A few seconds without optimisation.
const REPLAYS: u64 = 2_700;

#[test]
fn nothing_that_is_said_of_a_damaged_recording_is_wrong() {
    let files = corpus::default_files().unwrap_or_else(|error| {
        assert!(std::env::var_os("CI").is_none(), "{error:#}");
        eprintln!("SKIPPED a part of nothing_that_is_said_of_a_damaged_recording_is_wrong: {error:#}");
        vec![corpus::demo_recording()]
    });
    let (conversations, differences) = corpus::load_all(&files).expect("the recordings can be read");
    assert_eq!(differences, Vec::<String>::new(), "unharmed replays that differ from the truth");
    let mut all = Tally::default();
    let mut harmless = Tally::default();
    for index in 0..REPLAYS {
        let (plan, judgement) = replay_one(&conversations, 1, index);
        let name = &conversations[plan.conversation].name;
        let mutation = plan.mutation;
        assert!(
            judgement.lies.is_empty(),
            "cargo xtask mutate --seed 1 --only {index}: {name}, {mutation:?}: {:#?}",
            judgement.lies
        );
        all.add(&judgement);
        if matches!(mutation, Mutation::Pieces | Mutation::KernelWhole | Mutation::PacketsRepeated) {
            harmless.add(&judgement);
        }
    }
    assert_eq!(harmless.unknown, 0, "what damages nothing changes nothing");
    assert!(harmless.right > 1_000, "{harmless:?}");
    assert!(all.right > all.calls() / 10 && all.unknown > all.calls() / 10, "a test of nothing: {all:?}");
}

#[test]
fn h11_a_join_in_the_middle_reports_every_later_call_and_names_those_of_tonic() {
    let (conversations, _) = corpus::load_all(&[corpus::demo_recording()]).expect("it can be read");
    let mut sum = AfterLateJoin::default();
    for conversation in &conversations {
        let (counts, judgement) = AfterLateJoin::measure(conversation);
        assert!(judgement.lies.is_empty(), "{}: {:#?}", conversation.name, judgement.lies);
        sum.add(counts);
    }
    assert!(sum.calls > 400, "{sum:?}");
    assert_eq!((sum.reported, sum.method), (sum.calls, sum.calls), "h2 never indexes `:path`: {sum:?}");
}
