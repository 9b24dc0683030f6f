//! `ringd-crash`: `ringd` that kills or stops itself at a numbered place of `proto/DESIGN.md` §7.
//! For tests only.
//!
//! Contract: `RINGWEIR_CRASH` is `POINT:N:kill` or `POINT:N:stop`: the signal comes when POINT is
//! passed for the Nth time, to the very thread that passes it, before its next instruction.
//! `RINGWEIR_ADOPT=half`: it publishes what a broker that died had begun. Without either this is
//! `ringd`.

#![allow(unsafe_code)]

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
    ringweir_broker::program::main()
}

fn raise(signal: i32) {
    // SAFETY: no pointers; a signal to the calling thread.
    unsafe { libc::raise(signal) };
}
