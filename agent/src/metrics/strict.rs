//! A strict reader of the two text formats, for tests: it takes nothing that the formats do not allow.

use std::collections::{BTreeMap, BTreeSet};

/// Which format a text claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenMetrics,
    Text,
}

/// Labels of a series, sorted.
pub(crate) type Labels = BTreeMap<String, String>;

/// What a text says.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    /// Families as the catalogue names them (counters with `_total`), with their types.
    pub(crate) families: BTreeMap<String, String>,
    /// Samples by name and labels.
    pub(crate) samples: BTreeMap<(String, Labels), f64>,
}

impl Exposition {
    /// Sum of the samples of a name whose labels contain these.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matches = |have: &Labels| {
            labels.iter().all(|(key, value)| have.get(*key).is_some_and(|have| have == value))
        };
        let samples = self.samples.iter().filter(|((have, _), _)| have == name);
        samples.filter(|((_, have), _)| matches(have)).map(|(_, value)| value).sum()
    }

    /// Values that a label of a name has.
    pub(crate) fn values(&self, name: &str, label: &str) -> BTreeSet<String> {
        let samples = self.samples.keys().filter(|(have, _)| have == name);
        samples.filter_map(|(_, labels)| labels.get(label).cloned()).collect()
    }
}

/// Reads a text, or says which line is wrong and why.
pub(crate) fn read(text: &str, dialect: Dialect) -> Result<Exposition, String> {
    let mut reader = Reader {
        dialect,
        exposition: Exposition::default(),
        family: None,
        done: BTreeSet::new(),
        ended: false,
    };
    let body = text.strip_suffix('\n').ok_or("the last line does not end")?;
    for (number, line) in body.split('\n').enumerate() {
        reader.line(line).map_err(|error| format!("line {}: {error}: {line:?}", number + 1))?;
    }
    reader.end_family()?;
    if (dialect == Dialect::OpenMetrics) != reader.ended {
        return Err("the end mark belongs to OpenMetrics, and only to it".to_owned());
    }
    Ok(reader.exposition)
}

struct Reader {
    dialect: Dialect,
    exposition: Exposition,
    family: Option<Family>,
    done: BTreeSet<String>,
    ended: bool,
}

#[derive(Default)]
struct Family {
    name: String,
    help: bool,
    kind: Option<String>,
    unit: Option<String>,
    /// Histograms: buckets in order, sum, count, by labels without `le`.
    histograms: BTreeMap<Labels, Parts>,
    samples: usize,
}

/// Bounds with cumulated counts, sum, count.
type Parts = (Vec<(f64, f64)>, Option<f64>, Option<f64>);

type Outcome = Result<(), String>;

