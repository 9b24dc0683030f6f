//! The picture is current and free of circles. Planted circles and a planted stale page are found.

use ringweir_architecture::picture;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn architecture(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_architecture")).args(arguments).output().expect("it runs")
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The negative controls are the tests below.
#[test]
fn the_page_is_current_and_shows_no_circle() {
    let output = architecture(&["--check"]);
    assert!(output.status.success(), "{}", complaint(&output));
}

/// Writes a workspace of two crates; `files` come on top.
fn workspace(dir: &Path, files: &[(&str, &str)]) {
    let page = format!("# Planted\n{}\n{}\n", picture::BEGIN, picture::END);
    let manifest = |name: &str, uses: &str| {
        format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n[dependencies]\n{uses}\n")
    };
    let top = manifest("top", "bottom = { path = \"../bottom\" }");
    let base = [
        ("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"top\", \"bottom\"]\n"),
        ("docs/architecture.md", page.as_str()),
        ("top/Cargo.toml", top.as_str()),
        ("top/src/lib.rs", "pub mod a;\nmod b;\n"),
        ("top/src/a.rs", "//! Uses b. No more.\nuse crate::b::B;\npub fn a(_: B) {}\n"),
        ("top/src/b.rs", "pub struct B;\n"),
        ("bottom/Cargo.toml", &manifest("bottom", "")),
        ("bottom/src/lib.rs", ""),
    ];
    for (name, text) in base.iter().chain(files) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        fs::write(path, text).expect("file");
    }
}

/// The faults that the check finds in a planted workspace.
fn faults(files: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().expect("temporary directory");
    workspace(dir.path(), files);
    let picture = picture::draw(dir.path()).expect("it is drawn");
    picture.faults.into_iter().map(|f| f.text).collect()
}

#[test]
fn a_workspace_without_circles_has_no_faults() {
    assert_eq!(faults(&[]), [""; 0]);
}

#[test]
fn a_planted_circle_is_found() {
    let found = faults(&[("top/src/b.rs", "pub struct B;\nfn f() { super::a::a(B) }\n")]);
    let expected =
        "circle of files of top/src: a.rs, b.rs\n  a.rs uses b.rs\n  b.rs uses a.rs".to_string();
    assert_eq!(found[0], expected);
}

#[test]
fn a_circle_through_a_re_export_is_found() {
    let files = [
        ("top/src/lib.rs", "mod a;\nmod b;\n"),
        ("top/src/a/mod.rs", "mod inner;\npub(crate) use inner::Inner;\n"),
        ("top/src/a/inner.rs", "pub struct Inner;\nuse crate::b::*;\n"),
        ("top/src/b.rs", "pub fn b(_: crate::a::Inner) {}\n"),
    ];
    let found = faults(&files);
    assert!(found[0].starts_with("circle of files of top/src: a/inner.rs, b.rs"), "{found:?}");
    assert!(found[1].starts_with("circle of folders of top/src: a/, b/"), "{found:?}");
}

#[test]
fn test_code_and_a_parent_that_re_exports_make_no_circle() {
    let files = [
        ("top/src/lib.rs", "mod a;\nmod b;\n"),
        ("top/src/a/mod.rs", "mod inner;\npub use inner::Inner;\npub struct Outer;\n"),
        ("top/src/a/inner.rs", "use super::Outer;\npub struct Inner(Outer);\n"),
        ("top/src/b.rs", "use crate::a::Inner;\n#[cfg(test)]\nmod tests { use crate::a::*; }\n"),
    ];
    assert_eq!(faults(&files), [""; 0]);
    let uses =
        "mod inner;\npub use inner::Inner;\npub struct Outer;\nfn f() -> Inner { todo!() }\n";
    let found = faults(&[files[0], ("top/src/a/mod.rs", uses), files[2], files[3]]);
    assert!(found[0].starts_with("circle of files of top/src: a/inner.rs, a/mod.rs"), "{found:?}");
}

#[test]
fn a_file_of_another_crate_is_found() {
    let files =
        [("top/src/b.rs", "#[path = \"../../bottom/src/lib.rs\"]\nmod c;\npub struct B;\n")];
    assert!(faults(&files)[0].contains("leaves the crate"));
}

#[test]
fn a_stale_page_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    workspace(dir.path(), &[]);
    let page: PathBuf = dir.path().join(picture::PAGE);
    let text = || fs::read_to_string(&page).expect("the page");
    let drawn = picture::draw(dir.path()).expect("it is drawn");
    let current = picture::insert(&text(), &drawn.text).expect("markers");
    assert!(current.contains("a.rs    Uses b\n        ▶ b.rs"), "{current}");
    let output = architecture(&["--check", dir.path().to_str().expect("UTF-8")]);
    assert!(complaint(&output).contains("docs/architecture.md is stale: line 3 is"), "{output:?}");
    assert_eq!(output.status.code(), Some(1));
    assert!(text().len() < current.len(), "--check changes nothing");
}
