//! The small part of imap's grammar that commands need (RFC 3501 §9).

/// The arguments of a command: atoms and quoted strings.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(letters.next()),
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// `text` as a quoted string.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What stands before a literal's `{n}` or `{n+}` at the end of a line, its size, and whether the
/// visitor waits for a go-ahead (RFC 7888).
pub(super) fn literal(line: &str) -> Option<(&str, usize, bool)> {
    let (before, size) = line.strip_suffix('}')?.rsplit_once('{')?;
    let (digits, waits) = match size.strip_suffix('+') {
        Some(digits) => (digits, false),
        None => (size, true),
    };
    Some((before, digits.parse().ok()?, waits))
}

/// Whether a message number is in a sequence set such as `1,3:5,7:*`.
pub(super) fn in_set(set: &str, number: usize, last: usize) -> bool {
    let value = |text: &str| {
        if text == "*" {
            Some(last)
        } else {
            text.parse().ok()
        }
    };
    set.split(',').any(|range| {
        let (from, to) = range.split_once(':').unwrap_or((range, range));
        match (value(from), value(to)) {
            (Some(from), Some(to)) => (from.min(to)..=from.max(to)).contains(&number),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atoms_quoted_strings_literals_and_sets_are_understood() {
        assert_eq!(words(r#"bob "p \"w\\ d" """#), ["bob", r#"p "w\ d"#, ""]);
        assert_eq!(words(&quoted("a \"b\\")), ["a \"b\\"]);
        assert_eq!(literal("a LOGIN {3}"), Some(("a LOGIN ", 3, true)));
        assert_eq!(literal("{3+}"), Some(("", 3, false)));
        assert_eq!(literal("{-1}"), None);
        assert!(in_set("1,3:*", 4, 4) && !in_set("1,3:*", 2, 4) && in_set("*:2", 3, 4));
        assert!(!in_set("x:", 1, 4));
    }
}