impl Reader {
    fn line(&mut self, line: &str) -> Outcome {
        if self.ended {
            return Err("something follows the end mark".to_owned());
        }
        if line.chars().any(char::is_control) {
            return Err("a control character".to_owned());
        }
        if line == "# EOF" {
            self.ended = true;
            return Ok(());
        }
        let Some(comment) = line.strip_prefix("# ") else {
            return if line.starts_with('#') || line.is_empty() {
                Err("neither comment nor sample".to_owned())
            } else {
                self.sample(line)
            };
        };
        let mut parts = comment.splitn(3, ' ');
        let (Some(keyword), Some(name), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("too few words".to_owned());
        };
        if !is_name(name, true) {
            return Err("no metric name".to_owned());
        }
        if self.family.as_ref().is_none_or(|family| family.name != name) {
            self.end_family()?;
            if self.done.contains(name) {
                return Err("a family twice, or in pieces".to_owned());
            }
            self.family = Some(Family { name: name.to_owned(), ..Family::default() });
        }
        let openmetrics = self.dialect == Dialect::OpenMetrics;
        let Some(family) = self.family.as_mut() else { return Err("no family".to_owned()) };
        if family.samples > 0 {
            return Err("a comment behind the samples".to_owned());
        }
        match keyword {
            "HELP" if !family.help => {
                unescaped(rest, openmetrics)?;
                family.help = true;
            }
            "TYPE" if family.kind.is_none() => {
                if !["counter", "gauge", "histogram"].contains(&rest) {
                    return Err("a type that is not used here".to_owned());
                }
                if rest == "counter" && openmetrics == name.ends_with("_total") {
                    return Err(
                        "`_total` is of the sample in OpenMetrics, and of the family in 0.0.4".to_owned()
                    );
                }
                family.kind = Some(rest.to_owned());
            }
            "UNIT" if openmetrics && family.unit.is_none() => {
                if !name.ends_with(&format!("_{rest}")) {
                    return Err("the name does not end with the unit".to_owned());
                }
                family.unit = Some(rest.to_owned());
            }
            _ => return Err("an unknown or repeated keyword".to_owned()),
        }
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Outcome {
        let (name, mut labels, value) = sample(line)?;
        let value_number = number(value)?;
        let key = (name.to_owned(), labels.clone());
        if self.exposition.samples.insert(key, value_number).is_some() {
            return Err("a series twice".to_owned());
        }
        let family = self.family.as_mut().ok_or("a sample without a family")?;
        family.samples += 1;
        let suffix = name.strip_prefix(family.name.as_str()).ok_or("a sample of another family")?;
        let kind = family.kind.as_deref().ok_or("a sample before its type")?;
        match (kind, suffix) {
            ("gauge", "") => Ok(()),
            ("counter", "_total") if self.dialect == Dialect::OpenMetrics => positive(value_number),
            ("counter", "") if self.dialect == Dialect::Text => positive(value_number),
            ("histogram", "_bucket" | "_sum" | "_count") => {
                positive(value_number)?;
                let bound = labels.remove("le");
                let histogram = family.histograms.entry(labels).or_default();
                match (suffix, bound) {
                    ("_bucket", Some(bound)) => histogram.0.push((number(&bound)?, value_number)),
                    ("_sum", None) => histogram.1 = Some(value_number),
                    ("_count", None) => histogram.2 = Some(value_number),
                    _ => return Err("`le` belongs to buckets, and only to them".to_owned()),
                }
                Ok(())
            }
            _ => Err("a suffix that the type does not have".to_owned()),
        }
    }

    fn end_family(&mut self) -> Outcome {
        let Some(family) = self.family.take() else { return Ok(()) };
        let name = family.name.clone();
        let fail = |what: &str| Err(format!("{name}: {what}"));
        let Some(kind) = family.kind else { return fail("no type") };
        if !family.help || family.samples == 0 {
            return fail("no help, or no samples");
        }
        for (labels, (buckets, sum, count)) in family.histograms {
            let ascends = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
            if !ascends {
                return fail(&format!("buckets do not ascend: {labels:?} {buckets:?}"));
            }
            if sum.is_none() || buckets.last() != count.map(|count| (f64::INFINITY, count)).as_ref() {
                return fail("the last bucket is not infinite, or not the count");
            }
        }
        let exported = match (self.dialect, kind.as_str()) {
            (Dialect::OpenMetrics, "counter") => format!("{name}_total"),
            _ => name.clone(),
        };
        self.exposition.families.insert(exported, kind);
        self.done.insert(name);
        Ok(())
    }
}

fn positive(value: f64) -> Outcome {
    if value >= 0.0 { Ok(()) } else { Err("a counter that is negative or no number".to_owned()) }
}

/// `name{key="value",…} number`.
fn sample(line: &str) -> Result<(&str, Labels, &str), String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err("no metric name".to_owned());
    }
    let mut labels = Labels::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let (key, after) = inside.split_once("=\"").ok_or("no label")?;
            if !is_name(key, false) {
                return Err(format!("no label name: {key:?}"));
            }
            let close = closing_quote(after).ok_or("a value without an end")?;
            if labels.insert(key.to_owned(), unescaped(&after[..close], true)?).is_some() {
                return Err("a label twice".to_owned());
            }
            let after = &after[close + 1..];
            if let Some(after) = after.strip_prefix(',') {
                inside = after;
            } else {
                rest = after.strip_prefix('}').ok_or("labels without an end")?;
                break;
            }
        }
    }
    Ok((name, labels, rest.strip_prefix(' ').ok_or("no space before the value")?))
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, character)| {
        let closes = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        closes.then_some(at)
    })
}

