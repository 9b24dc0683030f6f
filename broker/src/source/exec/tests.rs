use super::super::test_bench::{Bench, Got, bytes_of};
use super::*;
use ringweir_proto::os::{clock, event};
use ringweir_proto::stats::PumpCounter;
use rustix::event::{PollFd, PollFlags, poll};
use std::time::Instant;

const MAX: usize = 64;

fn start(argument: &str) -> Box<dyn Source> {
    open(argument, &OpenFor { max_datagram: MAX }).unwrap()
}

/// One sleep as the pump makes it.
fn sleep(source: &dyn Source) {
    let wait = source.wait_for();
    let mut fds: Vec<_> = (wait.readable.into_iter().chain(source.watch()))
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let until = |at: u64| Duration::from_nanos(at.saturating_sub(clock::monotonic_ns()));
    let limit = event::timespec(wait.until.map_or(Duration::from_secs(30), until));
    let _woken = poll(&mut fds, Some(&limit));
}

/// Runs rounds as the pump does until `done`, or the end of the stream.
fn run_until(
    bench: &mut Bench,
    source: &mut dyn Source,
    done: impl Fn(&[Got]) -> bool,
) -> Vec<Got> {
    let (limit, mut all) = (Instant::now() + Duration::from_secs(60), Vec::new());
    while !done(&all) {
        assert!(Instant::now() < limit, "{all:?}");
        bench.now = clock::monotonic_ns();
        let (got, fill) = bench.run(source);
        all.extend(got);
        match fill {
            Fill::Ended => break,
            Fill::Idle if done(&all) => break,
            Fill::Idle => sleep(source),
            Fill::Took => {}
        }
    }
    all
}

fn bench() -> Bench {
    let mut bench = Bench::new(1 << 16, MAX as u64);
    bench.may_fail = true;
    bench
}

/// All of it, and why it ended.
fn run(argument: &str) -> (Vec<Got>, Bench) {
    let (mut bench, mut source) = (bench(), start(argument));
    let got = run_until(&mut bench, &mut *source, |_| false);
    (got, bench)
}

#[test]
fn output_is_read_to_its_end_and_the_status_decides() {
    for (argument, failure) in [
        ("lines:sh -c 'echo one; echo two'", None),
        ("lines:sh -c 'echo one; echo two; exit 3'", Some("sh: it exited with status 3")),
        (
            "lines:sh -c 'echo one; echo two; kill -KILL $$'",
            Some("sh: it was killed by signal: 9 (SIGKILL)"),
        ),
        // Only a failure starts it again.
        ("lines,restart=failure:sh -c 'echo one; echo two'", None),
    ] {
        let (got, bench) = run(argument);
        assert_eq!(bytes_of(&got), [b"one", b"two"], "{argument}");
        assert_eq!(bench.failure.as_deref(), failure, "{argument}");
        assert_eq!(bench.count(PumpCounter::SourceGone), 0);
    }
}

#[test]
fn a_program_that_cannot_be_started_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "echo no").unwrap();
    let refused =
        |argument: &str| open(argument, &OpenFor { max_datagram: MAX }).err().unwrap().to_string();
    let said = refused(&format!("lines:{}", plain.display()));
    assert!(said.contains("Permission denied") && said.contains("chmod +x"), "{said}");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o755)).unwrap();
    let said = refused(&format!("lines:{}", plain.display()));
    assert!(said.contains("a script begins with #!"), "{said}");
    let said = refused("lines:./missing");
    assert_eq!(said, "./missing: it cannot be started: No such file or directory (os error 2)");
    assert!(refused("lines:/").contains("Permission denied"));
}

/// A cut datagram of one run is a loss, and not joined to the bytes of the next. Control: the end
/// between two datagrams loses nothing.
#[test]
fn runs_are_not_mixed() {
    for (output, lost) in [(r"\001\0\0\0x\005\0\0\0cut", 1), (r"\001\0\0\0x", 0)] {
        let argument = format!("len32le,restart=always,min-backoff=1ms:printf '{output}'");
        let (mut bench, mut source) = (bench(), start(&argument));
        let got = run_until(&mut bench, &mut *source, |got| got.len() == 3);
        assert!(got.iter().all(|got| got.bytes == b"x"), "{got:?}");
        assert_eq!(bench.gone, [1, 2]);
        let before = got[1].lost_before.iter().map(|lost| lost.1).sum::<u64>();
        assert_eq!(before, lost, "{got:?}");
        assert!(bench.count(PumpCounter::BrokerLost) >= 2 * lost);
        let notices = bench.notices();
        let ends = if lost > 0 { "2 bytes before the end of a" } else { "exited with status 0" };
        assert!(notices[0].contains(ends), "{notices:?}");
        assert!(notices[0].ends_with("it is started again in 1 ms"), "{notices:?}");
        assert_eq!(notices[1], "printf is back");
        assert!(notices[2].ends_with("in 2 ms"), "{notices:?}");
    }
}

