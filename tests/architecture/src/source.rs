//! What one module says about others: child modules, imports, the names it defines and the paths
//! it uses.
//!
//! Contract: items under `#[cfg(test)]` or `#[test]` are left out. Everything else is taken in,
//! whatever other `cfg` it has: the picture shows the union of all builds.

use crate::tokens::{Token, tokens};
use std::collections::BTreeSet;

/// One module: a file, or a `mod name { … }` inside one.
#[derive(Debug, Default)]
pub struct Module {
    /// `mod name;`, with the file that a `#[path = "…"]` names.
    pub files: Vec<(String, Option<String>)>,
    /// `mod name { … }`.
    pub inline: Vec<(String, Module)>,
    /// Each leaf of each `use`.
    pub imports: Vec<Import>,
    /// Names of items that are defined here.
    pub defines: BTreeSet<String>,
    /// Paths of two or more segments outside `use`.
    pub paths: Vec<Vec<String>>,
    /// Words outside `use`: which imported names are used here.
    pub words: BTreeSet<String>,
}

/// `use path as name`; a glob has the name `*`.
#[derive(Debug)]
pub struct Import {
    /// Segments of the path, without the `*` of a glob.
    pub path: Vec<String>,
    /// The name that it gets here.
    pub name: String,
    /// Whether it has a visibility, that is, other modules can reach it through this one.
    pub public: bool,
}

/// Reads the text of a file.
pub fn read(text: &str) -> Module {
    let tokens = tokens(text);
    let mut at = 0;
    module(&tokens, &mut at)
}

/// The first sentence of a file's `//!` comment: what the file is for.
pub fn summary(text: &str) -> String {
    let mut words = String::new();
    for line in text.lines().skip_while(|l| !l.starts_with("//!")) {
        let Some(line) = line.strip_prefix("//!") else { break };
        if line.trim().is_empty() {
            break;
        }
        words.push_str(line.trim());
        words.push(' ');
    }
    let end = words.find(". ").unwrap_or(words.trim_end().len());
    let mut sentence = words[..end].trim_end().trim_end_matches('.').replace(['[', ']'], "");
    // Rustdoc's links do not work on the page.
    while let Some(start) = sentence.find("(crate::") {
        let end = sentence[start..].find(')').map_or(sentence.len(), |end| start + end + 1);
        sentence.replace_range(start..end, "");
    }
    sentence
}

/// Reads up to the end of the file or the `}` that closes this module.
fn module(tokens: &[Token], at: &mut usize) -> Module {
    let mut here = Module::default();
    let mut depth = 0usize;
    let mut public = false;
    let mut path_attribute = None;
    while *at < tokens.len() {
        match &tokens[*at] {
            Token::Sign('#') => {
                let (test, path) = attribute(tokens, at);
                path_attribute = path.or(path_attribute);
                if test {
                    skip_item(tokens, at);
                }
                continue;
            }
            Token::Sign('{') => depth += 1,
            Token::Sign('}') if depth == 0 => {
                *at += 1;
                return here;
            }
            Token::Sign('}') => depth -= 1,
            Token::Word(w) if w == "pub" => {
                public = true;
                *at += 1;
                if tokens.get(*at) == Some(&Token::Sign('(')) {
                    while *at < tokens.len() && tokens[*at] != Token::Sign(')') {
                        *at += 1;
                    }
                    *at += 1;
                }
                continue;
            }
            Token::Word(w) if w == "use" && starts_item(tokens, *at) => {
                *at += 1;
                use_tree(tokens, at, &mut Vec::new(), public, &mut here.imports);
                public = false;
                continue;
            }
            Token::Word(w) if w == "mod" => {
                if let Some(Token::Word(name)) = tokens.get(*at + 1) {
                    let name = name.clone();
                    *at += 2;
                    match tokens.get(*at) {
                        Some(Token::Sign(';')) => here.files.push((name, path_attribute.take())),
                        Some(Token::Sign('{')) => {
                            *at += 1;
                            let inner = module(tokens, at);
                            here.inline.push((name, inner));
                            public = false;
                            continue;
                        }
                        _ => {}
                    }
                    public = false;
                    continue;
                }
            }
            Token::Word(_) => {
                word(tokens, at, depth, &mut here);
                public = false;
                continue;
            }
            _ => public = false,
        }
        *at += 1;
    }
    here
}

/// `use` begins an item; `+ use<'a>` is part of a type.
fn starts_item(tokens: &[Token], at: usize) -> bool {
    tokens.get(at + 1) != Some(&Token::Sign('<'))
}

/// Takes in a path, a definition or a plain word.
fn word(tokens: &[Token], at: &mut usize, depth: usize, here: &mut Module) {
    let mut path = Vec::new();
    let start = *at;
    let after_sep = start > 0 && tokens[start - 1] == Token::PathSep;
    while let Some(Token::Word(w)) = tokens.get(*at) {
        path.push(w.clone());
        *at += 1;
        let continues = tokens.get(*at) == Some(&Token::PathSep)
            && matches!(tokens.get(*at + 1), Some(Token::Word(_)));
        if !continues {
            break;
        }
        *at += 1;
    }
    let keyword = path[0].as_str();
    // `*const T` defines nothing.
    let pointer = start > 0 && tokens[start - 1] == Token::Sign('*');
    if depth == 0 && path.len() == 1 && !pointer {
        let macro_name = keyword == "macro_rules" && tokens.get(*at) == Some(&Token::Sign('!'));
        let name_at = if macro_name { *at + 1 } else { *at };
        let defines = macro_name
            || ["fn", "struct", "enum", "trait", "type", "const", "static", "union"]
                .contains(&keyword);
        if let (true, Some(Token::Word(name))) = (defines, tokens.get(name_at)) {
            here.defines.insert(name.clone());
        }
    }
    if after_sep {
        // The rest of something like `<T as Trait>::name`.
        return;
    }
    here.words.insert(path[0].clone());
    if path.len() > 1 {
        here.paths.push(path);
    }
}

