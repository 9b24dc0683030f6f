//! `--wait TIME` of every tool that needs a stream: a stream that comes, one that never does, and
//! errors that do not mean an absent stream.

use ringweir_harness::{Environment, Process, wait_for};
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn start(env: &Environment, line: &str) -> Process {
    let mut words = line.split_whitespace();
    let mut command = env.command(words.next().expect("a program"));
    command.args(words).stdout(Stdio::piped());
    env.start(command)
}

/// Every tool that needs a stream, with a command line that ends by itself and a word of its
/// output.
const TOOLS: [(&str, &str); 10] = [
    ("ringcat late --from oldest -n 3 --verify", "verified"),
    ("ringsend late --to udp:127.0.0.1:9 --from oldest -n 3 --stats", "3 sent"),
    ("ringstat late", "late"),
    ("ringstat", "late"),
    ("ringstat late --json", "\"late\""),
    ("ringctl ls", "late"),
    ("ringctl show late", "Metadata"),
    ("ringctl doctor late", "the pump (thread"),
    ("ringctl detach late nobody", "stream \"late\" has no reader"),
    ("ringctl reload late", "--config"),
];

/// All of them start before the broker, and reach its stream.
#[test]
fn tools_started_before_their_stream_reach_it() {
    let env = Environment::new(LIMIT);
    let started = TOOLS.map(|(line, word)| {
        let whole = match line.split_once(" detach ") {
            Some((program, rest)) => format!("{program} detach {rest} --wait 40s"),
            None => format!("{line} --wait 40s"),
        };
        (whole.clone(), word, start(&env, &whole))
    });
    std::thread::sleep(Duration::from_millis(300));
    let broker = env.broker("late", "gen:rate=1000/s", &["--wait-readers", "0"]);
    for (line, word, tool) in started {
        let output = tool.output();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert!(said.contains(word), "{line}: {}: {said}", output.status);
        assert!(
            !said.contains("did not come") && !said.contains("waiting up to"),
            "{line}: {said}"
        );
    }
    broker.end();
}

/// The control of the test above: without a broker each tool gives up after its time, not earlier,
/// and names the stream and the time.
#[test]
fn a_stream_that_never_comes_is_an_error_with_its_name_and_the_time() {
    let env = Environment::new(LIMIT);
    for (line, _) in TOOLS {
        let began = Instant::now();
        let output = start(&env, &format!("{line} --wait 300ms")).output();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(began.elapsed() >= Duration::from_millis(300), "{line}: {:?}", began.elapsed());
        let stream = if line.contains("late") { "stream \"late\"" } else { "any stream" };
        let first = format!("{stream} did not come within 300 ms (--wait): no stream");
        assert!(said.contains(&first), "{line}: {said}");
        assert!(!said.contains("waiting up to"), "progress, and stderr is no terminal: {said}");
        assert!(output.stdout.is_empty(), "{line}");
    }
}

#[test]
fn a_broker_that_died_and_comes_again_is_waited_for() {
    let env = Environment::new(LIMIT);
    let mut broker = env.broker("again", "gen:rate=1000/s", &[]);
    broker.process.kill();
    let at_once = env.run("ringcat", &["again", "-n", "3"]);
    assert!(stderr(&at_once).contains("no broker answers"), "{}", stderr(&at_once));
    let tool = start(&env, "ringcat again -n 3 --verify --wait 40s");
    std::thread::sleep(Duration::from_millis(200));
    let broker = env.broker("again", "gen:rate=1000/s", &[]);
    let output = tool.output();
    assert!(output.status.success(), "{}", stderr(&output));
    broker.end();
}

/// A stream that exists but refuses is not waited for.
#[test]
fn a_refusal_is_reported_at_once() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("full", "gen:rate=1000/s", &["--readers-max", "1"]);
    let mut first = start(&env, "ringcat full --label first --verify");
    let attached = wait_for(Duration::from_secs(20), || {
        let shown = env.run("ringstat", &["full"]);
        String::from_utf8_lossy(&shown.stdout).contains("first").then_some(())
    });
    assert!(attached.is_some(), "{}", first.stderr());
    for (line, says) in [
        ("ringcat full --wait forever", "refused"),
        ("ringcat no:name --wait forever", "no:name"),
        ("ringctl show no:name --wait forever", "no:name"),
    ] {
        let output = start(&env, line).output();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(said.contains(says) && !said.contains("--wait"), "{line}: {said}");
    }
    first.signal(Signal::TERM);
    first.wait();
    broker.end();
}

#[test]
fn wrong_times_are_refused_by_value() {
    let env = Environment::new(LIMIT);
    for (line, says) in [
        ("ringcat a --wait soon", &["soon", "1.5s", "forever"][..]),
        ("ringstat a --wait 5parsecs", &["5parsecs", "forever"]),
        ("ringctl show a --wait", &["--wait"]),
        ("ringctl doctor --wait 5s", &["needs a STREAM"]),
        ("ringstat --listen 127.0.0.1:0 --wait 5s", &["--listen", "--wait"]),
    ] {
        let output = start(&env, line).output();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        assert!(says.iter().all(|s| said.contains(s)), "{line}: {said}");
    }
}

/// Programs that catch signals only later, and one that never does.
#[test]
fn a_signal_ends_the_wait() {
    let env = Environment::new(LIMIT);
    for line in
        ["ringcat x", "ringsend x --to udp:127.0.0.1:9", "ringstat x -w 1", "ringctl show x"]
    {
        for signal in [Signal::INT, Signal::TERM] {
            let mut tool = start(&env, &format!("{line} --wait forever"));
            std::thread::sleep(Duration::from_millis(150));
            assert_eq!(tool.ended(), None, "{line}: {}", tool.stderr());
            tool.signal(signal);
            assert_eq!(tool.wait().signal(), Some(signal.as_raw()), "{line}");
        }
    }
}

/// `script` (of bsdutils) gives a program a terminal.
#[test]
fn progress_is_shown_on_a_terminal() {
    let env = Environment::new(LIMIT);
    let run = |options: &str| {
        let mut command = env.command_at("script".as_ref());
        let ringcat = env.command("ringcat").get_program().to_owned();
        let line = format!("{} x --wait 300ms {options}", ringcat.to_string_lossy());
        command.args(["-qec", &line, "/dev/null"]).stdout(Stdio::piped());
        String::from_utf8_lossy(&env.start(command).output().stdout).into_owned()
    };
    let said = run("");
    assert!(said.contains("ringcat: waiting up to 300 ms for stream \"x\""), "{said}");
    assert_eq!(said.matches("waiting up to").count(), 1, "once: {said}");
    assert!(!run("--quiet").contains("waiting up to"));
}
