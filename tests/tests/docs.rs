//! Every command block of README.md and docs/ runs, in order, as pasted.
//!
//! Contract: the blocks of a page marked `sh`, and the lines of its `console` blocks that begin
//! with `$ `, are one script for one `bash -e -o pipefail`. It runs in a scratch directory that
//! looks like a clone (links to its files), with its own run directory, `$HOME` and `/tmp` path.
//! What a page starts in the background is killed when the page ends.
//!
//! Three things differ from a terminal:
//! - `target/release` holds the programs of this test run, and `cargo build` finds them built;
//! - `sudo` is left out, and blocks with `<!-- needs: root -->` are skipped without root;
//! - a block after `<!-- not run: REASON -->` is left out. There may be few of those.

use ringweir_harness::{programs, wait_for};
use ringweir_needs::{needs, needs_root};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// At most this many blocks of all pages together may be left out.
const NOT_RUN_AT_MOST: usize = 12;

/// One command block.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// Line of its fence, from 1.
    line: usize,
    commands: String,
    /// Why it is not run.
    not_run: Option<String>,
    /// What it needs: programs, or `root`.
    needs: Vec<String>,
}

/// The command blocks of a page.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    let (mut not_run, mut needed) = (None, Vec::new());
    while let Some((number, line)) = lines.next() {
        let comment = |key: &str| {
            line.strip_prefix("<!-- ")?.strip_prefix(key)?.strip_suffix(" -->").map(str::trim)
        };
        if let Some(reason) = comment("not run:") {
            not_run = Some(reason.to_string());
        } else if let Some(list) = comment("needs:") {
            needed = list.split(',').map(|n| n.trim().to_string()).collect();
        } else if let Some(language) = line.strip_prefix("```") {
            let body: Vec<&str> =
                lines.by_ref().map(|(_, l)| l).take_while(|l| !l.starts_with("```")).collect();
            let commands = match language {
                "sh" => body.join("\n"),
                "console" => {
                    body.iter().filter_map(|l| l.strip_prefix("$ ")).collect::<Vec<_>>().join("\n")
                }
                _ => String::new(),
            };
            if !commands.is_empty() {
                let (not_run, needs) = (not_run.take(), std::mem::take(&mut needed));
                blocks.push(Block { line: number + 1, commands, not_run, needs });
            }
            (not_run, needed) = (None, Vec::new());
        } else if !line.trim().is_empty() {
            (not_run, needed) = (None, Vec::new());
        }
    }
    blocks
}

fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).canonicalize().expect("repository")
}

/// README and everything in docs/.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = fs::read_dir(repository().join("docs"))
        .expect("docs/")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    pages.sort();
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|name| repository().join(name)));
    pages
}

/// A directory that looks like a clone in which `cargo build --release` has run.
fn clone(dir: &Path) {
    for entry in fs::read_dir(repository()).expect("repository") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name");
        if name != "target" && name != ".git" {
            symlink(&path, dir.join(name)).expect("link");
        }
    }
    fs::create_dir_all(dir.join("target")).expect("target");
    symlink(programs::build(), dir.join("target/release")).expect("link");
    let bin = dir.join(".bin");
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let programs = [
        ("sudo", "#!/bin/sh\nexec \"$@\"\n".to_string()),
        (
            "cargo",
            format!(
                "#!/bin/sh\n[ \"$1\" = build ] && exit 0\ncd '{}' && exec '{cargo}' \"$@\"\n",
                repository().display()
            ),
        ),
    ];
    fs::create_dir(&bin).expect("bin");
    for (name, text) in programs {
        fs::write(bin.join(name), text).expect("program");
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).expect("chmod");
    }
}

