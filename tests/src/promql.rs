//! What expressions of PromQL ask for, held against what agents export and rules record.

use std::collections::{BTreeMap, BTreeSet};

use agent::metrics::catalogue::{CATALOGUE, Family, Kind};
use promql_parser::label::Matchers;
use promql_parser::parser::{self, Expr, LabelModifier, VectorMatchCardinality, VectorSelector};

/// Series that rules record, and the labels that these have.
pub type Recorded = BTreeMap<String, BTreeSet<String>>;

/// Labels that Prometheus adds to what the agent exports.
const OF_THE_SCRAPE: [&str; 3] = ["job", "instance", "le"];

/// The expression as Prometheus gets it.
///
/// # Panics
/// It is not PromQL.
#[must_use]
pub fn parse(expression: &str) -> Expr {
    let filled = expression.replace("$__rate_interval", "5m");
    parser::parse(&filled).unwrap_or_else(|error| panic!("{expression}\nis not PromQL: {error}"))
}

/// Calls `on_selector` for every selector of an expression, and `on_labels` for every label that it groups or matches by.
pub fn walk(expr: &Expr, on_selector: &mut impl FnMut(&VectorSelector), on_labels: &mut impl FnMut(&str)) {
    match expr {
        Expr::Aggregate(aggregate) => {
            if let Some(LabelModifier::Include(labels) | LabelModifier::Exclude(labels)) = &aggregate.modifier
            {
                labels.labels.iter().for_each(|label| on_labels(label));
            }
            walk(&aggregate.expr, on_selector, on_labels);
        }
        Expr::Binary(binary) => {
            let matching = binary.modifier.as_ref().and_then(|modifier| modifier.matching.as_ref());
            if let Some(LabelModifier::Include(labels) | LabelModifier::Exclude(labels)) = matching {
                labels.labels.iter().for_each(|label| on_labels(label));
            }
            walk(&binary.lhs, on_selector, on_labels);
            walk(&binary.rhs, on_selector, on_labels);
        }
        Expr::Paren(paren) => walk(&paren.expr, on_selector, on_labels),
        Expr::Unary(unary) => walk(&unary.expr, on_selector, on_labels),
        Expr::Subquery(subquery) => walk(&subquery.expr, on_selector, on_labels),
        Expr::Call(call) => call.args.args.iter().for_each(|argument| walk(argument, on_selector, on_labels)),
        Expr::VectorSelector(selector) => on_selector(selector),
        Expr::MatrixSelector(selector) => on_selector(&selector.vs),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

/// The family that a name in a query belongs to.
#[must_use]
pub fn family_of(name: &str) -> Option<&'static Family> {
    CATALOGUE.iter().copied().find(|family| match family.kind {
        Kind::Counter | Kind::Gauge => family.name == name,
        Kind::Histogram => {
            name.strip_prefix(family.name).is_some_and(|rest| matches!(rest, "_bucket" | "_sum" | "_count"))
        }
    })
}

fn matched_labels(matchers: &Matchers) -> impl Iterator<Item = &str> {
    matchers.matchers.iter().map(|matcher| matcher.name.as_str())
}

/// Holds that an expression asks only for metrics and labels that there are.
///
/// # Panics
/// It does not; `source` says where it stands.
pub fn asks_for_what_is_known(expression: &str, recorded: &Recorded, source: &str) {
    let mut known: BTreeSet<String> = OF_THE_SCRAPE.map(str::to_owned).into();
    let mut used = BTreeSet::new();
    walk(
        &parse(expression),
        &mut |selector| {
            let name = selector.name.as_deref().unwrap_or_default();
            let labels: BTreeSet<String> = match (family_of(name), recorded.get(name)) {
                (Some(family), _) => family.labels.iter().map(|label| (*label).to_owned()).collect(),
                (None, Some(labels)) => labels.clone(),
                (None, None) => panic!("{source}: there is no {name:?}, asked for by\n{expression}"),
            };
            for label in matched_labels(&selector.matchers) {
                assert!(
                    labels.contains(label) || OF_THE_SCRAPE.contains(&label),
                    "{source}: {name} has no label {label:?}, asked for by\n{expression}"
                );
            }
            known.extend(labels);
        },
        &mut |label| {
            used.insert(label.to_owned());
        },
    );
    for label in used {
        assert!(known.contains(&label), "{source}: no metric has the label {label:?} of\n{expression}");
    }
}

/// Labels by which the result of an expression is grouped: those of its outermost aggregations.
#[must_use]
pub fn labels_of(expr: &Expr) -> BTreeSet<String> {
    match expr {
        Expr::Aggregate(aggregate) => match &aggregate.modifier {
            Some(LabelModifier::Include(labels)) => labels.labels.iter().cloned().collect(),
            Some(LabelModifier::Exclude(_)) | None => BTreeSet::new(),
        },
        Expr::Binary(binary) => {
            let many_to_one = binary.modifier.as_ref().map(|modifier| &modifier.card);
            match many_to_one {
                Some(VectorMatchCardinality::OneToMany(_)) => labels_of(&binary.rhs),
                _ => labels_of(&binary.lhs),
            }
        }
        Expr::Paren(paren) => labels_of(&paren.expr),
        Expr::Unary(unary) => labels_of(&unary.expr),
        Expr::Call(call) => call.args.args.first().map(|argument| labels_of(argument)).unwrap_or_default(),
        Expr::VectorSelector(_)
        | Expr::MatrixSelector(_)
        | Expr::Subquery(_)
        | Expr::NumberLiteral(_)
        | Expr::StringLiteral(_)
        | Expr::Extension(_) => BTreeSet::new(),
    }
}
