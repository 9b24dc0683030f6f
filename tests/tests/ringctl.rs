//! What `ringctl` writes about the programs: shell completions and manual pages.

use ringweir_harness::{Environment, programs};
use ringweir_needs::{Part, needs};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PROGRAMS: &[&str] = &["ringd", "ringcat", "ringstat", "ringctl", "ringgen", "ringsend"];

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What bash would offer after `words`, the last of which is being typed.
fn offers(script: &Path, words: &[&str]) -> Vec<String> {
    let line = format!(
        "source {}; COMP_WORDS=({}); COMP_CWORD={}; f=$(complete -p {} | sed 's/.*-F \\([^ \
        ]*\\).*/\\1/'); \
         $f {} '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        words.iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" "),
        words.len() - 1,
        words[0],
        words[0],
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let output = Command::new("bash").args(["--norc", "-c", &line]).output().expect("bash");
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter(|l| !l.is_empty())
        .map(String::from)
        .collect()
}

/// Through bash's own completion: commands, options, values. Control: a word that cannot follow is
/// not offered, and without the script there is no completion at all.
#[test]
fn bash_completes_commands_options_and_values_of_every_program() {
    let env = Environment::new(LIMIT);
    if !needs("bash") {
        return;
    }
    let all = env.run("ringctl", &["completions", "bash"]);
    assert!(all.status.success(), "{}", said(&all));
    let script = env.path("ringweir.bash");
    std::fs::write(&script, &all.stdout).unwrap();
    let check = Command::new("bash").arg("-n").arg(&script).output().unwrap();
    assert!(check.status.success() && check.stderr.is_empty(), "{}", said(&check));
    for (words, offered) in [
        (&["ringctl", "doc"][..], &["doctor"][..]),
        (&["ringctl", "gc", "--d"], &["--dry-run"]),
        (&["ringctl", "man", "ringg"], &["ringgen"]),
        (&["ringd", "ru"], &["run"]),
        (&["ringd", "run", "--wait"], &["--wait-readers"]),
        (&["ringcat", "x", "--format", "len"], &["len32le"]),
        (&["ringstat", "--fail"], &["--fail-on-loss"]),
        (&["ringgen", "--fram"], &["--framing"]),
        (&["ringctl", "nosuch"], &[]),
    ] {
        assert_eq!(offers(&script, words), offered, "{words:?}");
    }
    let without =
        Command::new("bash").args(["--norc", "-c", "complete -p ringctl"]).output().unwrap();
    assert!(!without.status.success());
    // A script for one program does not mention the others.
    let one = env.run("ringctl", &["completions", "bash", "ringd"]);
    let one = String::from_utf8(one.stdout).unwrap();
    assert!(one.contains("_ringd()") && !one.contains("_ringcat()"));
}

#[test]
fn every_shell_has_a_script_that_names_every_program() {
    let env = Environment::new(LIMIT);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = env.run("ringctl", &["completions", shell]);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(
            output.status.success() && PROGRAMS.iter().all(|p| text.contains(p)),
            "{shell}: {}",
            said(&output)
        );
        let check = match shell {
            "zsh" | "fish" if Part(shell).needs(shell) => {
                let script = env.path("script");
                std::fs::write(&script, &text).unwrap();
                Command::new(shell).arg("-n").arg(script).output().unwrap()
            }
            _ => continue,
        };
        assert!(check.status.success() && check.stderr.is_empty(), "{shell}: {}", said(&check));
    }
    let wrong = env.run("ringctl", &["completions", "tcsh"]);
    assert!(wrong.status.code() == Some(2) && said(&wrong).contains("bash"), "{}", said(&wrong));
}

/// Every page has its sections, roff accepts it without a warning, and man shows it. Control: a
/// broken page is noticed.
#[test]
fn every_program_has_a_page_that_roff_accepts() {
    let env = Environment::new(LIMIT);
    let dir = env.path("man1");
    let output = env.run("ringctl", &["man", "--dir", dir.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), PROGRAMS.len());
    let lint = |path: &Path| {
        // A page has no date: it belongs to a version of its program.
        let output = Command::new("mandoc")
            .args(["-T", "lint", "-W", "warning"])
            .arg(path)
            .output()
            .expect("mandoc");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &said(&output);
        text.lines().filter(|l| !l.contains("missing date")).collect::<Vec<_>>().join("\n")
    };
    let mandoc = Part("mandoc").needs("mandoc");
    let groff = Part("groff").needs("groff");
    for program in PROGRAMS {
        let path = dir.join(format!("{program}.1"));
        let page = std::fs::read_to_string(&path).unwrap();
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXAMPLES",
            "\"EXIT STATUS\"",
            "FILES",
            "\"SEE ALSO\"",
        ] {
            let (_, behind) = page
                .split_once(&format!(".SH {section}\n"))
                .unwrap_or_else(|| panic!("{program}: {section}"));
            assert!(
                behind.len() > 10 && !behind.starts_with(".SH"),
                "{program}: {section} is empty"
            );
        }
        assert!(page.is_ascii() && !page.contains("\n\n"), "{program}");
        assert_eq!(env.run("ringctl", &["man", program]).stdout, page.as_bytes(), "{program}");
        if mandoc {
            assert_eq!(lint(&path), "", "{program}");
        }
        if groff {
            let output = Command::new("groff")
                .args(["-man", "-ww", "-Tutf8", "-z"])
                .arg(&path)
                .output()
                .unwrap();
            assert!(
                output.status.success() && output.stderr.is_empty(),
                "{program}: {}",
                said(&output)
            );
        }
    }
    let page = std::fs::read_to_string(dir.join("ringctl.1")).unwrap();
    for command in ["ls", "show", "devices", "doctor", "gc", "detach", "completions", "man", "demo"]
    {
        assert!(page.contains(&format!(".SS ringctl {command} ")), "{command}");
    }
    if mandoc {
        let broken = env.path("broken.1");
        std::fs::write(&broken, page + ".SH\n.RE\n.nosuchmacro\n").unwrap();
        assert_ne!(lint(&broken), "");
    }
}

/// The options with which `ringctl` asks programs for pages and completions: wrong uses are refused
/// like any wrong option.
#[test]
fn wrong_requests_for_pages_and_completions_are_refused() {
    let env = Environment::new(LIMIT);
    for program in PROGRAMS {
        for args in [&["--man", "x"][..], &["--completions"], &["--completions", "tcsh"]] {
            let output = env.run(program, args);
            assert_eq!(output.status.code(), Some(2), "{program} {args:?}: {}", said(&output));
        }
    }
    // `ringctl` asks the programs beside it; alone in a directory and on no path it reports what is
    // missing.
    let alone = env.path("ringctl");
    programs::copy("ringctl", &alone);
    let mut command = env.command_at(&alone);
    command.env("PATH", "/nonexistent").args(["man", "ringd"]);
    let output = env.start(command).output();
    assert!(
        output.status.code() == Some(1) && said(&output).contains("ringd was not found beside"),
        "{}",
        said(&output)
    );
}