/// Output that cannot be read on ends the run, though the program lives. Control: its next run is
/// read from its beginning.
#[test]
fn garbage_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let script = format!(
        "if [ -e {0} ]; then printf \"\\001\\0\\0\\0x\"; else : > {0}; \
        printf \"\\377\\377\\377\\377\"; \
        fi; sleep 100",
        mark.display()
    );
    let (mut bench, mut source) =
        (bench(), start(&format!("len32le,restart=failure,min-backoff=1ms:sh -c '{script}'")));
    let got = run_until(&mut bench, &mut *source, |got| got.len() == 1);
    assert_eq!(bytes_of(&got), [b"x"]);
    assert_eq!((bench.gone.as_slice(), bench.count(PumpCounter::BrokerLost)), (&[0][..], 1));
    let notices = bench.notices();
    assert!(notices[0].contains("length field says 4294967295"), "{notices:?}");
}

/// Neither a child that outlives the program nor a program that closes its output and continues
/// keeps the stream. Control: nothing is lost of what was written.
#[test]
fn an_output_that_stays_open_or_closes_early_ends_the_run() {
    for script in ["setsid sleep 30 & echo one", "sleep 1000 & echo one"] {
        let (got, bench) = run(&format!("lines:sh -c '{script}'"));
        assert_eq!((bytes_of(&got), bench.failure.as_deref()), (vec![&b"one"[..]], None));
    }
    let (got, bench) = run("lines,kill-after=50ms:sh -c 'echo one; exec >&-; sleep 1000'");
    assert_eq!(bytes_of(&got), [b"one"]);
    assert_eq!(
        bench.failure.as_deref(),
        Some(
            "sh: it closed its standard output and continued; it was killed by signal: 15 (SIGTERM)"
        )
    );
}

/// What a program writes when it is asked to end is published; one that ignores this is killed.
#[test]
fn a_stop_takes_the_last_words_and_no_longer_than_asked() {
    let (mut bench, mut source) = (
        bench(),
        start(
            "lines,restart=always:sh -c 'trap \"echo last; exit 0\" TERM; echo one; \
            while :; do sleep 0.01; done'",
        ),
    );
    assert_eq!(run_until(&mut bench, &mut *source, |got| got.len() == 1).len(), 1);
    assert_eq!(source.stop_taking(), Some(Duration::from_secs(2)));
    let last = run_until(&mut bench, &mut *source, |_| false);
    assert_eq!(bytes_of(&last), [b"last"]);
    assert_eq!(bench.count(PumpCounter::SourceGone), 0);

    let (mut bench, mut source) = (
        super::tests::bench(),
        start("lines,kill-after=100ms:sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done'"),
    );
    let got = run_until(&mut bench, &mut *source, |got| got.len() == 1);
    let pid: i32 = String::from_utf8_lossy(&got[0].bytes).parse().unwrap();
    let lives = || rustix::process::test_kill_process(rustix::process::Pid::from_raw(pid).unwrap());
    assert_eq!(lives(), Ok(()), "control");
    source.stop_taking();
    drop(source);
    assert_eq!(lives(), Err(rustix::io::Errno::SRCH));
}

/// Lines of standard error are logged behind the program's name. Control: they are no faults.
#[test]
fn standard_error_goes_to_the_log() {
    let (_, mut bench) =
        run("lines:sh -c 'printf \"a\\033[2Jb\\nno end\" >&2; yes | head -100000 >&2'");
    let notices = bench.notices();
    assert_eq!(notices[0], "sh: a?[2Jb");
    assert_eq!(notices[1], "sh: no endy");
    assert!(notices.len() < 30, "{notices:?}");
    assert_eq!(bench.count(PumpCounter::SourceFaults), 0);
    let (_, mut bench) = run("lines:sh -c 'printf \"no end\" >&2'");
    assert_eq!(bench.notices(), ["sh: no end"]);
}

/// Error output wakes the pump no more often than it is looked at, and the last of it is read.
/// Control: there was a lot of it.
#[test]
fn error_output_does_not_keep_the_pump_awake() {
    // The second writes a line at a time, a moment after the one before was taken.
    for script in
        ["yes >&2 & sleep 1; kill $!", "timeout 1 sh -c \"while :; do echo x; done\" >&2; exit 0"]
    {
        let (mut bench, mut source) = (bench(), start(&format!("lines:sh -c '{script}'")));
        let (begun, mut rounds) = (Instant::now(), 0);
        loop {
            bench.now = clock::monotonic_ns();
            let (_, fill) = bench.run(&mut *source);
            rounds += 1;
            match fill {
                Fill::Ended => break,
                _ => sleep(&*source),
            }
        }
        let most = begun.elapsed().as_millis() + 100;
        assert!(rounds < most * 2, "{rounds} rounds in {most} ms: {script}");
        assert!(bench.notices().len() > 20, "control: {script}");
    }
}

/// A full pipe makes the program wait, and nothing is lost.
#[test]
fn a_full_pipe_only_makes_the_program_wait() {
    let (mut bench, mut source) = (bench(), start("lines:seq 500000"));
    std::thread::sleep(Duration::from_millis(100));
    let mut next = 1;
    loop {
        bench.now = clock::monotonic_ns();
        let (got, fill) = bench.run(&mut *source);
        for got in got {
            assert_eq!(String::from_utf8_lossy(&got.bytes), next.to_string());
            next += 1;
        }
        match fill {
            Fill::Ended => break,
            Fill::Idle => sleep(&*source),
            Fill::Took => {}
        }
    }
    assert_eq!(next, 500_001);
}
