//! Man pages of a program, made from its own command line.
//!
//! Contract: `PROGRAM --man` writes its page to standard output and ends; `PROGRAM --man PAGE`
//! writes another page that it has. No help text and no page mentions this option. `ringctl man`
//! runs every program with it, because only the program itself knows its options.

pub mod roff;
mod synopsis;

use crate::{LAST_MESSAGES, completion, stderr, stdout};
use clap::Command;
use clap_mangen::Man;
use roff::{escape, examples, paragraphs, tidy, verbatim};
use std::io::{self, Write};

/// Every program. Each has a page in section 1.
pub const PROGRAMS: &[&str] = &["ringd", "ringcat", "ringstat", "ringctl", "ringgen", "ringsend"];

/// Every other page: its name, its section, and the program that writes it.
pub const OTHER_PAGES: &[(&str, u8, &str)] = &[("ringd.toml", 5, "ringd")];

/// A page beside that of the program: its name, and what writes it.
pub type OtherPage = (&'static str, fn(&mut dyn Write) -> io::Result<()>);

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

/// If the program was started for one of its pages or by a shell that completes its command line,
/// writes what was asked for and ends the program.
pub fn answer(command: impl Fn() -> Command, others: &[OtherPage]) {
    completion::answer(&command);
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|arg| arg != "--man") {
        return;
    }
    let mut out = Vec::new();
    let written = match (args.next(), args.next()) {
        (None, _) => page(command(), &mut out),
        (Some(name), None) => match others.iter().find(|(other, _)| name == *other) {
            Some((_, write)) => write(&mut out),
            None => return,
        },
        _ => return,
    };
    written.expect("writing to a Vec cannot fail");
    let out = tidy(&String::from_utf8_lossy(&out));
    let status = match stdout::put(&out) {
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
    // The first sentence: it is also what `whatis` shows.
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let first = about.split(". ").next().unwrap_or_default().trim_end_matches('.');
    writeln!(out, ".SH NAME\n{name} \\- {}", escape(first))?;
    let mut built = command.disable_help_subcommand(true);
    built.build();
    write!(out, ".SH SYNOPSIS\n{}", synopsis::synopsis(&built))?;
    man.render_description_section(out)?;
    paragraphs(&notes.rest, out)?;
    man.render_options_section(out)?;
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
    see_also(&name, out)
}

/// The last section of the page `name`.
///
/// # Errors
/// Those of `out`.
pub fn see_also(name: &str, out: &mut dyn Write) -> io::Result<()> {
    let programs = PROGRAMS.iter().map(|p| (*p, 1));
    let all = programs.chain(OTHER_PAGES.iter().map(|(page, section, _)| (*page, *section)));
    let others: Vec<_> = all
        .filter(|(p, _)| *p != name)
        .map(|(p, section)| format!(".BR {p} ({section})"))
        .collect();
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
