//! Man pages and shell completions of a program, made from its own command line.
//!
//! Contract: `PROGRAM --man` and `PROGRAM --completions SHELL` write to standard output and end. No
//! help text and no page mentions these two options. `ringctl man` and `ringctl completions` run
//! every program with them, because only the program itself knows its options.

use crate::{LAST_MESSAGES, stderr, stdout};
use clap::{Command, ValueEnum};
pub use clap_complete::Shell;
use clap_mangen::Man;
use std::io::{self, Write};

/// Every program that has a page.
pub const PROGRAMS: &[&str] = &["ringd", "ringcat", "ringstat", "ringctl", "ringgen", "ringsend"];

const FILES: &[(&str, &str)] = &[
    ("$RINGWEIR_DIR", "Run directory: if set, brokers and clients use no other."),
    (
        "$XDG_RUNTIME_DIR/ringweir, /run/user/UID/ringweir, /run/ringweir",
        "Run directories otherwise: a broker uses the first it can write to, clients search all.",
    ),
    (
        "NAME.sock, NAME.lock",
        "In a run directory: the control socket of stream NAME, and the lock its broker holds.",
    ),
    (
        "/dev/shm/ringweir.UID.TAG.NAME",
        "The ring of stream NAME; TAG stands for the run directory.",
    ),
];

/// If the program was started for its page or its completions, writes them and ends the program.
pub fn answer(command: impl FnOnce() -> Command) {
    // Arguments that are not UTF-8 are none of these.
    let args: Vec<String> =
        std::env::args_os().skip(1).take(3).filter_map(|a| a.into_string().ok()).collect();
    let mut out = Vec::new();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--man"] => {
            page(command(), &mut out).expect("writing to a Vec cannot fail");
            out = tidy(&String::from_utf8_lossy(&out)).into_bytes();
        }
        ["--completions", shell] => {
            let Ok(shell) = Shell::from_str(shell, false) else { return };
            let mut command = command();
            let name = command.get_name().to_owned();
            clap_complete::generate(shell, &mut command, name, &mut out);
        }
        _ => return,
    }
    let status = match stdout::put(&String::from_utf8_lossy(&out)) {
        Ok(_) => 0,
        Err(e) => {
            stderr::line(e);
            1
        }
    };
    stderr::flush(LAST_MESSAGES);
    std::process::exit(status);
}

/// The page of a program, with its commands.
fn page(command: Command, out: &mut dyn Write) -> io::Result<()> {
    let name = command.get_name().to_owned();
    let notes = Notes::of(&command);
    let man = Man::new(command.clone().disable_help_subcommand(true)).manual("ringweir");
    // Written here, because clap_mangen omits the quotes around an empty date.
    let version = command.get_version().unwrap_or_default();
    writeln!(out, ".TH {name} 1 \"\" \"ringweir {version}\" ringweir")?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    paragraphs(&notes.rest, out)?;
    man.render_options_section(out)?;
    let mut built = command.disable_help_subcommand(true);
    built.build();
    if built.get_subcommands().next().is_some() {
        writeln!(out, ".SH COMMANDS")?;
    }
    for sub in built.get_subcommands_mut().filter(|s| !s.is_hide_set()) {
        let usage = sub.render_usage().to_string();
        writeln!(out, ".SS {}", escape(usage.trim_start_matches("Usage: ").trim()))?;
        let about =
            sub.get_long_about().or(sub.get_about()).map(ToString::to_string).unwrap_or_default();
        writeln!(out, "{}.", escape(about.trim_end_matches('.')))?;
        let mut options = Vec::new();
        Man::new(sub.clone()).render_options_section(&mut options)?;
        let options = String::from_utf8_lossy(&options).into_owned();
        write!(out, "{}", options.replace(".SH OPTIONS\n", ""))?;
        let notes = Notes::of(sub);
        paragraphs(&notes.rest, out)?;
        examples(&notes.examples, out)?;
        if !notes.exit.is_empty() {
            writeln!(out, ".PP\nExit status: {}", escape(&notes.exit))?;
        }
    }
    if !notes.examples.is_empty() {
        writeln!(out, ".SH EXAMPLES")?;
        verbatim(&notes.examples, out)?;
    }
    writeln!(out, ".SH \"EXIT STATUS\"\n{}", escape(&notes.exit))?;
    writeln!(out, ".SH FILES")?;
    for (path, what) in FILES {
        writeln!(out, ".TP\n.B {}\n{}", escape(path), escape(what))?;
    }
    let others: Vec<_> =
        PROGRAMS.iter().filter(|p| **p != name).map(|p| format!(".BR {p} (1)")).collect();
    writeln!(out, ".SH \"SEE ALSO\"\n{}", others.join(" ,\n"))
}

/// What a help text says after the options, by subject.
#[derive(Default)]
struct Notes {
    examples: Vec<String>,
    exit: String,
    rest: Vec<String>,
}

impl Notes {
    fn of(command: &Command) -> Self {
        let text =
            command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
        let mut notes = Self::default();
        let mut examples = false;
        for line in text.unwrap_or_default().lines() {
            if line.trim().is_empty() {
                examples = false;
                notes.rest.push(String::new());
            } else if line == "Examples:" {
                examples = true;
            } else if examples {
                notes.examples.push(line.strip_prefix("  ").unwrap_or(line).to_owned());
            } else if let Some(status) = line.strip_prefix("Exit status: ") {
                notes.exit = status.to_owned();
            } else if notes.exit.is_empty() {
                notes.rest.push(line.to_owned());
            } else {
                notes.exit = format!("{} {line}", notes.exit);
            }
        }
        notes
    }
}

/// A block of lines whose breaks are kept.
fn examples(lines: &[String], out: &mut dyn Write) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, ".PP")?;
    verbatim(lines, out)
}

fn verbatim(lines: &[String], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, ".nf")?;
    lines.iter().try_for_each(|line| writeln!(out, "{}", escape(line)))?;
    writeln!(out, ".fi")
}

/// Prose. Indented lines keep their breaks.
fn paragraphs(lines: &[String], out: &mut dyn Write) -> io::Result<()> {
    for paragraph in lines.split(String::is_empty).filter(|p| !p.is_empty()) {
        writeln!(out, ".PP")?;
        for line in paragraph {
            if line.starts_with(' ') {
                writeln!(out, ".br")?;
            }
            writeln!(out, "{}", escape(line.trim()))?;
        }
    }
    Ok(())
}

/// Only ASCII, which every roff can read, and a visible gap between paragraphs.
fn tidy(page: &str) -> String {
    let page = page.replace(".br\n\n.br\n", ".sp\n");
    let ascii =
        |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    page.chars().map(ascii).collect()
}

/// `text` with everything escaped that roff would take for a request.
fn escape(text: &str) -> String {
    let plain =
        text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    if plain.starts_with('.') { format!("\\&{plain}") } else { plain }
}
