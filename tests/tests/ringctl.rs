//! What programs say about themselves: shell completions and manual pages.

use ringweir_harness::{Environment, programs};
use ringweir_needs::{Part, needs};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PROGRAMS: &[&str] = &["ringd", "ringcat", "ringstat", "ringctl", "ringgen", "ringsend"];

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `shell` runs, in an environment where it finds the programs and the run directory.
fn shell(env: &Environment, shell: &str, args: &[&str]) -> String {
    let mut command = env.command_at(Path::new(shell));
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", programs::build().display()));
    command.env("HOME", env.path("")).args(args);
    command.stdout(Stdio::piped());
    let output = env.start(command).output();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{text} {}", said(&output));
    text
}

/// What bash would offer after `words`, the last of which is being typed.
fn offers(env: &Environment, script: &Path, words: &[&str]) -> Vec<String> {
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
    let text = shell(env, "bash", &["--norc", "-c", &line]);
    text.lines().filter(|l| !l.is_empty()).map(String::from).collect()
}

fn completions(env: &Environment, shell: &str) -> PathBuf {
    let all = env.run("ringctl", &["completions", shell]);
    assert!(all.status.success(), "{}", said(&all));
    let script = env.path(&format!("ringweir.{shell}"));
    std::fs::write(&script, &all.stdout).unwrap();
    script
}

/// Through bash's own completion: commands, options, values. Control: a word that cannot follow is
/// not offered, and without the script there is no completion at all.
#[test]
fn bash_completes_commands_options_and_values_of_every_program() {
    let env = Environment::new(LIMIT);
    if !needs("bash") {
        return;
    }
    let script = completions(&env, "bash");
    let check = Command::new("bash").arg("-n").arg(&script).output().unwrap();
    assert!(check.status.success() && check.stderr.is_empty(), "{}", said(&check));
    for (words, offered) in [
        (&["ringctl", "doc"][..], &["doctor"][..]),
        (&["ringctl", "gc", "--d"], &["--dry-run"]),
        (&["ringctl", "man", "ringg"], &["ringgen"]),
        (&["ringctl", "man", "ringd."], &["ringd.toml"]),
        (&["ringd", "ru"], &["run"]),
        (&["ringd", "run", "--wait"], &["--wait-readers"]),
        (&["ringcat", "x", "--format", "len"], &["len32le"]),
        (&["ringstat", "--fail"], &["--fail-on-loss"]),
        (&["ringgen", "--fram"], &["--framing"]),
        (&["ringsend", "x", "--head"], &["--header"]),
        (&["ringctl", "nosuch"], &[]),
    ] {
        assert_eq!(offers(&env, &script, words), offered, "{words:?}");
    }
    let without =
        Command::new("bash").args(["--norc", "-c", "complete -p ringctl"]).output().unwrap();
    assert!(!without.status.success());
    // A script for one program does not mention the others.
    let one = env.run("ringctl", &["completions", "bash", "ringd"]);
    let one = String::from_utf8(one.stdout).unwrap();
    assert!(one.contains("_ringd()") && !one.contains("_ringcat()"));
}

