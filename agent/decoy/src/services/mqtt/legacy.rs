//! MQTT 3.1, which old devices and their scanners still speak.
//!
//! Its CONNECT differs from that of 3.1.1 only in the protocol's name and level, and everything after it
//! not at all, so it is rewritten before it is parsed.

const CONNECT: u8 = 0x10;
const OLD: &[u8] = b"\x00\x06MQIsdp\x03";
const NEW: &[u8] = b"\x00\x04MQTT\x04";

/// The first bytes of a connection with a 3.1 CONNECT made one of 3.1.1; `None` when they are something
/// else. Only a fixed header that arrived whole is recognised.
pub(super) fn translate(bytes: &[u8]) -> Option<Vec<u8>> {
    let (length, rest) = match *bytes {
        [CONNECT, length @ ..0x80, ref rest @ ..] => (usize::from(length), rest),
        [CONNECT, low @ 0x80..=0xff, high @ ..0x80, ref rest @ ..] => {
            (usize::from(low & 0x7f) | usize::from(high) << 7, rest)
        }
        _ => return None,
    };
    let rest = rest.strip_prefix(OLD)?;
    let length = length.checked_sub(OLD.len() - NEW.len())?;
    let mut out = vec![CONNECT];
    // Below 2^14, as it was before (MQTT 3.1.1 §2.2.3).
    if length < 0x80 {
        out.push((length & 0x7f) as u8);
    } else {
        out.extend([(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
    }
    out.extend(NEW);
    out.extend(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::translate;

    #[test]
    fn a_3_1_connect_becomes_a_3_1_1_connect_of_the_right_length() {
        let rest = b"\x02\x00\x3c\x00\x01x";
        let old = [b"\x10\x0f\x00\x06MQIsdp\x03", &rest[..]].concat();
        let new = [b"\x10\x0d\x00\x04MQTT\x04", &rest[..]].concat();
        assert_eq!(translate(&old), Some(new));
        assert_eq!(
            translate(b"\x10\x81\x01\x00\x06MQIsdp\x03").unwrap()[..3],
            [0x10, 0x7f, 0]
        );
        assert_eq!(translate(b"\x10\x00\x00\x06MQIsdp\x03"), None);
        assert_eq!(translate(b"GET / HTTP/1.1"), None);
    }
}
