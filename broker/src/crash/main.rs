//! `ringd-crash`: a `ringd` that kills or stops itself at a numbered point of `proto/DESIGN.md` §7.
//! For tests only.
//!
//! Contract: `RINGWEIR_CRASH` is `POINT:N:kill` or `POINT:N:stop`. The thread that passes POINT for
//! the Nth time sends the signal to itself, before its next instruction. With `RINGWEIR_ADOPT=half`
//! the broker publishes what a dead broker had begun. Without these variables it is `ringd`; with
//! the argument `publish` it is a program that publishes by itself.

#![allow(unsafe_code)]

mod publish;

use ringweir_proto::ring::crash::{Point, adopt_half, arm};

fn main() -> std::process::ExitCode {
    if let Ok(text) = std::env::var("RINGWEIR_CRASH") {
        let mut words = text.split(':');
        let mut word = || words.next().unwrap_or_default();
        let (point, nth, how) = (word().parse::<Point>(), word().parse(), word());
        let (Ok(point), Ok(nth)) = (point, nth) else {
            panic!("RINGWEIR_CRASH={text:?}: POINT:N:kill or POINT:N:stop")
        };
        arm(
            point,
            nth,
            if how == "stop" { || raise(libc::SIGSTOP) } else { || raise(libc::SIGKILL) },
        );
    }
    if std::env::var_os("RINGWEIR_ADOPT").is_some_and(|how| how == "half") {
        adopt_half();
    }
    if std::env::args().nth(1).is_some_and(|first| first == "publish") {
        return publish::main();
    }
    ringweir_cli::run(ringweir_broker::program::main)
}

fn raise(signal: i32) {
    // SAFETY: `raise` takes a number, follows no pointer, and signals the calling thread.
    unsafe { libc::raise(signal) };
}
