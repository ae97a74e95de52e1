//! What a plain YAML scalar means, as `go-yaml` v3 reads it for Compose: the YAML 1.2 core schema plus what it kept of
//! YAML 1.1 (`0755` is octal, `1_000` a number), but without `yes` and `on` for booleans and without `1:30` for numbers.

use super::tree::Kind;

/// A plain scalar without a tag.
///
/// # Errors
/// What cannot be meant: an infinite number, or a date, which Compose would print in Go's own notation.
pub(super) fn plain(text: &str) -> Result<Kind, &'static str> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" => Kind::Bool(true),
        "false" | "False" | "FALSE" => Kind::Bool(false),
        _ => match number(text)? {
            Some(number) => number,
            None if is_timestamp(text) => return Err("is a date to YAML: put it in quotes"),
            None => Kind::Text(text.to_owned()),
        },
    })
}

/// A number, if the text is one.
///
/// # Errors
/// Infinite, or not a number at all (`.nan`).
pub(super) fn number(text: &str) -> Result<Option<Kind>, &'static str> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Ok(None);
    }
    let plain = text.replace('_', "");
    if let Some(value) = integer(&plain) {
        return Ok(Some(Kind::Int(value)));
    }
    let (_, unsigned) = sign(&plain);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return Err("is no finite number: put it in quotes if it is text");
    }
    if !is_float(unsigned) {
        return Ok(None);
    }
    match plain.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Some(Kind::Float(value))),
        // go-yaml takes what does not fit for text.
        Ok(_) | Err(_) => Ok(None),
    }
}

fn sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

/// Decimal, `0x`, `0o`, `0b`, or octal with a leading zero; what fits `i64` or `u64`.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = sign(text);
    let prefixed = |prefix: [&str; 2]| prefix.iter().find_map(|p| digits.strip_prefix(p));
    let (digits, radix) = if let Some(rest) = prefixed(["0x", "0X"]) {
        (rest, 16)
    } else if let Some(rest) = prefixed(["0o", "0O"]) {
        (rest, 8)
    } else if let Some(rest) = prefixed(["0b", "0B"]) {
        (rest, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (&digits[1..], 8)
    } else {
        (digits, 10)
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let value = i128::from(u64::from_str_radix(digits, radix).ok()?);
    let value = if negative { -value } else { value };
    (value >= i128::from(i64::MIN)).then_some(value)
}

/// `[0-9]+(\.[0-9]*)?` or `\.[0-9]+`, with an exponent or not.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(sign(exponent).1)),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(part)
        && !(whole.is_empty() && part.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}

/// `2001-1-2`, or that with a time behind it.
fn is_timestamp(text: &str) -> bool {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let mut part = |lengths: std::ops::RangeInclusive<usize>, max: u32| {
        parts.next().is_some_and(|part| {
            lengths.contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_digit())
                && part.parse::<u32>().is_ok_and(|value| value <= max)
        })
    };
    let is_date = part(4..=4, 9999) && part(1..=2, 12) && part(1..=2, 31) && parts.next().is_none();
    is_date
        && time
            .is_none_or(|time| time.split(':').count() >= 3 && time.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match plain(text) {
            Ok(kind) => format!("{kind:?}"),
            Err(problem) => problem.to_owned(),
        }
    }

    #[test]
    fn scalars_mean_what_they_mean_to_compose() {
        for (text, kind) in [
            ("", "Null"),
            ("~", "Null"),
            ("NULL", "Null"),
            ("nULL", "Text(\"nULL\")"),
            ("True", "Bool(true)"),
            ("yes", "Text(\"yes\")"),
            ("on", "Text(\"on\")"),
            ("12", "Int(12)"),
            ("+12", "Int(12)"),
            ("-12", "Int(-12)"),
            ("0755", "Int(493)"),
            ("0o17", "Int(15)"),
            ("0x1F", "Int(31)"),
            ("0b101", "Int(5)"),
            ("1_000", "Int(1000)"),
            ("08", "Float(8.0)"),
            ("18446744073709551615", "Int(18446744073709551615)"),
            ("18446744073709551616", "Float(1.8446744073709552e19)"),
            ("-9223372036854775808", "Int(-9223372036854775808)"),
            (".5", "Float(0.5)"),
            ("1.", "Float(1.0)"),
            ("1e3", "Float(1000.0)"),
            ("1e", "Text(\"1e\")"),
            (".", "Text(\".\")"),
            ("-", "Text(\"-\")"),
            ("--", "Text(\"--\")"),
            ("0x", "Text(\"0x\")"),
            ("1.2.3", "Text(\"1.2.3\")"),
            ("1.2.3.4", "Text(\"1.2.3.4\")"),
            ("22:22", "Text(\"22:22\")"),
            ("64m", "Text(\"64m\")"),
            ("1e999", "Text(\"1e999\")"),
            ("2001-13-01", "Text(\"2001-13-01\")"),
            ("8000-8005", "Text(\"8000-8005\")"),
        ] {
            assert_eq!(read(text), kind, "{text}");
        }
        for bad in [
            ".inf",
            "-.Inf",
            ".nan",
            "2001-01-01",
            "2001-1-2 10:20:30",
            "2001-01-01T1:2:3Z",
        ] {
            assert!(plain(bad).is_err(), "{bad}");
        }
    }
}
