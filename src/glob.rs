//! Patterns for test names, with the rules of Go's `path.Match` (the language of `kola run`'s argument).

use std::iter::Peekable;
use std::str::Chars;

/// The pattern is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct SyntaxError;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// `*`: any run of characters other than `/`.
    Star,
    /// `?`: one character other than `/`.
    One,
    Literal(char),
    /// `[a-c]`, `[^a]`; may match `/`.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Token::Star => false,
            Token::One => c != '/',
            Token::Literal(literal) => c == *literal,
            Token::Class { negated, ranges } => {
                ranges.iter().any(|&(low, high)| (low..=high).contains(&c)) != *negated
            }
        }
    }
}

/// A parsed pattern: `*`, `?`, `[a-c]`, `[^a]`, `\x`; it must match the whole name.
#[derive(Clone, Debug)]
pub struct Pattern(Vec<Token>);

/// One end of a range inside brackets.
fn class_end(chars: &mut Peekable<Chars<'_>>) -> Result<char, SyntaxError> {
    match chars.next() {
        None | Some('-' | ']') => Err(SyntaxError),
        Some('\\') => chars.next().ok_or(SyntaxError),
        Some(c) => Ok(c),
    }
}

fn class(chars: &mut Peekable<Chars<'_>>) -> Result<Token, SyntaxError> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    // The first character is never the closing bracket: a class is not empty.
    while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
        let low = class_end(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { class_end(chars)? } else { low };
        ranges.push((low, high));
    }
    Ok(Token::Class { negated, ranges })
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// An unclosed or empty class, a range without an end, a `\` at the end.
    pub fn new(pattern: &str) -> Result<Self, SyntaxError> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if tokens.last() == Some(&Token::Star) => continue,
                '*' => Token::Star,
                '?' => Token::One,
                '[' => class(&mut chars)?,
                '\\' => Token::Literal(chars.next().ok_or(SyntaxError)?),
                literal => Token::Literal(literal),
            });
        }
        Ok(Self(tokens))
    }

    /// Whether the whole of `name` matches. Takes at most length of name × length of pattern steps.
    pub fn matches(&self, name: &str) -> bool {
        let (tokens, mut rest) = (&self.0, name.chars());
        let mut at = 0;
        // Where to go on when the current try fails: after the last star, one character later than before.
        let mut retry: Option<(usize, Chars<'_>)> = None;
        loop {
            match tokens.get(at) {
                Some(Token::Star) => {
                    at += 1;
                    retry = Some((at, rest.clone()));
                    continue;
                }
                None if rest.as_str().is_empty() => return true,
                Some(token) => {
                    let mut after = rest.clone();
                    if after.next().is_some_and(|c| token.accepts(c)) {
                        (at, rest) = (at + 1, after);
                        continue;
                    }
                }
                None => {}
            }
            let Some((after_star, from)) = retry.as_mut() else { return false };
            match from.next() {
                Some(c) if c != '/' => (at, rest) = (*after_star, from.clone()),
                _ => return false,
            }
        }
    }
}

/// Whether `name` matches `pattern`.
///
/// # Errors
/// As [`Pattern::new`], whatever the name is.
pub fn matches(pattern: &str, name: &str) -> Result<bool, SyntaxError> {
    Pattern::new(pattern).map(|p| p.matches(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name) in [
            ("", ""),
            ("abc", "abc"),
            ("*", ""),
            ("*", "cl.basic"),
            ("***", "x"),
            ("*c", "abc"),
            ("a*", "a"),
            ("a*", "abc"),
            ("a*/b", "abc/b"),
            ("a*b*c*d*e*/f", "axbxcxdxe/f"),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f"),
            ("a*b?c*x", "abxbbxdbxebxczzx"),
            ("cl.*.d*", "cl.etcd-member.discovery"),
            ("ab[c]", "abc"),
            ("ab[b-d]", "abc"),
            ("ab[^e-g]", "abc"),
            ("a\\*b", "a*b"),
            ("a?b", "a☺b"),
            ("a[^a]b", "a☺b"),
            ("a[^a]b", "a/b"),
            ("[a-ζ]*", "α"),
            ("[\\]a]", "]"),
            ("[\\-]", "-"),
            ("[x\\-]", "-"),
            ("[\\-x]", "x"),
            ("*x", "xxx"),
            ("*aab", "aaaab"),
            ("\\[a]", "[a]"),
            ("]", "]"),
            ("a-b", "a-b"),
        ] {
            assert_eq!(matches(pattern, name), Ok(true), "{pattern:?} {name:?}");
        }
        for (pattern, name) in [
            ("", "a"),
            ("a", ""),
            ("?", ""),
            ("*", "a/b"),
            ("a*", "ab/c"),
            ("a*/b", "a/c/b"),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f"),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff"),
            ("a*b?c*x", "abxbbxdbxebxczzy"),
            ("ab[e-g]", "abc"),
            ("ab[^c]", "abc"),
            ("ab[^b-d]", "abc"),
            ("a\\*b", "ab"),
            ("a??b", "a☺b"),
            ("a?b", "a/b"),
            ("*[a-ζ]", "A"),
            ("[x\\-]", "z"),
            ("[c-a]", "b"),
            ("cl", "cl.basic"),
            ("a*b", "a/b"),
            ("*ab*[^x]*", "ac/ab"),
        ] {
            assert_eq!(matches(pattern, name), Ok(false), "{pattern:?} {name:?}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors_for_every_name() {
        for pattern in [
            "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^]", "[^bc", "a[", "a/b[", "\\", "x\\",
            "[\\", "[a\\", "[]", "[a-]", "[a-\\",
        ] {
            for name in ["", "a", "zzz"] {
                assert_eq!(matches(pattern, name), Err(SyntaxError), "{pattern:?}");
            }
        }
        assert_eq!(SyntaxError.to_string(), "syntax error in pattern");
    }

    #[test]
    fn many_stars_stay_cheap() {
        let pattern = format!("{}b", "*a".repeat(200));
        assert_eq!(matches(&pattern, &"a".repeat(5000)), Ok(false));
    }
}
