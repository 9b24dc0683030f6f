//! House rules that a machine can check: no line is over 100 columns, and one thing has one name.
//!
//! Contract: the files are those of `git ls-files`, or without git those of the source directories.
//! Negative controls: `a_long_line_is_found`, `a_wrong_word_is_found` and
//! `every_tracked_file_is_found_without_git`.

use std::path::{Path, PathBuf};
use std::process::Command;

const COLUMNS: usize = 100;

/// Files with longer lines, and why.
const LONG: &[(&str, &str)] =
    &[("tests/bench/results.md", "written by ringbench, one line per paragraph")];

/// Words of earlier drafts that mean nothing to a reader, and what to write instead.
const WRONG: &[(&[&str], &str)] = &[
    (&["bell", "bells"], "event, wake event (the register of a device is the doorbell)"),
    (&["books"], "account"),
    (&["crew"], "runner"),
    (&["dear"], "slow (a slow wake)"),
    (&["doze", "dozes", "dozing"], "sleep request"),
    (&["go on", "goes on", "going on", "went on"], "continue"),
    (&["hold back", "holds back", "holding back", "held back"], "wait; back-pressure"),
    (&["misdeed", "misdeeds"], "attack"),
    (&["nobody's"], "of no process, of no user"),
    (&["outlet", "outlets"], "socket server"),
    (&["scene", "scenes"], "environment"),
    (&["spares", "spared"], "is still valid"),
    (&["tempo"], "schedule"),
    (&["told as"], "reported as"),
    (&["is told", "are told", "was told", "were told"], "is reported (a loss); learns (a reader)"),
    (&["troupe"], "readers"),
    (&["whoever"], "the process that, a user who"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_path_buf()
}

/// The text of a file that people write, with its path from the root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_a(&self, extensions: &[&str]) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, extension)| extensions.contains(&extension))
    }
}

/// Fuzz inputs are bytes, not text.
fn is_corpus(path: &str) -> bool {
    path.starts_with("tests/fuzz/corpus/")
}

fn tracked() -> Option<Vec<String>> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().ok()?;
    let listed = String::from_utf8(output.stdout).ok()?;
    let paths: Vec<_> = listed.split_terminator('\0').map(str::to_owned).collect();
    (output.status.success() && !paths.is_empty()).then_some(paths)
}

fn walked() -> Vec<String> {
    let mut paths = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for entry in root().join(&directory).read_dir().expect("a directory").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{directory}{name}");
            let kind = entry.file_type().expect("its type");
            if kind.is_file() {
                paths.push(path);
            } else if kind.is_dir() && name != ".git" && name != "target" {
                directories.push(path + "/");
            }
        }
    }
    paths
}

fn sources() -> Vec<Source> {
    let paths = tracked().unwrap_or_else(walked);
    let read = |path: String| {
        let text = std::fs::read_to_string(root().join(&path)).ok()?;
        Some(Source { path, text })
    };
    paths.into_iter().filter(|path| !is_corpus(path)).filter_map(read).collect()
}

/// The width of a line; a tab ends at the next multiple of 8.
fn columns(line: &str) -> usize {
    line.chars().fold(0, |at, c| if c == '\t' { at / 8 * 8 + 8 } else { at + 1 })
}

/// One line of text for each line that is too long. A row of a Markdown table cannot be broken.
fn long_lines(source: &Source) -> Vec<String> {
    let is_written = source.is_a(&["rs", "c", "h", "md", "toml", "sh"])
        || source.path.rsplit('/').next() == Some("Makefile")
        || source.text.starts_with("#!");
    if !is_written || LONG.iter().any(|(path, _)| *path == source.path) {
        return Vec::new();
    }
    let is_row = |line: &str| source.is_a(&["md"]) && line.trim_start().starts_with('|');
    let long = |(at, line): (usize, &str)| {
        let width = columns(line);
        (width > COLUMNS && !is_row(line))
            .then(|| format!("{}:{}: {width} columns", source.path, at + 1))
    };
    source.text.lines().enumerate().filter_map(long).collect()
}

/// A word in lower case. Identifiers are split into their words.
#[derive(Debug, PartialEq)]
struct Word {
    text: String,
    line: usize,
    /// Nothing but blanks, hyphens and line breaks is between it and the word before.
    follows: bool,
}

