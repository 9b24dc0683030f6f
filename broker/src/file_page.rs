//! The man page ringd.toml(5).
//!
//! Contract: every key of a stream is there, with the text of `ringd run --help` and the form that
//! its value has in the file: page and parser are made of the same [`StreamConfig`].

use crate::setup::config::StreamConfig;
use crate::source::kinds::SOURCES;
use clap::{Arg, ArgAction, Args, Command};
use ringweir_cli::manual::roff::{escape, verbatim};
use ringweir_cli::manual::see_also;
use std::io::{self, Write};

const VERSION: &str = env!("CARGO_PKG_VERSION");

const ABOUT: &str = "A TOML file with the streams that one ringd serves: a table [[stream]] for \
    each, with the options of `ringd run` as keys. An unknown key or a wrong value is refused, \
    with its name and line. `ringd --check FILE` says what is wrong without serving anything.\n\
    After SIGHUP or `ringctl reload` the file is read again: new streams begin, streams that are \
    no longer there end, and the others continue undisturbed. A stream whose keys have changed \
    continues as it was until ringd is started again.";

const FILE_KEYS: &[(&str, &str)] = &[
    ("run-dir = TEXT", "Directory of the control sockets; --run-dir overrides it."),
    (
        "later = [TEXT, ...]",
        "What streams that a reload adds may need and the others do not: kinds of source, such as \
        \"udp\", and directories of their files. Without it the sandbox may refuse such a stream.",
    ),
    ("[[stream]]", "Begins a stream. There is at least one, and each has a name of its own."),
];

const EXAMPLE: [&str; 14] = [
    "[[stream]]",
    "name = \"daq0\"",
    "source = \"shim:/dev/ringshim0\"",
    "depth = \"3s\"",
    "rate = \"350MB/s\"",
    "group = \"daq\"",
    "meta = [\"channels=8\", \"site=hall-2\"]",
    "",
    "[[stream]]",
    "name = \"feed\"",
    "source = \"udp:239.1.2.3:26400@eth0\"",
    "capacity = \"64MiB\"",
    "lossless = \"250ms\"",
    "watch-uid = [\"root\", 1004]",
];

/// Writes the page.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, ".TH ringd.toml 5 \"\" \"ringweir {VERSION}\" ringweir")?;
    writeln!(out, ".SH NAME\nringd.toml \\- the streams that ringd serves")?;
    writeln!(out, ".SH SYNOPSIS\n.B ringd \\-\\-config\n.I FILE")?;
    writeln!(out, ".br\n.B ringd \\-\\-check\n.I FILE\n.SH DESCRIPTION")?;
    let paragraphs: Vec<_> = ABOUT.lines().map(escape).collect();
    writeln!(out, "{}", paragraphs.join("\n.PP\n"))?;
    writeln!(out, ".SH \"KEYS OF THE FILE\"")?;
    for (key, what) in FILE_KEYS {
        writeln!(out, ".TP\n.B {}\n{}", escape(key), escape(what))?;
    }
    writeln!(out, ".SH \"KEYS OF A STREAM\"")?;
    writeln!(out, "Sizes, rates and times are text with a unit, or numbers of bytes.")?;
    let mut command = StreamConfig::augment_args(Command::new("stream"));
    command.build();
    for arg in command.get_arguments() {
        let Some(key) = arg.get_long().filter(|key| *key != "help") else { continue };
        let needed = if arg.is_required_set() { " (required)" } else { "" };
        writeln!(out, ".TP\n.B {} = {}{needed}", escape(key), escape(&form(arg)))?;
        let what = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let default = arg.get_default_values().first().filter(|_| !is_flag(arg));
        let default =
            default.map(|v| format!(" [default: {}]", v.to_string_lossy())).unwrap_or_default();
        let what = what.replace(", repeatable", "").replace(" (repeatable)", "");
        writeln!(out, "{}{}.", escape(&what), escape(&default))?;
    }
    // Not adjusted: a long syntax has no blanks to widen.
    writeln!(out, ".SH SOURCES\n.na\nWhat stands in")?;
    writeln!(out, ".B source\nis one of these; `ringd sources` prints them.")?;
    for kind in SOURCES {
        // A long syntax may break before each option and each alternative.
        let usage = escape(kind.usage).replace("[,", "\\:[,").replace('|', "|\\:");
        writeln!(out, ".TP\n.B {usage}\n{}.", escape(kind.about))?;
    }
    writeln!(out, ".ad\n.SH EXAMPLES")?;
    verbatim(&EXAMPLE.map(String::from), out)?;
    writeln!(out, ".SH FILES\n.TP\n.B /etc/ringweir/NAME.toml")?;
    writeln!(out, "What the service `ringd@NAME` serves.")?;
    see_also("ringd.toml", out)
}

fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The form of a value in the file.
fn form(arg: &Arg) -> String {
    let number = ["readers-max", "readers-per-user", "wait-readers", "cpu"];
    let names = ["allow-uid", "allow-gid", "watch-uid", "watch-gid", "admin-uid", "admin-gid"];
    match arg.get_long().unwrap_or_default() {
        _ if is_flag(arg) => "true|false".into(),
        key if number.contains(&key) => "NUMBER".into(),
        key if names.contains(&key) => "[NAME or NUMBER, ...]".into(),
        "meta" => "[\"KEY=VALUE\", ...]".into(),
        _ => {
            let name = arg.get_value_names().and_then(|names| names.first());
            name.map_or_else(|| "TEXT".into(), |name| format!("\"{name}\""))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::config_file::FileConfig;

    fn parse(text: &str) -> anyhow::Result<FileConfig> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ringd.toml");
        std::fs::write(&file, text).unwrap();
        FileConfig::read(&file)
    }

    /// A value of the form that the page shows is accepted. Control: one of another form is not.
    #[test]
    fn the_file_takes_what_the_page_says() {
        let mut command = StreamConfig::augment_args(Command::new("stream"));
        command.build();
        let mut keys = 0;
        for arg in command.get_arguments() {
            let Some(key) = arg.get_long().filter(|key| *key != "help") else { continue };
            let value = match form(arg).as_str() {
                "true|false" => "true",
                "NUMBER" => "1",
                "[NAME or NUMBER, ...]" => "['root', 1004]",
                "[\"KEY=VALUE\", ...]" => "['channels=8']",
                "\"RATE\"" => "'1MB/s'",
                "\"KIND\"" => "'memfd'",
                "\"[BYTES,]TIME\"" => "'64MiB,2s'",
                "\"TIME\"" => "'2s'",
                _ => "'4096'",
            };
            let needed = [("name", "'a'"), ("source", "'gen:'")];
            let others = needed.iter().filter(|(name, _)| *name != key);
            let others: String = others.map(|(k, v)| format!("{k} = {v}\n")).collect();
            let stream = |value: &str| parse(&format!("[[stream]]\n{others}{key} = {value}\n"));
            stream(value).unwrap_or_else(|e| panic!("{key}: {e}"));
            assert!(stream("{ a = 1 }").is_err(), "{key}: the control");
            keys += 1;
        }
        assert!(keys >= 20, "{keys}");
    }

    #[test]
    fn the_example_of_the_page_is_a_file() {
        assert_eq!(parse(&EXAMPLE.join("\n")).unwrap().streams.len(), 2);
    }
}
