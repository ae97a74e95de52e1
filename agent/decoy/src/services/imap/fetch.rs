//! FETCH responses (RFC 3501 §7.4.2).

use super::words::quoted;
use crate::services::mailbox::Message;

/// The response for one message. Items that are not understood are left out.
pub(super) fn fetch(number: usize, message: &Message, items: &str, uid: bool) -> String {
    let items = items.trim();
    let items = items
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap_or(items);
    let items = match items.to_ascii_uppercase().as_str() {
        "ALL" | "FULL" => "FLAGS INTERNALDATE RFC822.SIZE ENVELOPE".to_owned(),
        "FAST" => "FLAGS INTERNALDATE RFC822.SIZE".to_owned(),
        other => other.to_owned(),
    };
    let mut data: Vec<String> = Vec::new();
    if uid && !items.split(' ').any(|item| item == "UID") {
        data.push(format!("UID {number}"));
    }
    data.extend(
        split(&items)
            .into_iter()
            .filter_map(|item| datum(number, message, item)),
    );
    format!("* {number} FETCH ({})\r\n", data.join(" "))
}

fn datum(number: usize, message: &Message, item: &str) -> Option<String> {
    let (headers, body) = message.parts();
    let section = |label: &str, text: &str| format!("{label} {{{}}}\r\n{text}", text.len());
    Some(match item {
        "FLAGS" => "FLAGS (\\Seen)".to_owned(),
        "UID" => format!("UID {number}"),
        "RFC822.SIZE" => format!("RFC822.SIZE {}", message.source.len()),
        "INTERNALDATE" => format!("INTERNALDATE {}", quoted(&internal_date(&message.date))),
        "ENVELOPE" => format!("ENVELOPE {}", envelope(message)),
        "BODYSTRUCTURE" | "BODY" => format!(
            "{item} (\"text\" \"plain\" (\"charset\" \"utf-8\") NIL NIL \"7bit\" {} {})",
            body.len(),
            body.lines().count()
        ),
        "RFC822" => section("RFC822", &message.source),
        "RFC822.HEADER" => section("RFC822.HEADER", headers),
        "RFC822.TEXT" => section("RFC822.TEXT", body),
        _ => {
            let label = item.replacen("BODY.PEEK[", "BODY[", 1);
            let inner = label.strip_prefix("BODY[")?.split(']').next()?;
            match inner {
                "" => section("BODY[]", &message.source),
                "TEXT" | "1" => section(&format!("BODY[{inner}]"), body),
                _ if inner.starts_with("HEADER") => section(&format!("BODY[{inner}]"), headers),
                _ => return None,
            }
        }
    })
}

/// Items are separated by spaces outside brackets.
fn split(items: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let parts = items.split(|letter| {
        match letter {
            '[' | '(' => depth += 1,
            ']' | ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ' ' && depth == 0
    });
    // A visitor's list is bounded here, since each item may answer a whole message.
    parts.filter(|part| !part.is_empty()).take(16).collect()
}

/// "Fri, 01 Mar 2024 09:00:00 +0000" as "01-Mar-2024 09:00:00 +0000".
fn internal_date(date: &str) -> String {
    let date = date.split_once(", ").map_or(date, |(_, rest)| rest);
    date.replacen(' ', "-", 2)
}

fn envelope(message: &Message) -> String {
    let (name, domain) = message.from.split_once('@').unwrap_or((&message.from, ""));
    let address = format!("((NIL NIL {} {}))", quoted(name), quoted(domain));
    format!(
        "({} {} {address} {address} {address} NIL NIL NIL NIL {})",
        quoted(&message.date),
        quoted(&message.subject),
        quoted(&format!("<{}>", message.id))
    )
}
