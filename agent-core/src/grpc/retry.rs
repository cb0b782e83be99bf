//! Retries as the wire shows them: attempts, not calls (checklist R1, R2).

use crate::observation::RetryPushback;

/// `grpc-previous-rpc-attempts`: digits, saturating. Anything else is as if it were not there.
pub(crate) fn previous_attempts(value: &[u8]) -> Option<u32> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |sum: u32, digit: &u8| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
    Some(value.iter().fold(0, digit))
}

/// `grpc-retry-pushback-ms`: a signed 32-bit number; negative, or not a number, it forbids the retry (gRFC A6).
pub(crate) fn pushback(value: &[u8]) -> RetryPushback {
    let digits = value.iter().all(u8::is_ascii_digit).then_some(value);
    let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<i32>().ok());
    match number.and_then(|milliseconds| u32::try_from(milliseconds).ok()) {
        Some(milliseconds) => RetryPushback::AfterMs(milliseconds),
        None => RetryPushback::DoNotRetry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r1_previous_attempts_are_a_small_number_or_nothing() {
        for (text, expected) in [
            ("1", Some(1)),
            ("4", Some(4)),
            ("007", Some(7)),
            ("99999999999999999999", Some(u32::MAX)),
            ("", None),
            ("+1", None),
            ("-1", None),
            ("1.0", None),
            ("one", None),
        ] {
            assert_eq!(previous_attempts(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn r2_pushback_that_is_negative_or_not_a_number_forbids_the_retry() {
        for (text, expected) in [
            ("0", RetryPushback::AfterMs(0)),
            ("250", RetryPushback::AfterMs(250)),
            ("2147483647", RetryPushback::AfterMs(2_147_483_647)),
            ("2147483648", RetryPushback::DoNotRetry),
            ("-1", RetryPushback::DoNotRetry),
            ("", RetryPushback::DoNotRetry),
            ("+5", RetryPushback::DoNotRetry),
            ("soon", RetryPushback::DoNotRetry),
        ] {
            assert_eq!(pushback(text.as_bytes()), expected, "{text:?}");
        }
    }
}
