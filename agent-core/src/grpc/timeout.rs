//! `grpc-timeout` (checklist D1): one to eight digits and a unit.

use crate::observation::Timeout;

/// Parses the field's value; what does not follow the grammar is [`Timeout::Invalid`].
pub(crate) fn parse(value: &[u8]) -> Timeout {
    let Some((unit, digits)) = value.split_last() else { return Timeout::Invalid };
    if digits.is_empty() || digits.len() > 8 {
        return Timeout::Invalid;
    }
    let nanoseconds_per_unit: u64 = match unit {
        b'n' => 1,
        b'u' => 1_000,
        b'm' => 1_000_000,
        b'S' => 1_000_000_000,
        b'M' => 60 * 1_000_000_000,
        b'H' => 3_600 * 1_000_000_000,
        _ => return Timeout::Invalid,
    };
    let mut number = 0u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Timeout::Invalid;
        }
        number = number * 10 + u64::from(digit - b'0');
    }
    Timeout::Ns(number.saturating_mul(nanoseconds_per_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d1_units_are_case_sensitive_and_large_values_saturate() {
        for (text, expected) in [
            ("5S", Timeout::Ns(5_000_000_000)),
            ("51m", Timeout::Ns(51_000_000)),
            ("2M", Timeout::Ns(120_000_000_000)),
            ("49999999n", Timeout::Ns(49_999_999)),
            ("500000u", Timeout::Ns(500_000_000)),
            ("1H", Timeout::Ns(3_600_000_000_000)),
            ("0n", Timeout::Ns(0)),
            ("00000001S", Timeout::Ns(1_000_000_000)),
            ("99999999H", Timeout::Ns(u64::MAX)),
            ("123456789n", Timeout::Invalid),
            ("5", Timeout::Invalid),
            ("S", Timeout::Invalid),
            ("", Timeout::Invalid),
            ("-5S", Timeout::Invalid),
            ("+5S", Timeout::Invalid),
            (" 5S", Timeout::Invalid),
            ("5s", Timeout::Invalid),
            ("5.0S", Timeout::Invalid),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
    }
}
