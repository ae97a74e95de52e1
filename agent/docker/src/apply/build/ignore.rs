//! `.dockerignore`: which paths of a context stay behind.
//!
//! The rules are Docker's (docs.docker.com, "Build context", ".dockerignore files"): one pattern a line, relative to
//! the context's root; `*` and `?` stop at a slash, `**` does not; `!` takes back; the last pattern that fits a path or
//! one of its folders decides.

use std::path::Path;

#[derive(Debug, Default)]
pub(super) struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    takes_back: bool,
    tokens: Vec<Token>,
}

#[derive(Debug, PartialEq)]
enum Token {
    Literal(char),
    /// `?`
    One,
    /// `*`
    Within,
    /// `**`
    Across,
    /// `**/`
    Folders,
    /// `[…]`, with `^` first for all others.
    Class {
        others: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Ignore {
    /// Paths in `kept` are never left out.
    pub(super) fn new(list: &str, kept: &[&str]) -> Self {
        let lines = list.trim_start_matches('\u{feff}').lines();
        let mut patterns: Vec<Pattern> = lines.filter_map(Pattern::new).collect();
        if !patterns.is_empty() {
            patterns.extend(kept.iter().map(|path| Pattern {
                takes_back: true,
                tokens: path.chars().map(Token::Literal).collect(),
            }));
        }
        Self { patterns }
    }

    /// Whether something below a folder that is left out may be in all the same.
    pub(super) fn may_take_back_in(&self, folder: &Path) -> bool {
        let folder: Vec<char> = format!("{}/", folder.to_string_lossy()).chars().collect();
        self.patterns
            .iter()
            .filter(|pattern| pattern.takes_back)
            .any(|pattern| {
                let begin = pattern.tokens.iter().map_while(|token| match token {
                    Token::Literal(c) => Some(*c),
                    _ => None,
                });
                let begin: Vec<char> = begin.collect();
                let goes_on = begin.len() < pattern.tokens.len();
                begin.starts_with(&folder) || (goes_on && folder.starts_with(&begin))
            })
    }

    pub(super) fn leaves_out(&self, path: &Path) -> bool {
        let text = path.to_string_lossy();
        let whole: Vec<char> = text.chars().collect();
        // The path itself and its folders.
        let ends = whole
            .iter()
            .enumerate()
            .filter(|(_, c)| **c == '/')
            .map(|(i, _)| i);
        let ends: Vec<usize> = ends.chain([whole.len()]).collect();
        let fits = |pattern: &Pattern| ends.iter().any(|end| fits(&pattern.tokens, &whole[..*end]));
        let last = self.patterns.iter().rev().find(|pattern| fits(pattern));
        last.is_some_and(|pattern| !pattern.takes_back)
    }
}

impl Pattern {
    fn new(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let line = line.trim();
        let (takes_back, text) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        let text = clean(text)?;
        Some(Self {
            takes_back,
            tokens: tokens(&text),
        })
    }
}

/// Without `.`, `..`, doubled slashes and slashes at the ends; None when nothing is left.
fn clean(text: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' if rest.peek() == Some(&'*') => {
                while rest.next_if_eq(&'*').is_some() {}
                if rest.next_if_eq(&'/').is_some() {
                    Token::Folders
                } else {
                    Token::Across
                }
            }
            '*' => Token::Within,
            '?' => Token::One,
            '\\' => Token::Literal(rest.next().unwrap_or('\\')),
            '[' => class(&mut rest).unwrap_or(Token::Literal('[')),
            other => Token::Literal(other),
        });
    }
    tokens
}

/// None, with nothing consumed, for a bracket that nobody closes.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let mut ahead = rest.clone();
    let others = ahead.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let mut next = || match ahead.next()? {
            '\\' => ahead.next().map(|c| (c, true)),
            c => Some((c, false)),
        };
        let (from, escaped) = next()?;
        if from == ']' && !escaped {
            break;
        }
        let mut to = from;
        if ahead.peek() == Some(&'-') {
            let mut further = ahead.clone();
            further.next();
            if further.peek().is_some_and(|c| *c != ']') {
                ahead.next();
                to = match ahead.next()? {
                    '\\' => ahead.next()?,
                    c => c,
                };
            }
        }
        ranges.push((from, to));
    }
    *rest = ahead;
    Some(Token::Class { others, ranges })
}

