//! Rust source as a list of tokens: identifiers, `::`, lifetimes left out, and single characters.
//!
//! Contract: comments disappear and a literal becomes one [`Token::Literal`], so that nothing
//! inside them is taken for code. Text that is not Rust gives tokens too, never a panic.

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// An identifier or keyword.
    Word(String),
    /// `::`
    PathSep,
    /// A string, byte string or character; strings keep their text (`#[path = "…"]` needs it).
    Literal(String),
    /// Any other character.
    Sign(char),
}

impl Token {
    /// Whether this is the word `w`.
    pub fn is_word(&self, w: &str) -> bool {
        matches!(self, Token::Word(x) if x == w)
    }
}

/// Splits `text` into tokens.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut found = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        match c {
            '/' if at(i + 1) == '/' => i = line_end(&chars, i),
            '/' if at(i + 1) == '*' => i = block_comment_end(&chars, i),
            '"' => {
                let end = string_end(&chars, i + 1);
                found.push(literal(&chars[i + 1..end.saturating_sub(1).max(i + 1)]));
                i = end;
            }
            '\'' => match char_end(&chars, i) {
                Some(end) => {
                    found.push(Token::Literal(String::new()));
                    i = end;
                }
                // A lifetime or label: its name is no path.
                None => {
                    i += 1;
                    while is_word(at(i)) {
                        i += 1;
                    }
                }
            },
            ':' if at(i + 1) == ':' => {
                found.push(Token::PathSep);
                i += 2;
            }
            _ if is_word(c) => {
                let start = i;
                while is_word(at(i)) {
                    i += 1;
                }
                let word: String = chars[start..i].iter().collect();
                let prefix = matches!(word.as_str(), "r" | "b" | "c" | "br" | "cr");
                if prefix
                    && (at(i) == '"' || at(i) == '#')
                    && let Some((text, end)) = prefixed(&chars, i, word.contains('r'))
                {
                    found.push(text);
                    i = end;
                    continue;
                }
                if prefix
                    && word == "b"
                    && at(i) == '\''
                    && let Some(end) = char_end(&chars, i)
                {
                    found.push(Token::Literal(String::new()));
                    i = end;
                    continue;
                }
                // r#type is the identifier `type`.
                if word == "r" && at(i) == '#' && is_word(at(i + 1)) {
                    i += 1;
                    continue;
                }
                found.push(Token::Word(word));
            }
            _ => {
                if !c.is_whitespace() {
                    found.push(Token::Sign(c));
                }
                i += 1;
            }
        }
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn literal(chars: &[char]) -> Token {
    Token::Literal(chars.iter().collect())
}

fn line_end(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() && chars[i] != '\n' {
        i += 1;
    }
    i
}

fn block_comment_end(chars: &[char], mut i: usize) -> usize {
    let mut depth = 0;
    while i < chars.len() {
        if chars[i..].starts_with(&['/', '*']) {
            depth += 1;
            i += 2;
        } else if chars[i..].starts_with(&['*', '/']) {
            depth -= 1;
            i += 2;
            if depth == 0 {
                break;
            }
        } else {
            i += 1;
        }
    }
    i
}

/// The position after the closing quote of a string whose text begins at `i`.
fn string_end(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// The position after a character literal that begins at `i`, or `None` for a lifetime.
fn char_end(chars: &[char], i: usize) -> Option<usize> {
    match chars.get(i + 1)? {
        '\\' => {
            let mut end = i + 3;
            while end < chars.len() && chars[end] != '\'' {
                end += 1;
            }
            Some(end + 1)
        }
        _ => (chars.get(i + 2) == Some(&'\'')).then_some(i + 3),
    }
}

/// A string literal whose prefix (`r`, `b`, `c`, …) ends before `i`.
fn prefixed(chars: &[char], i: usize, raw: bool) -> Option<(Token, usize)> {
    let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
    let start = i + hashes + 1;
    if chars.get(i + hashes) != Some(&'"') {
        return None;
    }
    if !raw {
        let end = string_end(chars, start);
        return Some((literal(&chars[start..end.saturating_sub(1).max(start)]), end));
    }
    let mut end = start;
    while end < chars.len() {
        let closed = chars[end] == '"'
            && chars.get(end + 1..end + 1 + hashes).is_some_and(|h| h.iter().all(|c| *c == '#'));
        if closed {
            return Some((literal(&chars[start..end]), end + 1 + hashes));
        }
        end += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let word = |t| match t {
            Token::Word(w) => Some(w),
            _ => None,
        };
        tokens(text).into_iter().filter_map(word).collect()
    }

    #[test]
    fn comments_literals_and_lifetimes_hold_no_words() {
        let text = r####"
            // a::b
            /* c /* d */ e */ fn f<'g>(h: &'g str) { "i \" j"; r#"k " l"#; b'm'; '\''; 'n'; b"o" }
        "####;
        assert_eq!(words(text), ["fn", "f", "h", "str"]);
    }

    #[test]
    fn paths_are_words_and_separators() {
        assert_eq!(
            tokens("crate::r#type"),
            [Token::Word("crate".into()), Token::PathSep, Token::Word("type".into())]
        );
    }
}
