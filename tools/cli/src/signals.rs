//! Which signals end a program, and when a second one does so at once.
//!
//! Contract: the first signal asks the program to end in good order. A second one ends it at once,
//! in case that hangs; but only if it comes [`PATIENCE`] later: `timeout`, a shell and a service
//! manager may each pass on the same request within a moment. A program that was started with a
//! signal ignored (`nohup`) leaves it so.

#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Signals that come sooner than this after the first are the same request.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// Has the default action of each of `signals` taken when it comes [`PATIENCE`] or more after the
/// first of them. What the first does is registered by the caller.
///
/// # Errors
/// If a signal cannot be caught.
pub fn end_at_once_if_repeated(signals: &[i32]) -> io::Result<()> {
    let first = Arc::new(AtomicU64::new(0));
    for &signal in signals {
        let first = first.clone();
        let action = move || {
            let now = monotonic_ns();
            // Relaxed: the only word that handlers share, and no other memory depends on it.
            match first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {}
                Err(at) if u128::from(now.saturating_sub(at)) < PATIENCE.as_nanos() => {}
                // It cannot fail for a signal that was registered.
                Err(_) => {
                    let _ended = signal_hook::low_level::emulate_default_handler(signal);
                }
            }
        };
        // SAFETY: the action reads a clock by a system call, touches one atomic word, and may take
        // the signal's default action; all three are async-signal-safe. It neither allocates nor
        // locks nor panics.
        unsafe { signal_hook::low_level::register(signal, action) }?;
    }
    Ok(())
}

/// Never 0.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64).max(1)
}

/// Whether the program was started with this signal ignored. To be asked before it is caught.
pub fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_in(&status).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn ignored_in(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        assert_eq!(ignored_in("Name:\tx\nSigIgn:\t0000000000001001\n"), Some(0x1001));
        assert_eq!(ignored_in("Name:\tx\n"), None);
        assert!(!is_ignored(signal_hook::consts::SIGUSR1));
    }
}
