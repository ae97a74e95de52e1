//! Sizes and durations, as Compose reads and prints them.

/// `64m`, `1.5g`, `2GiB`, `512`: powers of 1024, in bytes.
pub(super) fn bytes(text: &str) -> Option<i64> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let letter = unit.strip_suffix('b').unwrap_or(&unit);
    // "ib" alone is no unit.
    let letter = match letter.strip_suffix('i') {
        Some(letter) if !letter.is_empty() && unit.ends_with('b') => letter,
        _ => letter,
    };
    let power = ["", "k", "m", "g", "t", "p"]
        .iter()
        .position(|known| *known == letter)?;
    let factor = 1_i64 << (10 * power);
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(factor);
    }
    if number.starts_with('.') || number.ends_with('.') {
        return None;
    }
    #[allow(clippy::cast_precision_loss)] // a power of two
    let size = number.parse::<f64>().ok()? * factor as f64;
    #[allow(clippy::cast_possible_truncation)] // it is below 2^62
    (size < (1_i64 << 62) as f64).then_some(size as i64)
}

const UNITS: [(&str, f64); 9] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
    ("d", 86_400e9),
    ("w", 604_800e9),
];

/// `1m30s`, `2.5s`, `1d`: in nanoseconds.
pub(super) fn nanoseconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0.0;
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total += number.parse::<f64>().ok()? * factor;
        rest = tail;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive, and below 2^63
    (total < 9.2e18).then_some(total.round() as u64)
}

/// As Go prints a duration: `1m30s`, `1h0m0s`, `2.5s`, `500ms`.
pub(super) fn show_duration(nanoseconds: u64) -> String {
    let decimal = |value: u64, unit: u64| {
        let (whole, part) = (value / unit, value % unit);
        let digits = unit.to_string().len() - 1;
        let part = format!("{part:0digits$}");
        match part.trim_end_matches('0') {
            "" => whole.to_string(),
            part => format!("{whole}.{part}"),
        }
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => format!("{}µs", decimal(n, 1_000)),
        n if n < 1_000_000_000 => format!("{}ms", decimal(n, 1_000_000)),
        n => {
            let minutes = n / 60_000_000_000;
            let seconds = decimal(n % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, size) in [
            ("0", 0),
            ("512", 512),
            ("64m", 64 << 20),
            ("64 MB", 64 << 20),
            ("2GiB", 2 << 30),
            ("1.5g", 3 << 29),
            ("7b", 7),
            ("1p", 1 << 50),
        ] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for bad in [
            "",
            "m",
            "-1",
            "1x",
            "1ib",
            "1e3",
            "1.",
            "99999999999999999999",
            "99999999p",
            "1  m",
            "1mi",
        ] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_print_as_compose_prints_them() {
        for (text, shown) in [
            ("90s", "1m30s"),
            ("1m30s", "1m30s"),
            ("2.5s", "2.5s"),
            ("1h", "1h0m0s"),
            ("1d", "24h0m0s"),
            ("500ms", "500ms"),
            ("1500us", "1.5ms"),
            ("0s", "0s"),
            ("0", "0s"),
            ("1h5m30s20ms", "1h5m30.02s"),
        ] {
            assert_eq!(
                nanoseconds(text).map(show_duration).as_deref(),
                Some(shown),
                "{text}"
            );
        }
        for bad in ["", "10", "s", "1y", "-1s", "1s2", "1..2s", "99999999999h"] {
            assert_eq!(nanoseconds(bad), None, "{bad}");
        }
    }
}
