//! Byte sizes, durations, CPU shares and ports in Compose's forms.

/// Most ports that one service may expose, ranges counted out.
const MAX_PORTS: usize = 1024;

/// A byte size: `1048576`, `50m`, `1.5g`, `512kb`, `2GiB`. Units are powers of 1,024, in either case.
///
/// # Errors
/// What it must be.
pub fn bytes(text: &str) -> Result<u64, &'static str> {
    const RULE: &str = "must be a size such as 134217728, 64m or 1.5gb";
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit = unit.trim_start();
    let shift = match unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(unit)
    {
        "" if unit.len() < 2 => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(RULE),
    };
    let value = decimal(number).ok_or(RULE)?;
    // A fixed-point number with nine digits after the point; the product fits 128 bits.
    u64::try_from((value << shift) / SCALE).map_err(|_| RULE)
}

/// A duration in milliseconds, rounded up: `90s`, `1m30s`, `2.5s`, `500ms`, `1h`.
pub(crate) fn duration_ms(text: &str) -> Result<u64, &'static str> {
    u64::try_from(nanoseconds(text)?.div_ceil(1_000_000)).map_err(|_| DURATION)
}

/// The same in microseconds.
pub(crate) fn duration_us(text: &str) -> Result<i64, &'static str> {
    i64::try_from(nanoseconds(text)?.div_ceil(1_000)).map_err(|_| DURATION)
}

const DURATION: &str = "must be a duration such as 10s, 1m30s or 500ms";

fn nanoseconds(text: &str) -> Result<u128, &'static str> {
    let mut rest = text;
    let mut nanos: u128 = 0;
    if rest.is_empty() {
        return Err(DURATION);
    }
    if rest == "0" {
        return Ok(0);
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or(DURATION)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let one: u128 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(DURATION),
        };
        nanos += decimal(number).ok_or(DURATION)? * one / SCALE;
        rest = tail;
    }
    Ok(nanos)
}

/// A share of cores in billionths: `0.5`, `2`.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, &'static str> {
    const RULE: &str = "must be a number of cores above 0, such as 0.5";
    let value = decimal(text).filter(|value| *value > 0).ok_or(RULE)?;
    i64::try_from(value).map_err(|_| RULE)
}

/// `3000`, `53/udp`, `8000-8005`, `8000-8005/tcp`, counted out as `8000/tcp`, …
pub(crate) fn ports(text: &str) -> Result<Vec<String>, &'static str> {
    const RULE: &str = "must be a port such as 25, 53/udp or 8000-8005/tcp";
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return Err(RULE);
    }
    let (first, last) = port_range(range).ok_or(RULE)?;
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// `3000` or `8000-8005`: the first and the last port, of at most [`MAX_PORTS`].
pub(crate) fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (first > 0 && first <= last && usize::from(last - first) < MAX_PORTS).then_some((first, last))
}

const SCALE: u128 = 1_000_000_000;

/// An unsigned decimal as a multiple of 1/[`SCALE`]; digits after the ninth are cut off.
fn decimal(text: &str) -> Option<u128> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 18 || !digits(whole) || !digits(part) || text.ends_with('.') {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let part: u128 = format!("{part:0<9}").get(..9)?.parse().ok()?;
    Some(whole * SCALE + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_compose_reads_them() {
        for (text, value) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("64m", 64 << 20),
            ("64MB", 64 << 20),
            ("2GiB", 2 << 30),
            ("1.5g", 3 << 29),
            ("300k", 300 << 10),
            ("7b", 7),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for bad in [
            "",
            "m",
            "-1",
            "1x",
            "1ib",
            "1.",
            "1e3",
            "99999999999999999999",
            "9999999999999p",
        ] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_read_as_compose_reads_them() {
        for (text, ms) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("2.5s", 2_500),
            ("1h", 3_600_000),
            ("20us", 1),
        ] {
            assert_eq!(duration_ms(text), Ok(ms), "{text}");
        }
        for bad in ["", "10", "s", "1d", "-1s", "1s2"] {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cores_are_exact_billionths() {
        assert_eq!(nano_cpus("0.1"), Ok(100_000_000));
        assert_eq!(nano_cpus("2"), Ok(2_000_000_000));
        assert!(nano_cpus("0").is_err());
        assert!(nano_cpus("-1").is_err());
    }

    #[test]
    fn port_ranges_are_counted_out_and_bounded() {
        assert_eq!(ports("25").unwrap(), ["25/tcp"]);
        assert_eq!(ports("53/udp").unwrap(), ["53/udp"]);
        assert_eq!(ports("80-82/tcp").unwrap(), ["80/tcp", "81/tcp", "82/tcp"]);
        for bad in ["0", "70000", "2-1", "1-65535", "25/http", "", "-", "80:80"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