fn unescaped(text: &str, quotes: bool) -> Result<String, String> {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.push(match characters.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some('"') if quotes => '"',
                other => return Err(format!("an escape that is none: {other:?}")),
            }),
            '"' if quotes => return Err("a quote that is not escaped".to_owned()),
            other => out.push(other),
        }
    }
    Ok(out)
}

fn is_name(text: &str, metric: bool) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || (metric && c == ':');
    text.starts_with(first) && text.chars().all(|c| first(c) || c.is_ascii_digit())
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        _ if text.bytes().all(|byte| byte.is_ascii_digit() || b".e-+".contains(&byte)) => {
            text.parse().map_err(|_| format!("no number: {text:?}"))
        }
        _ => Err(format!("no number: {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_is_read() {
        let text = "# HELP a_total h\n# TYPE a_total counter\na_total{x=\"y\\\"\\\\\\n\"} 1\n";
        let read = read(text, Dialect::Text).expect("this is 0.0.4");
        assert_eq!(read.sum("a_total", &[("x", "y\"\\\n")]), 1.0);
    }

    #[test]
    fn what_is_wrong_is_not_read() {
        let head = "# HELP a h\n# TYPE a gauge\n";
        let histogram = "# HELP h x\n# TYPE h histogram\n";
        let wrong = [
            format!("{head}a 1"),
            format!("{head}a 1\na 2\n"),
            format!("{head}a{{x=\"y}} 1\n"),
            format!("{head}a{{x=\"\\t\"}} 1\n"),
            format!("{head}a{{x=\"\u{1b}\"}} 1\n"),
            format!("{head}a{{x=\"1\",x=\"2\"}} 1\n"),
            format!("{head}a{{1=\"1\"}} 1\n"),
            format!("{head}a x\n"),
            format!("{head}b 1\n"),
            head.to_owned(),
            "a 1\n".to_owned(),
            "# TYPE a gauge\na 1\n".to_owned(),
            format!(
                "{head}a 1\n# HELP b h\n# TYPE b gauge\nb 1\n# HELP a h\n# TYPE a gauge\na{{x=\"y\"}} 1\n"
            ),
            "# HELP a h\n# TYPE a counter\na 1\n".to_owned(),
            "# HELP a_total h\n# TYPE a_total counter\na_total -1\n".to_owned(),
            format!("{histogram}h_bucket{{le=\"1.0\"}} 1\nh_sum 1\nh_count 1\n"),
            format!("{histogram}h_bucket{{le=\"1.0\"}} 2\nh_bucket{{le=\"+Inf\"}} 1\nh_sum 1\nh_count 1\n"),
            format!("{histogram}h_bucket{{le=\"+Inf\"}} 1\nh_sum 1\nh_count 2\n"),
            format!("{head}a 1\n# EOF\n"),
        ];
        for text in wrong {
            assert!(read(&text, Dialect::Text).is_err(), "{text}");
        }
    }

    #[test]
    fn openmetrics_ends_with_its_mark_and_names_counters_without_total() {
        let right = "# HELP a h\n# TYPE a counter\na_total 1\n# EOF\n";
        assert!(read(right, Dialect::OpenMetrics).is_ok());
        for wrong in [
            "# HELP a h\n# TYPE a counter\na_total 1\n",
            "# HELP a_total h\n# TYPE a_total counter\na_total 1\n# EOF\n",
            "# HELP a h\n# TYPE a gauge\n# UNIT a seconds\na 1\n# EOF\n",
            "# HELP a h\n# TYPE a counter\na_total 1\n# EOF\n# EOF\n",
        ] {
            assert!(read(wrong, Dialect::OpenMetrics).is_err(), "{wrong}");
        }
    }
}