/// Runs the blocks of one page; `Err` is what a reader of the page would have seen.
fn run(blocks: &[Block]) -> Result<(), String> {
    let dir = tempfile::Builder::new().prefix("rw").tempdir().expect("temporary directory");
    clone(dir.path());
    let mut script = String::from("set -e -o pipefail\n");
    for block in blocks.iter().filter(|b| b.not_run.is_none()) {
        script += &format!("echo '== block at line {}'\n{}\n", block.line, block.commands);
    }
    script += "echo '== page done'\n";
    fs::write(dir.path().join(".page"), &script).expect("script");
    let path = format!(
        "{}:{}:/usr/sbin:/sbin",
        dir.path().join(".bin").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let output = dir.path().join(".output");
    let to = || fs::File::options().create(true).append(true).open(&output).expect("output");
    let target = programs::build().parent().expect("target directory");
    let mut page = Command::new("timeout")
        .args(["--kill-after=5", "120", "bash", ".page"])
        .current_dir(dir.path())
        .env("PATH", path)
        .env("HOME", dir.path())
        .env("RINGWEIR_DIR", dir.path().join("run"))
        // For make: the profile and directory of this test run.
        .env("PROFILE", if programs::build().ends_with("release") { "release" } else { "dev" })
        .env("CARGO_TARGET_DIR", target)
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .stdout(to())
        .stderr(to())
        .process_group(0)
        .spawn()
        .expect("timeout");
    let group = rustix::process::Pid::from_child(&page);
    let status = page.wait().expect("wait");
    // What the page left running, if anything; brokers remove their rings when they are asked to
    // stop.
    let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
    let ended = wait_for(Duration::from_secs(20), || {
        rustix::process::test_kill_process_group(group).is_err().then_some(())
    });
    if ended.is_none() {
        let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    // Rings of brokers that the page killed.
    let cleaned = programs::command("ringctl")
        .args(["gc", "--run-dir"])
        .arg(dir.path().join("run"))
        .output()
        .expect("ringctl gc");
    assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
    let said = String::from_utf8_lossy(&fs::read(&output).expect("output")).into_owned();
    match status.success() && said.contains("== page done") {
        true => Ok(()),
        false => Err(format!("{status}\n{said}")),
    }
}

/// The blocks of a page that can run here; records what is skipped.
fn runnable(blocks: Vec<Block>) -> Vec<Block> {
    let met = |need: &String| if need == "root" { needs_root() } else { needs(need) };
    blocks.into_iter().filter(|b| b.not_run.is_some() || b.needs.iter().all(met)).collect()
}

fn page(name: &str) {
    let text = fs::read_to_string(repository().join(name)).expect(name);
    let found = runnable(blocks(&text));
    if let Err(failure) = run(&found) {
        panic!("{name}: a block fails: {failure}");
    }
}

macro_rules! pages {
    ($($test:ident: $file:literal,)*) => {
        $(#[test] fn $test() { page($file); })*
        const TESTED: &[&str] = &[$($file),*];
    };
}

pages! {
    readme: "README.md",
    contributing: "CONTRIBUTING.md",
    architecture: "docs/architecture.md",
    capture: "docs/capture.md",
    daq: "docs/daq.md",
    dependencies: "docs/dependencies.md",
    feed: "docs/feed.md",
    fpga: "docs/fpga.md",
    glossary: "docs/glossary.md",
    limits: "docs/limits.md",
    operations: "docs/operations.md",
    publish: "docs/publish.md",
    rust_and_c: "docs/rust-and-c.md",
}

#[test]
fn no_page_is_forgotten_and_few_blocks_are_left_out() {
    let mut left_out = Vec::new();
    for path in pages() {
        let name = path.strip_prefix(repository()).expect("inside").display().to_string();
        assert!(TESTED.contains(&name.as_str()), "{name} has no test in the list above");
        for block in blocks(&fs::read_to_string(&path).expect("page")) {
            if let Some(reason) = block.not_run {
                assert!(!reason.is_empty(), "{name}:{}: not run without a reason", block.line);
                left_out.push(format!("{name}:{}: {reason}", block.line));
            }
        }
    }
    assert!(left_out.len() <= NOT_RUN_AT_MOST, "{}", left_out.join("\n"));
}

/// The negative control: each of these pages must fail, at the block that says so.
#[test]
fn a_planted_failure_is_found() {
    let planted = [
        ("```sh\nfalse\n```\n", "== block at line 1"),
        (
            "```sh\ntrue\n```\ntext\n```sh\ntarget/release/ringcat nothing -n 1\n```\n",
            "== block at line 5",
        ),
        ("```console\n$ target/release/ringcat --no-such-option\n```\n", "== block at line 1"),
        ("```sh\nexit 0\n```\n", "== block at line 1"),
    ];
    for (text, place) in planted {
        let failure = run(&blocks(text)).expect_err(text);
        assert!(failure.contains(place) && !failure.contains("page done"), "{text}{failure}");
    }
    assert_eq!(run(&blocks("```sh\nsleep 100 &\ntarget/release/ringd sources\n```\n")), Ok(()));
}

#[test]
fn blocks_are_taken_from_the_page() {
    let text = "\
<!-- not run: a reason -->
```sh
one
```
<!-- needs: root, socat -->
```console
$ two
said
$ three
```
<!-- not run: forgotten by then -->
text
```rust
four
```
```sh
five
```
";
    let block = |line, commands: &str, not_run: Option<&str>, needs: &[&str]| Block {
        line,
        commands: commands.into(),
        not_run: not_run.map(String::from),
        needs: needs.iter().map(|n| n.to_string()).collect(),
    };
    let expected = [
        block(2, "one", Some("a reason"), &[]),
        block(6, "two\nthree", None, &["root", "socat"]),
        block(16, "five", None, &[]),
    ];
    assert_eq!(blocks(text), expected);
}
