//! Mutation test of everything between a recording and its calls: what is said of a damaged recording may be less
//! than before, and is never something else.
//!
//! The modules stand in the order in which the data flows: a [`recording`] is loaded once and replayed unharmed, which
//! gives the reference; the reference is checked against the [`truth`] of the applications where there is one. A
//! [`plan`] says, from a seed alone, which part of it is replayed and what is damaged: [`bytes`] of the
//! flows, [`segments`] on their way through TCP reassembly, or records of the [`kernel_view`]. [`replay`] takes what is
//! left the way that `grpcscope replay` takes, [`verdict`] judges each call, [`late_join`] measures what a join
//! in the middle leaves, and [`tally`] adds up.
//!
//! Deliberately not here: damage to the bytes themselves. TCP's checksums are there for that, and whoever can
//! write any bytes can write false calls as well; that nothing panics then is what the fuzzers look after.
#![forbid(unsafe_code)]

pub mod recording;
pub mod truth;
pub mod corpus;
pub mod random;
pub mod plan;
pub mod bytes;
pub mod segments;
pub mod kernel_view;
pub mod replay;
pub mod verdict;
pub mod late_join;
pub mod tally;

use plan::{Plan, View};
use recording::Conversation;
use verdict::Judgement;

/// Makes and judges replay `index` of the run with `seed`.
///
/// # Panics
/// There is no conversation.
#[must_use]
pub fn replay_one(conversations: &[Conversation], seed: u64, index: u64) -> (Plan, Judgement) {
    let plan = plan::plan(conversations, seed, index);
    let conversation = &conversations[plan.conversation];
    let watch = match plan.mutation.view() {
        View::Bytes => bytes::replay(conversation, &plan),
        View::Packets => segments::replay(conversation, &plan),
        View::Kernel => kernel_view::replay(conversation, &plan),
    };
    let judgement = verdict::judge(conversation, &watch, plan.mutation.view());
    (plan, judgement)
}
