//! Programs that publish their own data: the examples of the documentation, each with two readers
//! in processes of their own, killed in the middle and started again.
//!
//! Contract: the oracle is the account that `ringcat` closes: published = delivered + lost. It
//! fails if that is not so, and prints it if something was lost.

use ringweir_harness::{Environment, Process, programs, wait_for};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// An example, once it serves its stream.
fn example(env: &Environment, name: &str, arguments: &[&str]) -> Process {
    let mut command = env.command_at(&programs::example(name));
    command.args(arguments).env("RINGWEIR_DIR", env.run_dir());
    let mut process = env.start(command);
    let serves = wait_for(PATIENCE, || {
        assert!(process.ended().is_none(), "{name}: {}", process.stderr());
        process.stderr().contains(" gen ").then_some(())
    });
    assert!(serves.is_some(), "{name}: {}", process.stderr());
    process
}

/// `ringcat`, which ends after `count` datagrams.
fn reader(env: &Environment, stream: &str, count: u32) -> Process {
    let mut command = env.command("ringcat");
    let socket = env.run_dir().join(format!("{stream}.sock"));
    command.arg(socket).args(["--from", "oldest", "-f", "raw", "-n", &count.to_string()]);
    command.stdout(Stdio::piped());
    env.start(command)
}

/// What a reader has written, once it has lost nothing and its account is closed.
fn read_whole(process: Process) -> String {
    let done = process.output();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && !said.contains("published = "), "{}: {said}", done.status);
    assert!(said.contains("the broker was restarted: generation 2"), "{said}");
    String::from_utf8(done.stdout).unwrap()
}

/// The examples run until they are killed, and leave their ring to their next start. Without one,
/// it is removed as a user would.
fn end(env: &Environment, process: &mut Process) {
    process.kill();
    let done = env.run("ringctl", &["gc"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn the_publishing_example_is_killed_and_continues() {
    let env = Environment::new(2 * PATIENCE);
    let mut first = example(&env, "publish", &["load"]);
    let readers = [30, 35].map(|count| reader(&env, "load", count));
    std::thread::sleep(Duration::from_millis(800));
    first.kill();
    let mut second = example(&env, "publish", &["load"]);
    assert!(second.stderr().contains("gen 2 (adopted"), "{}", second.stderr());
    for (count, reader) in [30, 35].into_iter().zip(readers) {
        let text = read_whole(reader);
        // Each datagram is a line of /proc/loadavg.
        assert_eq!(text.lines().count() as u32, count);
        assert!(text.lines().all(|line| line.split(' ').count() == 5), "{text}");
    }
    end(&env, &mut second);
}

#[test]
fn the_example_with_a_source_publishes_a_growing_file() {
    let env = Environment::new(2 * PATIENCE);
    let path = env.path("growing.log");
    let append = |lines: std::ops::Range<u32>| {
        use std::io::Write;
        let mut file = std::fs::File::options().create(true).append(true).open(&path).unwrap();
        lines.for_each(|n| writeln!(file, "line {n}").unwrap());
    };
    append(0..100);
    let arguments = ["lines", path.to_str().unwrap()];
    let mut first = example(&env, "own_source", &arguments);
    let readers = [300, 300].map(|count| reader(&env, "lines", count));
    append(100..200);
    let all_there = wait_for(PATIENCE, || {
        let shown = env.run("ringstat", &["--json", env.run_dir().join("lines.sock").to_str()?]);
        String::from_utf8_lossy(&shown.stdout).contains("\"published\":200").then_some(())
    });
    assert!(all_there.is_some(), "200 lines: {}", first.stderr());
    first.kill();
    // It begins at the start of its file again, and readers see all of it: the number of lines is
    // the source's business, and the account the ring's.
    let mut second = example(&env, "own_source", &arguments);
    for reader in readers {
        let text = read_whole(reader);
        let expected: String = (0..200).chain(0..100).map(|n| format!("line {n}\n")).collect();
        assert_eq!(text, expected);
    }
    end(&env, &mut second);
}

#[test]
fn an_example_without_arguments_says_how_to_use_it() {
    let env = Environment::new(PATIENCE);
    for (name, usage) in [("publish", "publish STREAM"), ("own_source", "own_source STREAM FILE")] {
        let done = env.start(env.command_at(Path::new(&programs::example(name)))).output();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && said.contains(usage), "{name}: {said}");
    }
}
