//! Splits a command line into commands, the way a POSIX shell does (IEEE 1003.1 §2.3, a small part).

/// How a command hangs on the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// `;`, `&`, a line feed, or the first command.
    Then,
    /// `&&`
    Both,
    /// `||`
    Either,
    /// `|`
    Pipe,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) link: Link,
    pub(super) words: Vec<String>,
}

/// The commands of `line`, without their redirections.
pub(super) fn steps(line: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut step = Step {
        link: Link::Then,
        words: Vec::new(),
    };
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None | Some('"'), '\\') => {
                let next = letters.next().unwrap_or('\\');
                let word = word.get_or_insert_default();
                // Between double quotes a backslash escapes only these (§2.2.3).
                if quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') {
                    word.push('\\');
                }
                word.push(next);
            }
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ';' | '\n' | '&' | '|') => {
                // `2>&1` and `>&2` belong to a redirection.
                if letter == '&' && word.as_ref().is_some_and(|word| word.ends_with('>')) {
                    word.get_or_insert_default().push('&');
                    continue;
                }
                let doubled = letter != ';' && letters.next_if_eq(&letter).is_some();
                let link = match (letter, doubled) {
                    ('&', true) => Link::Both,
                    ('|', true) => Link::Either,
                    ('|', false) => Link::Pipe,
                    _ => Link::Then,
                };
                step.words.extend(word.take());
                steps.push(std::mem::replace(
                    &mut step,
                    Step {
                        link,
                        words: Vec::new(),
                    },
                ));
            }
            (None, _) if letter.is_whitespace() => step.words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    step.words.extend(word);
    steps.push(step);
    for step in &mut steps {
        step.words = without_redirections(std::mem::take(&mut step.words));
    }
    steps.retain(|step| !step.words.is_empty());
    steps
}

fn without_redirections(words: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut skip_target = false;
    for word in words {
        if std::mem::take(&mut skip_target) {
            continue;
        }
        let operator = word.trim_start_matches(|letter: char| letter.is_ascii_digit());
        if operator.starts_with(['>', '<']) {
            skip_target = operator.trim_start_matches(['>', '<']).is_empty();
        } else {
            kept.push(word);
        }
    }
    kept
}

/// Resolves `\xHH`, `\n` and the like, as `echo -e` does. Only ASCII comes out changed.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let mut letters = after.chars();
        match letters.next() {
            Some('x') => {
                let digits = letters
                    .as_str()
                    .chars()
                    .take(2)
                    .take_while(char::is_ascii_hexdigit)
                    .count();
                let (code, tail) = letters.as_str().split_at(digits);
                out.extend(u8::from_str_radix(code, 16).ok().map(char::from));
                rest = tail;
                continue;
            }
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some(other) => out.push(other),
            None => out.push('\\'),
        }
        rest = letters.as_str();
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<(Link, Vec<String>)> {
        steps(line)
            .into_iter()
            .map(|step| (step.link, step.words))
            .collect()
    }

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn operators_outside_quotes_separate_commands() {
        assert_eq!(
            split("cd /tmp||cd /; id 2>&1 >/dev/null && echo 'a; b' | cat > /tmp/x &"),
            [
                (Link::Then, words("cd /tmp")),
                (Link::Either, words("cd /")),
                (Link::Then, words("id")),
                (Link::Both, vec!["echo".into(), "a; b".into()]),
                (Link::Pipe, words("cat")),
            ]
        );
    }

    #[test]
    fn unfinished_quotes_and_escapes_are_taken_as_they_are() {
        for line in ["'", "\"a\\", "\\", "|", "&&&&", "> >", "\u{feff}'\u{0}"] {
            steps(line);
            unescape(line);
        }
        assert_eq!(unescape("\\x4g\\xé\\n"), "\u{4}gé\n");
    }
}
