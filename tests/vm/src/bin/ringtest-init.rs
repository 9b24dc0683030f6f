//! The first process of a test guest, and, as `init scenario NAME ARGUMENT`, the process that runs
//! one scenario in it. Everything it does is in [`ringweir_vm::guest`].

use ringweir_vm::guest;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["scenario", name, argument] => guest::perform(name, argument),
        _ if std::process::id() == 1 => guest::init::main(),
        _ => {
            eprintln!(
                "ringtest-init: it is the first process of the guests that tests/tests/vm boots"
            );
            ExitCode::from(2)
        }
    }
}
