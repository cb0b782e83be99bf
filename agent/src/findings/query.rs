//! A filter in words: the query of `/api/v1/findings`, and the flags of `grpcscope findings`.

use agent_core::detectors::{Name, Verdict};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::Filter;

const VERDICTS: [Verdict; 3] = [Verdict::Firing, Verdict::Quiet, Verdict::Undecided];

/// The finding of this name.
///
/// # Errors
/// There is none; the text says which there are.
pub fn name(text: &str) -> Result<Name, String> {
    let names = || Name::ALL.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let found = Name::ALL.iter().copied().find(|name| name.as_str() == text);
    found.ok_or_else(|| format!("`{text}` is none of {}", names()))
}

/// The verdict of this name.
///
/// # Errors
/// There is none; the text says which there are.
pub fn verdict(text: &str) -> Result<Verdict, String> {
    let found = VERDICTS.into_iter().find(|verdict| verdict.as_str() == text);
    found.ok_or_else(|| format!("`{text}` is none of firing, quiet, undecided"))
}

impl Filter {
    /// Reads the query of a URL (`finding=…&service_name=…&verdict=…`).
    ///
    /// # Errors
    /// A key or a value is not known: an answer to another question than the one that was asked is wrong.
    pub fn of_query(query: &str) -> Result<Filter, String> {
        let mut filter = Filter::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8().map_err(|_| format!("{key}: not UTF-8"))?;
            match key {
                "finding" => {
                    filter.finding = Some(name(&value).map_err(|error| format!("finding: {error}"))?)
                }
                "service_name" => filter.service_name = Some(value.into_owned()),
                "verdict" => {
                    filter.verdict = Some(verdict(&value).map_err(|error| format!("verdict: {error}"))?);
                }
                _ => return Err(format!("unknown key `{key}`, possible: finding, service_name, verdict")),
            }
        }
        Ok(filter)
    }

    /// Writes such a query; empty if everything is asked for.
    #[must_use]
    pub fn to_query(&self) -> String {
        let pairs = [
            ("finding", self.finding.map(Name::as_str)),
            ("service_name", self.service_name.as_deref()),
            ("verdict", self.verdict.map(Verdict::as_str)),
        ];
        let pairs = pairs.into_iter().filter_map(|(key, value)| {
            Some(format!("{key}={}", utf8_percent_encode(value?, NON_ALPHANUMERIC)))
        });
        pairs.collect::<Vec<_>>().join("&")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_reads_back_as_it_was_written() {
        for service_name in [None, Some("shop"), Some("a b&c=d%/ü\n+")] {
            let filter = Filter {
                finding: Some(Name::DeadlineMissing),
                service_name: service_name.map(str::to_owned),
                verdict: Some(Verdict::Quiet),
            };
            assert_eq!(Filter::of_query(&filter.to_query()), Ok(filter));
        }
        assert_eq!(Filter::default().to_query(), "");
        assert_eq!(Filter::of_query(""), Ok(Filter::default()));
        let plus = Filter { service_name: Some("a b".to_owned()), ..Filter::default() };
        assert_eq!(Filter::of_query("service_name=a+b&"), Ok(plus));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (query, part) in [
            ("findings=x", "unknown key `findings`, possible: finding, service_name, verdict"),
            ("finding=deadline", "finding: `deadline` is none of pinned_connection, "),
            ("verdict=maybe", "verdict: `maybe` is none of firing, quiet, undecided"),
            ("service_name=%ff", "service_name: not UTF-8"),
            ("finding", "finding: `` is none of "),
        ] {
            assert!(Filter::of_query(query).is_err_and(|error| error.contains(part)), "{query}");
        }
    }
}
