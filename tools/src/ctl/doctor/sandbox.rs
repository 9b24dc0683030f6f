//! Checks whether the broker of a stream has dropped the rights that it does not need.
//!
//! Contract: what the kernel shows of each thread counts, not what the broker reports. Only
//! landlock is not shown by the kernel: there the broker's start message counts, and the finding
//! says so.

use super::finding::{Found, ok, warn};
use super::stream::Seen;
use crate::machine::Machine;
use std::path::Path;

/// What the status file of a thread in /proc shows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Thread {
    no_new_privileges: bool,
    filtered: bool,
    /// Bits of its effective capabilities.
    capabilities: u64,
}

impl Thread {
    fn parse(status: &str) -> Option<Self> {
        let value = |key: &str| {
            status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
        };
        Some(Self {
            no_new_privileges: value("NoNewPrivs")? == "1",
            filtered: value("Seccomp")? == "2",
            capabilities: u64::from_str_radix(value("CapEff")?, 16).ok()?,
        })
    }

    /// All threads of a process, without those that end meanwhile.
    fn all(process: &Path) -> Vec<Self> {
        let tasks = std::fs::read_dir(process.join("task")).into_iter().flatten().flatten();
        tasks
            .filter_map(|t| Self::parse(&std::fs::read_to_string(t.path().join("status")).ok()?))
            .collect()
    }
}

/// The part of the start message about the sandbox: "confined: …" or "not confined …".
fn word(summary: &str) -> Option<&str> {
    summary
        .split("; ")
        .map(str::trim)
        .find(|part| part.starts_with("confined:") || part.starts_with("not confined"))
}

pub(super) fn sandbox(seen: &Seen, m: &Machine) -> Vec<Found> {
    let pid = seen.broker();
    let threads = Thread::all(Path::new(&format!("/proc/{pid}")));
    if threads.is_empty() {
        let text = format!(
            "the broker (pid {pid}) is not visible here: it belongs to another user or container"
        );
        return vec![warn(text, format!("{}ringctl doctor {}", m.sudo(), seen.name()))];
    }
    vec![judge(&threads, seen.summary(), pid)]
}

fn judge(threads: &[Thread], summary: &str, pid: u64) -> Found {
    let word = word(summary).unwrap_or("");
    let mut open: Vec<String> = Vec::new();
    let count = |of: fn(&Thread) -> bool| threads.iter().filter(|t| !of(t)).count();
    let all = threads.len();
    for (missing, what) in [
        (count(|t| t.no_new_privileges), "may gain privileges"),
        (count(|t| t.filtered), "may make every system call (no seccomp)"),
    ] {
        if missing > 0 {
            open.push(format!("{missing} of its {all} threads {what}"));
        }
    }
    if word.contains("NO landlock") {
        open.push("every file is accessible (no landlock)".into());
    }
    let kept = threads.iter().fold(0, |all, t| all | t.capabilities);
    if word.starts_with("not confined") {
        // The other findings follow from this one.
        let text = format!(
            "the broker (pid {pid}) was started with --no-sandbox and keeps all rights of its user"
        );
        return warn(text, "ringd …   # start it again without --no-sandbox");
    }
    if !open.is_empty() {
        let text = format!("the broker (pid {pid}) is not fully sandboxed: {}", open.join("; "));
        return warn(
            text,
            "uname -r   # needs Linux 5.13 or later, with landlock in lsm= of the kernel command \
            line",
        );
    }
    let kept = if kept == 0 {
        "no capabilities".into()
    } else {
        format!("capabilities {kept:#x}, which its source needs")
    };
    let landlock =
        word.rsplit(", ").find(|part| part.starts_with("landlock")).unwrap_or("landlock unknown");
    ok(format!(
        "all {all} threads of the broker are sandboxed: no new privileges, seccomp, {kept}; \
        {landlock} according to the broker"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    const SANDBOXED: &str =
        "Name:\tringd\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";

    #[test]
    fn one_thread_outside_the_sandbox_is_found() {
        let good = Thread::parse(SANDBOXED).unwrap();
        let summary = "x gen 1, prefault ok; confined: no capabilities, seccomp, landlock 7; 10 \
            dg/s; /run/x.sock";
        let (state, text, _) = judge(&[good.clone(), good.clone()], summary, 1);
        assert!(
            state == State::Ok
                && text.contains("all 2 threads")
                && text.contains("landlock 7 according"),
            "{text}"
        );
        for (bad, says) in [
            (SANDBOXED.replace("Privs:\t1", "Privs:\t0"), "may gain privileges"),
            (SANDBOXED.replace("Seccomp:\t2", "Seccomp:\t0"), "no seccomp"),
        ] {
            let (state, text, fix) =
                judge(&[good.clone(), Thread::parse(&bad).unwrap()], summary, 1);
            assert!(
                state == State::Warn && text.contains("1 of its 2 threads") && text.contains(says),
                "{text}"
            );
            assert!(fix.is_some());
        }
        let (state, text, _) =
            judge(std::slice::from_ref(&good), &summary.replace("landlock 7", "NO landlock"), 1);
        assert!(state == State::Warn && text.contains("no landlock"), "{text}");
        let needs = Thread { capabilities: 1 << 13, ..good.clone() };
        assert!(judge(&[good, needs], summary, 1).1.contains("0x2000"));
        assert_eq!(Thread::parse("Name:\tringd\n"), None);
    }
}
