//! The command line of a program.
//!
//! Contract: usage errors and help are printed like every other message and result, so they neither
//! wait nor fail if nobody reads them. The exit status is that of clap: 0 for help, 2 for a usage
//! error.

use crate::{LAST_MESSAGES, stderr, stdout};
use clap::{Command, Error, FromArgMatches, Parser};
use std::io::{self, IsTerminal};

/// The arguments of this process. Ends the process after help, a version or a usage error.
pub fn parse<T: Parser>() -> T {
    parse_as(T::command())
}

/// The same with a command line that differs from `T::command()` in its texts.
pub fn parse_as<T: FromArgMatches>(mut command: Command) -> T {
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    let parsed = matches.and_then(|m| T::from_arg_matches(&m).map_err(|e| e.format(&mut command)));
    parsed.unwrap_or_else(|e| exit(&e))
}

/// Prints a usage error or help, and ends the process.
pub fn exit(error: &Error) -> ! {
    let text = error.render();
    if error.use_stderr() {
        let colored = io::stderr().is_terminal();
        stderr::raw(&if colored { text.ansi().to_string() } else { text.to_string() });
    } else {
        let colored = io::stdout().is_terminal();
        let text = if colored { text.ansi().to_string() } else { text.to_string() };
        if let Err(e) = stdout::put(&text) {
            stderr::line(e);
        }
    }
    stderr::flush(LAST_MESSAGES);
    std::process::exit(error.exit_code())
}