/// Reads an attribute: whether what follows is test code, and the text of `path = "…"`.
fn attribute(tokens: &[Token], at: &mut usize) -> (bool, Option<String>) {
    *at += 1;
    let inner = tokens.get(*at) == Some(&Token::Sign('!'));
    if inner {
        *at += 1;
    }
    if tokens.get(*at) != Some(&Token::Sign('[')) {
        return (false, None);
    }
    let start = *at;
    let mut depth = 0;
    while *at < tokens.len() {
        match tokens[*at] {
            Token::Sign('[') => depth += 1,
            Token::Sign(']') => depth -= 1,
            _ => {}
        }
        *at += 1;
        if depth == 0 {
            break;
        }
    }
    let body = &tokens[start + 1..*at - 1];
    let test = match body {
        [only] => only.is_word("test"),
        [cfg, Token::Sign('('), first, ..] if cfg.is_word("cfg") => {
            first.is_word("test")
                || (first.is_word("all")
                    && body.iter().any(|t| t.is_word("test"))
                    && !body.iter().any(|t| t.is_word("not") || t.is_word("any")))
        }
        _ => false,
    };
    let path = match body {
        [word, Token::Sign('='), Token::Literal(path)] if word.is_word("path") => {
            Some(path.clone())
        }
        _ => None,
    };
    (test && !inner, path)
}

/// Skips an item: further attributes, then up to its `;` or the end of its braces.
fn skip_item(tokens: &[Token], at: &mut usize) {
    while tokens.get(*at) == Some(&Token::Sign('#')) {
        attribute(tokens, at);
    }
    let mut depth = 0usize;
    while *at < tokens.len() {
        match tokens[*at] {
            Token::Sign('{' | '(' | '[') => depth += 1,
            // The end of what holds the item: a field or a variant may have no `,`.
            Token::Sign('}' | ')' | ']') if depth == 0 => return,
            Token::Sign(c @ ('}' | ')' | ']')) => {
                depth -= 1;
                if depth == 0 && c == '}' {
                    *at += 1;
                    return;
                }
            }
            Token::Sign(';' | ',') if depth == 0 => {
                *at += 1;
                return;
            }
            _ => {}
        }
        *at += 1;
    }
}

/// Reads a `use` tree up to its `;`, `,` or `}`.
fn use_tree(
    tokens: &[Token],
    at: &mut usize,
    prefix: &mut Vec<String>,
    public: bool,
    found: &mut Vec<Import>,
) {
    let depth = prefix.len();
    let mut rename = None;
    let mut leaf = false;
    while *at < tokens.len() {
        match &tokens[*at] {
            Token::PathSep => {}
            Token::Word(w) if w == "as" => {
                *at += 1;
                if let Some(Token::Word(name)) = tokens.get(*at) {
                    rename = Some(name.clone());
                }
            }
            Token::Word(w) => {
                prefix.push(w.clone());
                leaf = true;
            }
            Token::Sign('*') => {
                found.push(Import { path: prefix.clone(), name: "*".into(), public });
                leaf = false;
            }
            Token::Sign('{') => {
                *at += 1;
                while *at < tokens.len() && tokens[*at] != Token::Sign('}') {
                    use_tree(tokens, at, prefix, public, found);
                    if tokens.get(*at) == Some(&Token::Sign(',')) {
                        *at += 1;
                    }
                }
                leaf = false;
            }
            _ => break,
        }
        *at += 1;
    }
    if leaf && prefix.len() > depth {
        let mut path = prefix.clone();
        if path.len() > 1 && path.last().is_some_and(|s| s == "self") {
            path.pop();
        }
        let name = rename.or_else(|| path.last().cloned()).unwrap_or_default();
        found.push(Import { path, name, public });
    }
    prefix.truncate(depth);
    if tokens.get(*at) == Some(&Token::Sign(';')) {
        *at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(text: &str) -> Vec<String> {
        read(text).imports.iter().map(|i| format!("{} as {}", i.path.join("::"), i.name)).collect()
    }

    #[test]
    fn use_trees_are_taken_apart() {
        assert_eq!(
            imports("use crate::a::{self, b::{C, D as E}, *}; pub(crate) use super::f;"),
            [
                "crate::a as a",
                "crate::a::b::C as C",
                "crate::a::b::D as E",
                "crate::a as *",
                "super::f as f"
            ]
        );
    }

    #[test]
    fn test_code_is_left_out() {
        let text = "
            #[cfg(test)] use crate::a;
            #[cfg(test)] mod tests { use crate::b; }
            #[cfg(all(test, unix))] #[allow(dead_code)] fn f() { crate::c::d() }
            #[cfg(not(test))] use crate::e;
            mod g { fn h() { crate::i::j() } }
        ";
        assert_eq!(imports(text), ["crate::e as e"]);
        let module = read(text);
        assert_eq!(module.inline[0].1.paths, [["crate", "i", "j"]]);
        assert!(module.paths.is_empty());
    }

    #[test]
    fn definitions_and_paths_are_found() {
        let module = read("pub struct A; impl A { const B: u8 = 1; fn c(&self) { x::y::<Z>() } }");
        assert_eq!(module.defines.iter().collect::<Vec<_>>(), ["A"]);
        assert_eq!(module.paths, [["x", "y"]]);
    }

    #[test]
    fn the_summary_is_the_first_sentence() {
        assert_eq!(
            summary("//! One thing\n//! in two lines. More.\n//!\n"),
            "One thing in two lines"
        );
        assert_eq!(summary("use x;"), "");
    }
}
