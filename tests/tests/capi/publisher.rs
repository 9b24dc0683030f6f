//! Publishing from C: every call and its mistakes, the samples, and a program that is killed.

use super::library::*;
use ringweir_harness::{Environment, Process, wait_for};
use ringweir_needs::Part;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// Both languages, then valgrind and AddressSanitizer. Their controls are in
/// `memory_checkers_find_only_planted_faults`.
#[test]
fn every_call_of_a_publisher_and_every_mistake() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let (source, dir) = ("tests/tests/capi/publisher.c", env.run_dir());
    let args = [dir.to_str().unwrap()];
    for language in [C99, Cpp17] {
        passes(&env, &build(&env, source, language, &[]), &args);
    }
    let args = [args[0], "no fork"];
    passes(&env, &build(&env, source, C99, &["-fsanitize=address"]), &args);
    if Part("valgrind").needs("valgrind") {
        let output = valgrind(&env, &build(&env, source, C99, &[]), &args);
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// A sample that publishes, with its standard input; it serves its streams already.
fn sample(env: &Environment, program: &Path, args: &[&str], socket: &str) -> Process {
    let mut command = env.command_at(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.env("LD_LIBRARY_PATH", prefix().join("lib")).env("RINGWEIR_DIR", env.run_dir());
    let mut process = env.start(command);
    let served = wait_for(LIMIT, || {
        assert!(process.ended().is_none(), "{}", process.stderr());
        let attached = env.run("ringctl", &["show", env.run_dir().join(socket).to_str()?]);
        attached.status.success().then_some(())
    });
    assert!(served.is_some(), "{}", process.stderr());
    process
}

fn reader(env: &Environment, stream: &str, count: &str) -> Process {
    let mut command = env.command("ringcat");
    command.arg(env.run_dir().join(format!("{stream}.sock"))).args(["--from", "oldest"]);
    command.args(["-f", "raw", "-n", count]).stdout(Stdio::piped());
    env.start(command)
}

fn text(reader: Process) -> String {
    let done = reader.output();
    let said = said(&done);
    assert!(done.status.success() && !said.contains("published = "), "{}: {said}", done.status);
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// The sample is killed in the middle and started again. Both readers get each line once.
#[test]
fn the_sample_is_killed_and_continues() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let program = build(&env, "client/c/examples/publish.c", C99, &[]);
    assert_eq!(run(&env, &program, &[]).status.code(), Some(2));
    let lines = |range: std::ops::Range<u32>| -> String {
        range.map(|n| format!("line {n} of the sample\n")).collect()
    };
    let mut first = sample(&env, &program, &["capi-lines"], "capi-lines.sock");
    let readers = [0, 1].map(|_| reader(&env, "capi-lines", "2000"));
    let mut to = first.stdin().unwrap();
    to.write_all(lines(0..1000).as_bytes()).unwrap();
    let stat = || {
        let socket = env.run_dir().join("capi-lines.sock");
        let shown = env.run("ringstat", &["--json", socket.to_str().unwrap()]);
        String::from_utf8_lossy(&shown.stdout).into_owned()
    };
    let there = wait_for(LIMIT, || stat().contains("\"published\":1000,").then_some(()));
    assert!(there.is_some(), "{}", stat());
    first.kill();
    drop(to);
    let mut second = sample(&env, &program, &["capi-lines"], "capi-lines.sock");
    let mut to = second.stdin().unwrap();
    to.write_all(lines(1000..2000).as_bytes()).unwrap();
    for reader in readers {
        assert_eq!(text(reader), lines(0..2000));
    }
    drop(to);
    let done = second.output();
    assert!(done.status.success() && said(&done).contains("2000 published"), "{}", said(&done));
}

/// Eight call-back threads, with a stream each and with one that they share: each channel comes
/// whole and in order.
#[test]
fn eight_threads_publish_with_a_stream_each_or_with_one() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let threads = ["-lpthread", "-std=gnu11"];
    let program = build(&env, "client/c/examples/channels_publish.c", C99, &threads);
    for (way, streams, each) in [("own", 8, 5000_usize), ("lock", 1, 40_000)] {
        let name = |n: usize| if streams == 1 { "capi-ch".into() } else { format!("capi-ch{n}") };
        let last = format!("{}.sock", name(streams - 1));
        let mut process = sample(&env, &program, &["capi-ch", way, "5000"], &last);
        let readers: Vec<_> =
            (0..streams).map(|n| reader(&env, &name(n), &each.to_string())).collect();
        process.stdin().unwrap().write_all(b"\n").unwrap();
        let mut next = [0_u64; 8];
        for reader in readers {
            let done = reader.output();
            assert!(done.status.success(), "{}", said(&done));
            assert_eq!(done.stdout.len(), each * 64, "{way}");
            for datagram in done.stdout.as_chunks::<64>().0 {
                let channel = usize::from(datagram[63]);
                let number = u64::from_le_bytes(datagram[..8].try_into().unwrap());
                assert_eq!(number, next[channel], "{way}: channel {channel}");
                next[channel] += 1;
            }
        }
        assert_eq!(next, [5000; 8], "{way}");
        let done = process.output();
        let cost = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success() && cost.contains(" ns for each datagram"), "{}", said(&done));
        eprintln!("{cost}");
    }
}