fn words(text: &str) -> Vec<Word> {
    let mut found = Vec::new();
    let mut follows = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        let marks = ["//!", "///", "//", "* "];
        let line = marks.iter().find_map(|mark| line.strip_prefix(mark)).unwrap_or(line);
        let line = line.strip_suffix('\\').unwrap_or(line);
        follows &= !line.is_empty();
        let (mut word, mut before) = (String::new(), ' ');
        for c in line.chars().chain([' ']) {
            let is_inside = c.is_alphanumeric() || c == '\'' && before.is_alphanumeric();
            if !word.is_empty() && (!is_inside || c.is_uppercase() && before.is_lowercase()) {
                let text = std::mem::take(&mut word).trim_end_matches('\'').to_owned();
                found.push(Word { text, line: at + 1, follows });
                follows = true;
            }
            if is_inside {
                word.extend(c.to_lowercase());
            } else if !c.is_whitespace() && c != '-' && c != '_' {
                follows = false;
            }
            before = c;
        }
    }
    found
}

/// One line of text for each wrong word: where it is, and what to write instead.
fn wrong_words(source: &Source) -> Vec<String> {
    let words = words(&source.text);
    let mut found = Vec::new();
    for (phrases, instead) in WRONG {
        for phrase in *phrases {
            let wanted: Vec<_> = phrase.split(' ').collect();
            for run in words.windows(wanted.len()) {
                let is_it = run.iter().map(|word| &word.text[..]).eq(wanted.iter().copied());
                if is_it && run[1..].iter().all(|word| word.follows) {
                    let Word { line, .. } = run[0];
                    found.push(format!("{}:{line}: {phrase:?}: write: {instead}", source.path));
                }
            }
        }
    }
    found
}

#[test]
fn no_line_is_over_100_columns() {
    let sources = sources();
    assert!(sources.len() > 300, "only {} files found", sources.len());
    let found: Vec<_> = sources.iter().flat_map(long_lines).collect();
    assert!(found.is_empty(), "wrap these lines at {COLUMNS} columns:\n{}", found.join("\n"));
}

#[test]
fn a_long_line_is_found() {
    let found = |path: &str, text: &str| {
        long_lines(&Source { path: path.into(), text: format!("first\n{text}\n") })
    };
    let [fits, long] = [100, 101].map(|width| "é".repeat(width));
    assert!(found("a.rs", &fits).is_empty());
    assert_eq!(found("a/b.rs", &long), ["a/b.rs:2: 101 columns"]);
    assert_eq!(found("Makefile", &format!("\t{}", "x".repeat(93))), ["Makefile:2: 101 columns"]);
    assert_eq!(found("a.md", &long).len(), 1);
    assert!(found("a.md", &format!("| {long} |")).is_empty(), "a table");
    assert_eq!(found("a.rs", &format!("| {long} |")).len(), 1, "no table");
    assert!(found("a.svg", &long).is_empty(), "not written by hand");
    assert!(found(LONG[0].0, &long).is_empty());
}

#[test]
fn no_wrong_word_is_used() {
    let is_text = |source: &&Source| {
        source.is_a(&["rs", "c", "h", "md"]) && source.path != "tests/tests/wording.rs"
    };
    let sources = sources();
    let found: Vec<_> = sources.iter().filter(is_text).flat_map(wrong_words).collect();
    assert!(found.is_empty(), "these words have another name:\n{}", found.join("\n"));
}

#[test]
fn a_wrong_word_is_found() {
    let found = |text: &str| wrong_words(&Source { path: "a.rs".into(), text: text.into() });
    for phrase in WRONG.iter().flat_map(|(phrases, _)| *phrases) {
        assert_eq!(found(&format!("The {phrase}.")).len(), 1, "{phrase}");
        let broken = format!("    /// The {}\n", phrase.replace(' ', "\n    /// "));
        assert_eq!(found(&broken).len(), 1, "{broken}");
        let name = format!("fn the_{}() {{}}", phrase.replace(' ', "_"));
        assert_eq!(found(&name).len(), 1, "{name}");
    }
    assert_eq!(
        found("x\nlet b = TheBell;"),
        ["a.rs:2: \"bell\": write: event, wake event (the register of a device is the doorbell)"]
    );
    assert_eq!(found("\"it goes \\\n    on\"").len(), 1, "a string over two lines");
    for right in ["doorbell", "the go. On it", "told apart", "endear", "it is\n\ntold", "go(on)"] {
        assert_eq!(found(right), [""; 0], "{right}");
    }
}

#[test]
fn every_tracked_file_is_found_without_git() {
    let walked = walked();
    let there = |path: &String| root().join(path).is_file();
    let missed: Vec<_> = tracked()
        .unwrap_or_default()
        .into_iter()
        .filter(|path| there(path) && !walked.contains(path))
        .collect();
    assert_eq!(missed, [""; 0]);
    assert!(walked.iter().any(|path| path == "tests/tests/wording.rs"));
}
