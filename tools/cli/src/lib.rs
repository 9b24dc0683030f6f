//! What the command lines of `ringd` and of the tools share.
//!
//! Contract: [`arguments`] parses a command line, [`quantity`] parses and prints sizes, rates and
//! times; [`manual`] makes man pages and [`completion`] answers shells from a command line; [`log`]
//! and [`stderr`] write lines that never make a program wait or fail, [`stdout`] writes results,
//! [`printable`] makes foreign text safe to show, and [`run`] is what every `main` is made of.
//! Nothing here knows the ring.

// Both fail if nobody can be written to; see `ringweir_cli::stderr` and `stdout`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod arguments;
pub mod completion;
pub mod log;
pub mod manual;
pub mod quantity;
pub mod signals;
pub mod stderr;
pub mod stdout;

pub use ringweir_proto::printable;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How long a program waits at its end for somebody to read its last messages.
const LAST_MESSAGES: Duration = Duration::from_secs(1);

/// Runs a program, which calls [`stderr::start`] itself, and writes out its last messages. A file
/// that would become larger than allowed (`ulimit -f`) is an error of the write and no deadly
/// signal.
pub fn run(main: impl FnOnce() -> ExitCode) -> ExitCode {
    // A handler that does nothing, other than ignoring the signal, is not inherited by programs
    // that this one starts.
    let unused = Arc::new(AtomicBool::new(false));
    if let Err(e) = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, unused) {
        stderr::line(format_args!("cannot catch SIGXFSZ: {e}"));
    }
    let status = main();
    stderr::flush(LAST_MESSAGES);
    status
}