/// Every pair of a place in the pattern and one in the path is looked at once, so a row of stars costs no more than
/// its length times the path's.
fn fits(tokens: &[Token], path: &[char]) -> bool {
    // reach[j]: the tokens so far can have taken the first j characters.
    let mut reach = vec![false; path.len() + 1];
    reach[0] = true;
    for token in tokens {
        let mut next = vec![false; path.len() + 1];
        for start in (0..=path.len()).filter(|start| reach[*start]) {
            match token {
                Token::Across => next[start..].fill(true),
                Token::Folders => {
                    next[start] = true;
                    let ends = path[start..].iter().enumerate().filter(|(_, c)| **c == '/');
                    for (i, _) in ends {
                        next[start + i + 1] = true;
                    }
                }
                Token::Within => {
                    let length = path[start..].iter().take_while(|c| **c != '/').count();
                    next[start..=start + length].fill(true);
                }
                one => {
                    if path.get(start).is_some_and(|c| is_one(one, *c)) {
                        next[start + 1] = true;
                    }
                }
            }
        }
        reach = next;
    }
    reach[path.len()]
}

fn is_one(token: &Token, c: char) -> bool {
    match token {
        Token::Literal(wanted) => c == *wanted,
        Token::One => c != '/',
        Token::Class { others, ranges } => {
            c != '/' && ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *others
        }
        Token::Within | Token::Across | Token::Folders => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(list: &str, path: &str) -> bool {
        Ignore::new(list, &[]).leaves_out(Path::new(path))
    }

    #[test]
    fn patterns_fit_as_the_documentation_says() {
        for (pattern, path, fits) in [
            ("*/temp*", "somedir/temporary.txt", true),
            ("*/temp*", "somedir/temp/x", true),
            ("*/temp*", "temp", false),
            ("*/*/temp*", "a/b/temporary.txt", true),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("**/*.go", "main.go", true),
            ("**/*.go", "a/b/main.go", true),
            ("a/**", "a/b", true),
            ("a/**", "a", false),
            ("/a", "a", true),
            ("./a/", "a/b", true),
            ("a", "ab", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            (r"\*", "*", true),
            (r"\*", "a", false),
            ("*", "a/b/c", true),
            ("a[", "a[", true),
        ] {
            assert_eq!(out(pattern, path), fits, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_pattern_that_fits_decides() {
        let list = "# markdown\n*.md\n!README*.md\nREADME-secret.md\n";
        assert!(out(list, "a.md"));
        assert!(!out(list, "README-x.md"));
        assert!(out(list, "README-secret.md"));
        assert!(!out("*.md\n!README.md\n", "README.md"));
        assert!(out("!README.md\n*.md\n", "README.md"));
    }

    #[test]
    fn what_the_builder_needs_is_never_left_out() {
        let ignore = Ignore::new("*\n", &["Dockerfile"]);
        assert!(!ignore.leaves_out(Path::new("Dockerfile")));
        assert!(ignore.leaves_out(Path::new("Dockerfile2")));
        let ignore = Ignore::new("*\n!a/**/x\n", &["b/Dockerfile"]);
        for (folder, may) in [
            ("a", true),
            ("a/c", true),
            ("b", true),
            ("c", false),
            ("ab", false),
        ] {
            assert_eq!(ignore.may_take_back_in(Path::new(folder)), may, "{folder}");
        }
    }

    #[test]
    fn a_row_of_stars_takes_no_time_that_grows_without_measure() {
        let pattern = "*a".repeat(40);
        let path = "a".repeat(200) + "b";
        assert!(!out(&pattern, &path));
    }
}
