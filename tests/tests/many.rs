//! Three hundred streams of one broker: everything that lists shows them all, to their owner and to
//! another user.

use ringweir_harness::environment::NOBODY;
use ringweir_harness::{Environment, wait_for};
use ringweir_needs::needs_root;
use serde_json::Value;
use std::fmt::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(240);
const STREAMS: usize = 300;

/// Streams of 32 slots that rest, for another user to look at.
fn file(streams: std::ops::Range<usize>) -> String {
    streams.fold(String::new(), |mut text, n| {
        let _infallible = write!(
            text,
            "[[stream]]\nname = 'many{n:03}'\nsource = 'gen:rate=1/s,size=64'\ndepth = 64\n\
             max-datagram = 64\nreaders-max = 4\nwatch-uid = [{NOBODY}]\n"
        );
        text
    })
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What was refused, or not shown, is reported on stderr.
fn quiet(output: &Output) -> bool {
    !String::from_utf8_lossy(&output.stderr).contains("many")
}

#[test]
fn all_of_three_hundred_streams_are_shown() {
    let env = Environment::new(LIMIT);
    let config = env.path("many.toml");
    std::fs::write(&config, file(0..2)).expect("the file");
    let mut command = env.command("ringd");
    command.arg("--config").arg(&config).arg("--run-dir").arg(env.run_dir());
    let broker = env.broker_of("many000", command);

    // A message has no room for 298 changes; what is left out is in effect.
    std::fs::write(&config, file(0..STREAMS)).expect("the file");
    let reloaded = env.run("ringctl", &["reload", "many000"]);
    let said = String::from_utf8_lossy(&reloaded.stdout).into_owned();
    assert!(reloaded.status.success(), "{said}: {}", String::from_utf8_lossy(&reloaded.stderr));
    assert!(said.contains("begun   many002\n") && said.contains(" more"), "{said}");

    let all = |run: &dyn Fn(&[&str]) -> Output| {
        // Twice, and two tools at once.
        for _ in 0..2 {
            let shown = run(&["ringstat", "--json"]);
            assert_eq!((lines(&shown).len(), quiet(&shown)), (STREAMS, true));
        }
        std::thread::scope(|scope| {
            let mut started = Vec::new();
            for _ in 0..2 {
                let mut command = env.command("ringstat");
                command.arg("--json").stdout(Stdio::piped());
                let process = env.start(command);
                started.push(scope.spawn(move || process.output()));
            }
            for thread in started {
                assert_eq!(lines(&thread.join().expect("a thread")).len(), STREAMS);
            }
        });
        let listed = lines(&run(&["ringctl", "ls", "--json"]));
        let answers = listed.iter().filter(|row| row["answers"] == true).count();
        assert_eq!(answers, STREAMS);
        let table = run(&["ringctl", "ls"]);
        assert_eq!(String::from_utf8_lossy(&table.stdout).lines().count(), STREAMS + 1);
        let shown = run(&["ringstat", "--why", "--json"]);
        assert_eq!(lines(&shown).len(), STREAMS);
        let shown = run(&["ringstat", "--latency", "--json"]);
        assert_eq!(lines(&shown).len(), STREAMS);
        let exposition = run(&["ringstat", "--prom"]);
        let text = String::from_utf8_lossy(&exposition.stdout).into_owned();
        let up = text.lines().filter(|line| line.starts_with("ringweir_up{")).count();
        assert_eq!(up, STREAMS);
    };
    all(&|run| env.run(run[0], &run[1..]));
    let checked = env.run("ringctl", &["doctor"]);
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(text.contains("this user may attach to all 300 streams"), "{text}");
    if needs_root() {
        all(&|run| {
            let mut command: Command = env.command_as_nobody(run[0]);
            command.args(&run[1..]).stdout(Stdio::piped());
            env.start(command).output()
        });
    }
    // A message about one that is missing does not list them all.
    let missing = env.run("ringcat", &["none"]);
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(said.contains(" and 280 more") && said.len() < 1000, "{said}");

    std::fs::write(&config, file(0..1)).expect("the file");
    assert!(env.run("ringctl", &["reload", "many000"]).status.success());
    wait_for(PATIENCE, || (lines(&env.run("ringctl", &["ls", "--json"])).len() == 1).then_some(()))
        .expect("one is left");
    broker.end();
}