/// Each shell offers the streams that are running, for every program that takes one. Controls: a
/// socket whose broker is gone is not offered, and a broker that has just ended neither.
#[test]
fn shells_complete_the_names_of_running_streams() {
    let env = Environment::new(LIMIT);
    let brokers = ["complete-a", "complete-b"].map(|name| env.broker(name, "gen:rate=10/s", &[]));
    let dead = env.run_dir().join("complete-dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let both = ["complete-a", "complete-b"];
    let commands =
        ["ringcat", "ringstat", "ringsend", "ringctl show", "ringctl detach", "ringctl reload"];
    let part = |shell| Part(shell).needs(shell);
    let [in_bash, in_fish, in_zsh] = ["bash", "fish", "zsh"].map(part);
    if in_bash {
        let script = completions(&env, "bash");
        for command in commands.into_iter().chain(["ringctl doctor"]) {
            let words: Vec<_> = command.split(' ').chain([""]).collect();
            assert_eq!(offers(&env, &script, &words), both, "{command}");
        }
        assert_eq!(
            offers(&env, &script, &["ringstat", "complete-a", "complete-b"]),
            ["complete-b"]
        );
        let socket = format!("{}/complete-d", env.run_dir().display());
        assert_eq!(offers(&env, &script, &["ringcat", &socket]), [dead.to_str().unwrap()]);
    }
    if in_fish {
        let script = completions(&env, "fish");
        for command in commands {
            let line = format!("source {}; complete -C '{command} '", script.display());
            let text = shell(&env, "fish", &["--no-config", "-c", &line]);
            assert_eq!(text.lines().collect::<Vec<_>>(), both, "{command}");
        }
    }
    if in_zsh {
        // Completion works only in an interactive zsh. It finds a file for each program in its
        // search path, as after `make install`, and its first use must work, too.
        let functions = env.path("functions");
        std::fs::create_dir(&functions).unwrap();
        for program in PROGRAMS {
            let one = env.run("ringctl", &["completions", "zsh", program]);
            std::fs::write(functions.join(format!("_{program}")), one.stdout).unwrap();
        }
        let line = format!(
            "zmodload zsh/zpty; zpty z 'TERM=dumb zsh -f -i'; \
             zpty -w z \"fpath=({} \\$fpath); autoload -U compinit; compinit -u -D; PS1=; echo \
             re''ady\"; while zpty -r z out '*ready*'; do break; done; \
             zpty -n -w z $'ringcat complete-b\\t -n 1 -f hex --timeout 30 && echo do\"\"ne\\r'; \
             zpty -n -w z $'ringctl show complete-\\t\\t'; \
             while zpty -r z out; do print -r -- $out; [[ $out == *complete-a* ]] && break; done; \
             zpty -d z",
            functions.display()
        );
        let text = shell(&env, "zsh", &["-f", "-c", &line]);
        assert!(text.contains("done") && text.contains("complete-a"), "{text}");
        assert!(!text.contains("complete-dead"), "{text}");
    }
    let [gone, other] = brokers;
    gone.end();
    if in_bash {
        let script = completions(&env, "bash");
        assert_eq!(offers(&env, &script, &["ringcat", ""]), ["complete-b"]);
    }
    other.end();
    std::fs::remove_file(dead).unwrap();
}

/// What a shell asks is answered, and nothing else: no error in the middle of the command line.
/// Controls: without the variable, and without `--`, a program runs as ever.
#[test]
fn questions_of_shells_are_answered_silently() {
    let env = Environment::new(LIMIT);
    let ask = |shell: Option<&str>, args: &[&str]| {
        let mut command = env.command("ringctl");
        if let Some(shell) = shell {
            command.env("RINGWEIR_COMPLETE", shell);
        }
        command.args(args).stdout(Stdio::piped());
        env.start(command).output()
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        for args in [&["--", "ringctl", "nosuch", "x"][..], &["--", "ringctl", "\u{7f}\n"]] {
            let output = ask(Some(shell), args);
            assert!(output.status.success() && output.stderr.is_empty(), "{shell} {args:?}");
        }
    }
    for (shell, args) in [
        (None, &["--", "ringctl", ""][..]),
        (Some("bash"), &["nosuch"]),
        (Some("bash"), &["--"]),
        (Some("tcsh"), &["--", "ringctl", ""]),
    ] {
        let output = ask(shell, args);
        assert_eq!(output.status.code(), Some(2), "{shell:?} {args:?}: {}", said(&output));
    }
}

#[test]
fn every_shell_has_a_script_that_names_every_program() {
    let env = Environment::new(LIMIT);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = completions(&env, shell);
        let text = std::fs::read_to_string(&script).unwrap();
        assert!(PROGRAMS.iter().all(|p| text.contains(p)), "{shell}");
        let check = match shell {
            "zsh" | "fish" if Part(shell).needs(shell) => {
                Command::new(shell).arg("-n").arg(script).output().unwrap()
            }
            _ => continue,
        };
        assert!(check.status.success() && check.stderr.is_empty(), "{shell}: {}", said(&check));
    }
    let wrong = env.run("ringctl", &["completions", "tcsh"]);
    assert!(wrong.status.code() == Some(2) && said(&wrong).contains("bash"), "{}", said(&wrong));
}

/// The options at the beginning of the lines of a help text, as in `-n, --count <N>`, with the
/// names of their values.
fn options(help: &str) -> Vec<(String, Option<String>)> {
    // What continues in the next line has more in front.
    let lines = help.lines().skip_while(|line| *line != "Options:");
    let lines = lines.take_while(|line| *line != "Examples:");
    let lines = lines.filter(|line| line.len() - line.trim_start().len() <= 6);
    let lines = lines.map(str::trim_start).filter(|line| line.starts_with('-'));
    let long = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|word| !word.starts_with("--"));
        let option = words.next()?.trim_end_matches("...").to_owned();
        let (option, attached) = match option.split_once("[=") {
            Some((option, value)) => (option.to_owned(), Some(value.to_owned())),
            None => (option, None),
        };
        let value = attached.or(words.next().map(String::from));
        let value = value.filter(|value| value.starts_with('<'));
        let value = value.map(|value| value.trim_matches(['<', '>', ']', '.']).to_owned());
        Some((option, value))
    };
    lines.filter_map(long).collect()
}

/// The commands of a help text.
fn commands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    // What continues in the next line has more in front.
    let first = lines.filter_map(|line| line.strip_prefix("  "));
    let names = first.filter(|line| !line.starts_with(' '));
    names.filter_map(|line| line.split(' ').next()).map(String::from).collect()
}

