//! What a scraper wants: the format by `Accept`, the compression by `Accept-Encoding` (RFC 9110 §12.5).

use crate::metrics::Format;

/// The format that the scraper likes best, text 0.0.4 if it says nothing or nothing that is known: an answer
/// that it may not understand is better than none.
pub(super) fn format(accept: &str) -> Format {
    // In the order in which equal wishes are served: what is richer first.
    [Format::Protobuf, Format::OpenMetrics, Format::Text]
        .into_iter()
        .map(|format| (quality_of(format, accept), format))
        .fold((0, Format::Text), |best, next| if next.0 > best.0 { next } else { best })
        .1
}

/// Quality that the most specific range matching a format has, in thousandths.
fn quality_of(format: Format, accept: &str) -> u16 {
    let ranges = accept.split(',').filter_map(Range::parse);
    let matching = ranges.filter_map(|range| Some((specificity(format, &range)?, range.quality)));
    matching.max().map_or(0, |(_, quality)| quality)
}

/// How exactly a range names a format; `None` if it does not. A wildcard is text: who does not name a format
/// is a person or an old scraper.
fn specificity(format: Format, range: &Range<'_>) -> Option<u8> {
    let version_is = |wanted: &str| range.parameter("version").is_none_or(|version| version == wanted);
    let named = match format {
        Format::Protobuf => {
            range.is("application/vnd.google.protobuf")
                && range.parameter("proto").is_none_or(|proto| proto == "io.prometheus.client.MetricFamily")
                && range.parameter("encoding") == Some("delimited")
        }
        Format::OpenMetrics => range.is("application/openmetrics-text") && version_is("1.0.0"),
        Format::Text => range.is("text/plain") && version_is("0.0.4"),
    };
    match format {
        _ if named => Some(2),
        Format::Text if range.is("text/*") => Some(1),
        Format::Text if range.is("*/*") => Some(0),
        Format::Protobuf | Format::OpenMetrics | Format::Text => None,
    }
}

/// The scraper takes gzip.
pub(super) fn wants_gzip(accept_encoding: &str) -> bool {
    let quality = |name: &str| {
        let mut codings = accept_encoding.split(',').filter_map(Range::parse);
        codings.find(|coding| coding.is(name)).map(|coding| coding.quality)
    };
    let gzip = quality("gzip").or_else(|| quality("x-gzip")).or_else(|| quality("*")).unwrap_or(0);
    gzip > 0 && gzip >= quality("identity").unwrap_or(0)
}

/// One element of the list: a name, parameters, a quality.
struct Range<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Range<'a>> {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let mut range = Range { name, parameters: Vec::new(), quality: 1000 };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let (key, value) = (key.trim(), value.trim().trim_matches('"'));
            if key.eq_ignore_ascii_case("q") {
                range.quality = thousandths(value)?;
            } else {
                range.parameters.push((key, value));
            }
        }
        Some(range)
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

/// A quality value, RFC 9110 §12.4.2. What is none makes its range one that was not sent.
fn thousandths(text: &str) -> Option<u16> {
    let value: f64 = text.parse().ok()?;
    (0.0..=1.0).contains(&value).then(|| (value * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOBUF: &str =
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        let prometheus_2 = format!(
            "{PROTOBUF};q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        );
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let cases = [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/*", Format::Text),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format::Text),
            (PROTOBUF, Format::Protobuf),
            (&prometheus_2, Format::Protobuf),
            (prometheus_3, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"", Format::OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Format::Text),
            ("application/openmetrics-text;q=0.5,text/plain;q=0.9", Format::Text),
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.51", Format::OpenMetrics),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=compact-text",
                Format::Text,
            ),
            ("application/vnd.google.protobuf", Format::Text),
            ("application/openmetrics-text;q=0,*/*", Format::Text),
            ("application/openmetrics-text;q=2", Format::Text),
            ("application/openmetrics-text;q=x,,;;=", Format::Text),
            ("application/json", Format::Text),
        ];
        for (accept, expected) in cases {
            assert_eq!(format(accept), expected, "{accept}");
        }
    }

    #[test]
    fn equal_wishes_get_the_richer_format() {
        let accept = format!("text/plain,application/openmetrics-text,{PROTOBUF}");
        assert_eq!(format(&accept), Format::Protobuf);
    }

    #[test]
    fn gzip_is_used_when_it_is_wanted() {
        let cases = [
            ("", false),
            ("gzip", true),
            ("GZIP;q=0.5", true),
            ("deflate, gzip;q=1.0, *;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("identity", false),
            ("gzip;q=0.1, identity;q=0.9", false),
            ("br, deflate", false),
        ];
        for (accept, expected) in cases {
            assert_eq!(wants_gzip(accept), expected, "{accept}");
        }
    }
}
