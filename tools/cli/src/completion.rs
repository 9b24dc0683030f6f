//! Completions: the shell asks the program, which knows its options and what runs at the moment.
//!
//! Contract: [`registration`] is what a shell sources once. It makes the shell run `PROGRAM -- WORD
//! …` with `RINGWEIR_COMPLETE` in the environment, and [`answer`] writes what can follow and ends
//! the program. Without that variable, or without `--` in front, a program is an ordinary one.

use crate::{LAST_MESSAGES, stderr, stdout};
use clap::Command;
pub use clap_complete::Shell;
use clap_complete::engine::ValueCompleter;
pub use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter};
use clap_complete::env::{EnvCompleter, Shells};
use std::ffi::{OsStr, OsString};

/// Names the shell in the environment of a program that is asked for completions.
const VARIABLE: &str = "RINGWEIR_COMPLETE";

const SHELLS: Shells<'static> = Shells::builtins();

fn completer(shell: &str) -> Option<&'static dyn EnvCompleter> {
    SHELLS.0.iter().copied().find(|completer| completer.is(shell))
}

/// What `shell` sources to complete `program`, or has in the file where it looks for that.
pub fn registration(shell: Shell, program: &str) -> String {
    let shell = shell.to_string();
    let mut script = Vec::new();
    completer(&shell)
        .and_then(|c| c.write_registration(VARIABLE, program, program, program, &mut script).ok())
        .expect("there is a script for every shell, and writing to a Vec cannot fail");
    let mut script = String::from_utf8_lossy(&script).trim_start().to_owned();
    if shell == "zsh" {
        // A file in zsh's search path is run for the first time when something is to be completed.
        script += &format!(
            "if [[ $funcstack[1] == _{program} ]]; then\n    _clap_dynamic_completer_{program} \
             \"$@\"\nfi\n"
        );
    }
    script
}

/// If the program was started by a shell that completes its command line, writes what can follow
/// and ends the program.
pub fn answer(command: impl FnOnce() -> Command) {
    let Some(shell) = std::env::var_os(VARIABLE) else { return };
    let mut args = std::env::args_os().skip(1);
    if args.next().as_deref() != Some(OsStr::new("--")) {
        return;
    }
    let words: Vec<OsString> = args.collect();
    let Some(completer) = shell.to_str().and_then(completer).filter(|_| !words.is_empty()) else {
        return;
    };
    let mut command = command();
    if words.last().is_some_and(|word| word.is_empty()) {
        command = names_first(command);
    }
    let mut out = Vec::new();
    // Where nothing can follow that is an error, and shells show errors in the middle of the line.
    let _nothing_follows = completer.write_complete(
        &mut command,
        words,
        std::env::current_dir().ok().as_deref(),
        &mut out,
    );
    let _gone = stdout::put(&String::from_utf8_lossy(&out));
    stderr::flush(LAST_MESSAGES);
    std::process::exit(0);
}

/// Options are offered where a name, a command or a value could stand only if there is none of
/// these: what is hidden is offered if there is nothing else.
fn names_first(command: Command) -> Command {
    command
        .mut_args(|arg| if arg.is_positional() { arg } else { arg.hide(true) })
        .disable_help_flag(true)
        .disable_version_flag(true)
        .mut_subcommands(names_first)
}

/// Completes one of `names`, or the path of something: what has a slash is a path.
pub fn name_or_path(names: impl Fn() -> Vec<String> + Send + Sync + 'static) -> ArgValueCompleter {
    ArgValueCompleter::new(move |typed: &OsStr| {
        let typed_bytes = typed.as_encoded_bytes();
        if typed_bytes.contains(&b'/') {
            return PathCompleter::any().complete(typed);
        }
        let mut names = names();
        names.retain(|name| name.as_bytes().starts_with(typed_bytes));
        names.into_iter().map(CompletionCandidate::new).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_and_paths_have_a_slash() {
        let offers = |typed: &str| -> Vec<_> {
            let names = || ["daq0", "daq1", "tap0"].map(String::from).to_vec();
            let found = name_or_path(names).complete(OsStr::new(typed));
            found.iter().map(|c| c.get_value().to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(offers(""), ["daq0", "daq1", "tap0"]);
        assert_eq!(offers("da"), ["daq0", "daq1"]);
        assert!(offers("no").is_empty());
        assert!(offers("/de").contains(&"/dev/".into()), "{:?}", offers("/de"));
    }
}
