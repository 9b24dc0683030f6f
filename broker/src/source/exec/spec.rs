//! The argument of `exec:`: framing, options, command line.
//!
//! Contract: words are split as a shell splits them, with quotes and backslashes; nothing is
//! expanded, and no shell runs. A program without a slash in its name is looked for in `$PATH`,
//! once. The program gets the environment of the broker without what the service manager put there
//! for the broker itself.

use super::spawner::Program;
use crate::source::contract::SourceError;
use crate::source::framing::Framing;
use crate::source::options::{framing_and_rest, span};
use rustix::fs::{Access, AtFlags, CWD};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Variables that are meant for one process only.
const OWN: [&str; 14] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "CREDENTIALS_DIRECTORY",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "FDSTORE",
];
/// The longest `kill-after`: for so long a stop of the broker may take.
const LONGEST_END: Duration = Duration::from_secs(30);

/// When to start a program that has ended again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// Not at all: the stream ends with it.
    Never,
    /// Whenever it has ended.
    Always,
    /// If it has failed: ended by a signal or with another status than 0, or its output cannot be
    /// read on.
    Failure,
}

/// The argument of the source.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) framing: Framing,
    pub(super) restart: Restart,
    /// The first pause before a restart; it doubles up to the longest.
    pub(super) first_pause: Duration,
    pub(super) longest_pause: Duration,
    pub(super) command: Command,
}

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    words: Vec<String>,
    kill_after: Duration,
}

/// Splits `FRAMING[,OPTION…]:COMMAND`.
pub(super) fn parse(argument: &str) -> Result<Spec, SourceError> {
    let (framing, options, line) = framing_and_rest(argument)?;
    let (mut restart, mut kill_after) = (Restart::Never, Duration::from_secs(2));
    let (mut first_pause, mut longest_pause) = (None, None);
    for option in options {
        match option.split_once('=').unwrap_or((option, "")) {
            ("restart", "never") => restart = Restart::Never,
            ("restart", "always") => restart = Restart::Always,
            ("restart", "failure") => restart = Restart::Failure,
            ("restart", _) => {
                return Err(SourceError(format!(
                    "{option:?}: there are restart=never, restart=always and restart=failure"
                )));
            }
            ("min-backoff", time) => first_pause = Some(span(option, time)?),
            ("max-backoff", time) => longest_pause = Some(span(option, time)?),
            ("kill-after", time) => kill_after = span(option, time)?,
            _ => {
                return Err(SourceError(format!(
                    "unknown option {option:?}; there are restart=, min-backoff=, max-backoff= \
                    and kill-after="
                )));
            }
        }
    }
    if restart == Restart::Never && (first_pause.is_some() || longest_pause.is_some()) {
        return Err(SourceError::new(
            "min-backoff= and max-backoff= are for restart=always and restart=failure: without \
            them the program is not started again",
        ));
    }
    let first_pause = first_pause.unwrap_or(Duration::from_millis(500));
    let longest_pause = longest_pause.unwrap_or(first_pause.max(Duration::from_secs(30)));
    if first_pause.is_zero() || longest_pause < first_pause {
        return Err(SourceError::new(
            "min-backoff= is more than 0 and not longer than max-backoff=",
        ));
    }
    if kill_after > LONGEST_END {
        return Err(SourceError(format!(
            "kill-after= is at most {} s: for so long the end of the stream can take",
            LONGEST_END.as_secs()
        )));
    }
    let words = shlex::split(line).ok_or_else(|| {
        SourceError(format!("a quote or a backslash at the end is not closed in {line:?}"))
    })?;
    if words.first().is_none_or(String::is_empty) {
        return Err(SourceError(format!("no program behind {framing}")));
    }
    let command = Command { words, kill_after };
    Ok(Spec { framing, restart, first_pause, longest_pause, command })
}

impl Command {
    /// What the program is called in messages.
    pub(super) fn name(&self) -> &str {
        &self.words[0]
    }

