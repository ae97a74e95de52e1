//! A command line in one text, as `go-shellwords` splits it for Compose.
//!
//! It is less than a shell: a backslash takes the next character as it is, in double quotes too; `` `…` `` and `$(…)`
//! are kept as they stand; and an operator of a shell (`&`, `|`, `;`, `<`, `>`) ends the command.

/// The words, and the operator that ended them before the text did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) words: Vec<String>,
    pub(super) cut_at: Option<char>,
}

/// # Errors
/// An open quote, parenthesis or escape.
pub(super) fn split(line: &str) -> Result<Words, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut cut_at = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\\' && quote != Some('\'') {
            let next = chars
                .next()
                .ok_or("ends with a backslash: remove it, or double it")?;
            word.get_or_insert_default().push(next);
            continue;
        }
        match (quote, c) {
            (Some('\'' | '"'), c) if Some(c) == quote => quote = None,
            (Some('`'), '`') | (Some(')'), ')') => {
                quote = None;
                word.get_or_insert_default().push(c);
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, ' ' | '\t' | '\r' | '\n') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '`') => {
                quote = Some('`');
                word.get_or_insert_default().push(c);
            }
            (None, '(') if word.as_ref().is_some_and(|word| word.ends_with('$')) => {
                quote = Some(')');
                word.get_or_insert_default().push(c);
            }
            (None, '(' | ')') => return Err("has a parenthesis outside quotes: put it in quotes"),
            (None, ';' | '&' | '|' | '<' | '>') => {
                // The number of a file descriptor is no argument.
                if c == '>'
                    && word
                        .as_ref()
                        .is_some_and(|word| word.starts_with(|c: char| c.is_ascii_digit()))
                {
                    word = None;
                }
                cut_at = Some(c);
                break;
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("has a quote that is not closed: close it");
    }
    words.extend(word);
    Ok(Words { words, cut_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_split_as_compose_splits_them() {
        for (line, words, cut_at) in [
            ("", &[][..], None),
            ("a  b\tc", &["a", "b", "c"], None),
            (
                "echo \"a\\nb\" \\n 'c\\d' e\"f\"g",
                &["echo", "anb", "n", "c\\d", "efg"],
                None,
            ),
            ("sh -c ''", &["sh", "-c", ""], None),
            (
                "echo `ls x` $(ls x) a#b",
                &["echo", "`ls x`", "$(ls x)", "a#b"],
                None,
            ),
            ("echo a && echo b", &["echo", "a"], Some('&')),
            ("echo a;b", &["echo", "a"], Some(';')),
            ("echo 2>x y", &["echo"], Some('>')),
            ("echo 'a;b' \"c|d\"", &["echo", "a;b", "c|d"], None),
        ] {
            let found = split(line).unwrap();
            assert_eq!(found.words, words, "{line}");
            assert_eq!(found.cut_at, cut_at, "{line}");
        }
        for bad in ["'a", "\"a", "a\\", "(a)", "$(a", "`a", "a)"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