/// A page as plain text.
fn plain(page: &str) -> String {
    ["\\fB", "\\fI", "\\fR"]
        .iter()
        .fold(page.to_owned(), |text, font| text.replace(font, ""))
        .replace("\\-", "-")
        .replace("\\ ", " ")
}

/// Every page has its sections, roff accepts it without a warning, and man shows it. Control: a
/// broken page is noticed.
#[test]
fn every_program_has_a_page_that_roff_accepts() {
    let env = Environment::new(LIMIT);
    let dir = env.path("man");
    let output = env.run("ringctl", &["man", "--dir", dir.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), PROGRAMS.len() + 1);
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
    let program = ["OPTIONS", "\"EXIT STATUS\""];
    let file = ["\"KEYS OF THE FILE\"", "\"KEYS OF A STREAM\"", "SOURCES"];
    let pages = PROGRAMS.iter().map(|name| (*name, 1, &program[..]));
    for (name, section, own) in pages.chain([("ringd.toml", 5, &file[..])]) {
        let path = dir.join(format!("man{section}/{name}.{section}"));
        let page = std::fs::read_to_string(&path).unwrap();
        let all = ["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "FILES", "\"SEE ALSO\""];
        for section in all.iter().chain(own) {
            let (_, behind) = page
                .split_once(&format!(".SH {section}\n"))
                .unwrap_or_else(|| panic!("{name}: {section}"));
            assert!(behind.len() > 10 && !behind.starts_with(".SH"), "{name}: {section} is empty");
        }
        let about = page.split_once(".SH NAME\n").unwrap().1.lines().next().unwrap();
        assert!(about.starts_with(&format!("{name} \\- ")) && about.len() < 100, "{about}");
        assert!(page.is_ascii() && !page.contains("\n\n"), "{name}");
        assert_eq!(env.run("ringctl", &["man", name]).stdout, page.as_bytes(), "{name}");
        if mandoc {
            assert_eq!(lint(&path), "", "{name}");
        }
        if groff {
            let output = Command::new("groff")
                .args(["-man", "-ww", "-Tutf8", "-z"])
                .arg(&path)
                .output()
                .unwrap();
            assert!(
                output.status.success() && output.stderr.is_empty(),
                "{name}: {}",
                said(&output)
            );
        }
    }
    let page = std::fs::read_to_string(dir.join("man1/ringctl.1")).unwrap();
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

/// Every option that `--help` shows, of a program or a command, is among the options of the page,
/// and in its synopsis with the name of its value. Control: an option that does not exist is not.
/// What `ringd run` takes is a key of ringd.toml.
#[test]
fn pages_have_every_option_of_the_help_with_its_value() {
    let env = Environment::new(LIMIT);
    let help = |program: &str, command: &[&str]| {
        let output = env.run(program, &[command, &["--help"]].concat());
        assert!(output.status.success(), "{program}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let man = |page| plain(&String::from_utf8(env.run("ringctl", &["man", page]).stdout).unwrap());
    let mut seen = 0;
    for program in PROGRAMS {
        let page = man(program);
        let synopsis = page.split_once(".SH SYNOPSIS\n").unwrap().1.split(".SH ").next().unwrap();
        let first = help(program, &[]);
        let commands = commands(&first);
        let texts = commands.iter().filter(|c| *c != "help").map(|c| help(program, &[c]));
        for (option, value) in texts.chain([first.clone()]).flat_map(|text| options(&text)) {
            let listed = |text: &str, option: &str| {
                text.split(|c: char| c != '-' && !c.is_alphanumeric()).any(|w| w == option)
            };
            assert!(listed(&page, &option), "{program} {option}");
            assert!(!listed(&page, &format!("{option}-x")), "the control");
            if option != "--help" && option != "--version" {
                let shown = match value {
                    Some(value) => format!("{option} {value}]"),
                    None => format!("{option}]"),
                };
                let required = shown.trim_end_matches(']').to_owned() + "\n";
                let found = synopsis.contains(&shown) || synopsis.contains(&required);
                assert!(found, "{program} {shown}: {synopsis}");
            }
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
    let keys = man("ringd.toml");
    for (option, _) in options(&help("ringd", &["run"])) {
        let elsewhere = ["--help", "--version", "--quiet", "--no-sandbox", "--run-dir"];
        let key = format!("\n.B {} = ", option.trim_start_matches('-'));
        assert!(elsewhere.contains(&option.as_str()) || keys.contains(&key), "{key}");
    }
}

/// The option with which `ringctl` asks programs for pages: wrong uses are refused like any wrong
/// option.
#[test]
fn wrong_requests_for_pages_are_refused() {
    let env = Environment::new(LIMIT);
    for program in PROGRAMS {
        for args in [&["--man", "x"][..], &["--man", "ringd.toml", "x"], &["--man", ""]] {
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
