//! Sizes and durations as people write them.

use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// In milliseconds.
const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads `1MiB`, `64 KiB` or `8388608` into bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = split(text);
    let scale = SIZE_UNITS.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name)).map(|(_, scale)| *scale);
    match (digits.parse::<u64>(), scale) {
        (Ok(count), Some(scale)) => count.checked_mul(scale).ok_or_else(|| "is too large".to_owned()),
        _ => Err("is not a size: write a whole number of bytes, or one with KiB, MiB, GiB or TiB".to_owned()),
    }
}

/// Reads `250ms`, `30s`, `5m`, `1h` or `30d`; a bare `0` is no time at all.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (digits, unit) = split(text);
    let scale = TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    match (digits.parse::<u64>(), scale) {
        (Ok(count), Some(scale)) => count.checked_mul(scale).map(Duration::from_millis).ok_or_else(|| "is too long".to_owned()),
        (Ok(_), None) if unit.is_empty() => Err("has no unit: write ms, s, m, h or d after it".to_owned()),
        _ => Err("is not a duration: write a whole number and ms, s, m, h or d".to_owned()),
    }
}

/// Writes a size with the largest unit that leaves a whole number.
pub(super) fn write_size(bytes: u64) -> String {
    for (name, scale) in [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= scale && bytes.is_multiple_of(scale) {
            return format!("{}{name}", bytes / scale);
        }
    }
    bytes.to_string()
}

/// Writes a duration with the largest unit that leaves a whole number.
pub(super) fn write_time(time: Duration) -> String {
    let millis = time.as_millis();
    for (name, scale) in TIME_UNITS.iter().rev() {
        if millis >= u128::from(*scale) && millis.is_multiple_of(u128::from(*scale)) {
            return format!("{}{name}", millis / u128::from(*scale));
        }
    }
    format!("{millis}ms")
}

/// Splits leading digits from the unit, which may stand after a space.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let digits_len = text.bytes().take_while(u8::is_ascii_digit).count();
    (&text[..digits_len], text[digits_len..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_have_units() {
        fn check_size(text: &str, expected: Option<u64>) {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        }
        fn check_time(text: &str, expected: Option<u64>) {
            assert_eq!(parse_time(text).ok(), expected.map(Duration::from_millis), "{text}");
        }
        check_size("8388608", Some(8 << 20));
        check_size("1MiB", Some(1 << 20));
        check_size("64 kib", Some(64 << 10));
        check_size("1GB", Some(1_000_000_000));
        check_size("1.5GiB", None);
        check_size("-1", None);
        check_size("", None);
        check_size("99999999TiB", None);
        check_time("250ms", Some(250));
        check_time("30s", Some(30_000));
        check_time("5 m", Some(300_000));
        check_time("30d", Some(30 * 86_400_000));
        check_time("0", Some(0));
        check_time("30", None);
        check_time("5M", None);
        check_time("soon", None);
        check_time("-1s", None);
        check_time("99999999999999999999s", None);
        assert_eq!((write_size(8 << 20), write_size(1000)), ("8MiB".to_owned(), "1000".to_owned()));
        assert_eq!(write_time(Duration::from_secs(90)), "90s");
        assert_eq!(write_time(Duration::ZERO), "0ms");
    }
}