    /// The program that this names.
    pub(super) fn program(&self) -> Result<Program, SourceError> {
        let name = self.name();
        let path = if name.contains('/') { Some(name.into()) } else { find(name) };
        let path = path.ok_or_else(|| {
            SourceError(format!(
                "{name}: there is no such program in $PATH; for one elsewhere give its path, such \
                as ./{name}"
            ))
        })?;
        let words = self.words.iter().map(|word| c_string(word.as_bytes()));
        let environment = std::env::vars_os()
            .filter(|(key, _)| !OWN.iter().any(|own| key == own))
            .map(|(key, value)| c_string(&[key.as_bytes(), b"=", value.as_bytes()].concat()));
        Ok(Program::new(
            c_string(path.as_bytes())?,
            words.collect::<Result<_, _>>()?,
            environment.collect::<Result<_, _>>()?,
            self.kill_after,
        ))
    }
}

/// The first executable file of this name in `$PATH`.
fn find(name: &str) -> Option<std::ffi::OsString> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| {
            file.is_file()
                && rustix::fs::accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
        })
        .map(Into::into)
}

fn c_string(bytes: &[u8]) -> Result<CString, SourceError> {
    CString::new(bytes).map_err(|_| SourceError::new("there is a null byte in the command"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(argument: &str) -> String {
        parse(argument).unwrap_err().to_string()
    }

    #[test]
    fn arguments_come_apart() {
        let spec = parse("len32le:./vendor-tool --arg").unwrap();
        assert_eq!((spec.framing, spec.restart), (Framing::Len32Le, Restart::Never));
        assert_eq!(spec.command.words, ["./vendor-tool", "--arg"]);
        let spec = parse(
            "fixed:188,restart=always,min-backoff=1s,max-backoff=1min,kill-after=5s:/opt/a 'b c' \
            \"d\\\"e\" f\\ g ''",
        )
        .unwrap();
        assert_eq!((spec.framing, spec.restart), (Framing::Fixed(188), Restart::Always));
        assert_eq!((spec.first_pause.as_secs(), spec.longest_pause.as_secs()), (1, 60));
        assert_eq!(spec.command.kill_after.as_secs(), 5);
        assert_eq!(spec.command.words, ["/opt/a", "b c", "d\"e", "f g", ""]);
        // Nothing is expanded.
        let spec = parse("lines:tool $HOME * ~ a|b ;").unwrap();
        assert_eq!(spec.command.words, ["tool", "$HOME", "*", "~", "a|b", ";"]);
    }

    #[test]
    fn wrong_arguments_are_refused_by_name() {
        assert!(refused("").contains("unknown framing \"\""));
        assert!(refused("./tool").contains("unknown framing \"./tool\""));
        assert!(refused("lines").contains("nothing behind \"lines\""));
        assert!(refused("lines:").contains("nothing behind \"lines\""));
        assert!(refused("lines: ").contains("no program behind lines"));
        assert!(refused("lines:''").contains("no program behind lines"));
        assert!(refused("lines:tool 'a").contains("not closed in \"tool 'a\""));
        assert!(refused("lines,restart:tool").contains("there are restart=never"));
        assert!(refused("lines,restart=sometimes:tool").contains("\"restart=sometimes\""));
        assert!(refused("lines,again:tool").contains("unknown option \"again\"; there are"));
        assert!(refused("lines,restart=always,min-backoff=x:tool").contains("min-backoff=x"));
        assert!(refused("lines,min-backoff=1s:tool").contains("are for restart=always"));
        assert!(refused("lines,restart=always,min-backoff=0s:tool").contains("more than 0"));
        let shorter = "lines,restart=always,min-backoff=2s,max-backoff=1s:tool";
        assert!(refused(shorter).contains("not longer than max-backoff="));
        assert!(refused("lines,kill-after=2min:tool").contains("at most 30 s"));
        let missing = parse("lines:no-such-program-anywhere").unwrap().command.program();
        let missing = missing.err().unwrap().to_string();
        assert!(missing.contains("no-such-program-anywhere: there is no such program in $PATH"));
    }
}
