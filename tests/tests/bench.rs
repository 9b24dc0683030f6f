//! `ringbench` end to end, in small: everything runs, and the output is what it should be. Its
//! negative controls: faults planted in every contender's path are caught.

use ringweir_bench::contenders::CONTENDERS;
use ringweir_bench::questions::QUESTIONS;
use ringweir_harness::Environment;
use ringweir_needs::Part;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

fn ringbench(env: &Environment, args: &[&str]) -> (bool, String, String) {
    let Output { status, stdout, stderr } = env.run("ringbench", args);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.success(), text(stdout), text(stderr))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Another program's XML parser must accept the chart, and find a point in it.
fn parses_as_svg(env: &Environment, file: &Path) {
    let program = "import sys, xml.etree.ElementTree as x\n\
                   root = x.parse(sys.argv[1]).getroot()\n\
                   assert root.tag.endswith('svg') and root.find('.//{*}circle') is not None, \
                   root.tag";
    if !Part("charts are well-formed").needs("python3") {
        return;
    }
    let mut command = env.command_at(Path::new("python3"));
    command.args(["-c", program]).arg(file);
    let done = env.start(command).output();
    assert!(done.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_quick_bench_runs_everything_and_writes_what_it_found() {
    let env = Environment::new(Duration::from_secs(400));
    let (out, again) = (env.path("out"), env.path("again"));
    let (ok, _, said) = ringbench(&env, &["--quick", "--out", out.to_str().unwrap()]);
    assert!(ok, "{said}");
    let records: Vec<serde_json::Value> = read(&out.join("results.jsonl"))
        .lines()
        .map(|l| serde_json::from_str(l).expect(l))
        .collect();
    assert_eq!(records[0]["kind"], "machine");
    for key in
        ["cpu", "cores", "kernel", "governor", "virtual", "commit", "command", "time", "line_ns"]
    {
        assert!(!records[0][key].is_null(), "no {key} of the machine");
    }
    let is = |question: &str, contender: &str| {
        records
            .iter()
            .any(|r| r["kind"] == "run" && r["question"] == question && r["contender"] == contender)
    };
    for contender in CONTENDERS {
        let question = if contender.floor { "latency" } else { "throughput" };
        match (contender.unavailable)() {
            None => assert!(is(question, contender.name), "{} has not run", contender.name),
            Some(why) => {
                Part(contender.name).skip(why);
                assert!(!is(question, contender.name), "{} has run", contender.name);
            }
        }
    }
    let runs = |question: &str| {
        records.iter().filter(|r| r["kind"] == "run" && r["question"] == question).count()
    };
    for question in QUESTIONS {
        let skipped =
            records.iter().any(|r| r["kind"] == "skipped" && r["question"] == question.name);
        assert!(runs(question.name) > 0 || skipped, "{} was not asked", question.name);
    }
    for record in records.iter().filter(|r| r["question"] == "throughput" && r["kind"] == "run") {
        assert!(
            record["published"].as_u64() > Some(0) && record["line_ns"][1].is_number(),
            "{record}"
        );
    }
    // The same page, made from the records alone.
    let from = out.join("results.jsonl");
    let (ok, _, said) =
        ringbench(&env, &["chart", from.to_str().unwrap(), "--out", again.to_str().unwrap()]);
    assert!(ok, "{said}");
    let table = read(&out.join("results.md"));
    assert!(
        table.contains("| asked | target | found | met |") && table.contains("A quick run"),
        "{table}"
    );
    assert_eq!(table, read(&again.join("results.md")));
    for question in QUESTIONS.iter().filter(|q| runs(q.name) > 0) {
        let chart = again.join(format!("{}.svg", question.name));
        parses_as_svg(&env, &chart);
        assert_eq!(read(&chart), read(&out.join(format!("{}.svg", question.name))));
    }
}

/// Without this the other test would prove nothing: a bench that checks nothing passes, too.
#[test]
fn a_planted_fault_is_caught_for_every_contender() {
    let env = Environment::new(Duration::from_secs(400));
    let caught = |args: &[&str], inject: &str| {
        for _ in 0..5 {
            let (ok, _, said) = ringbench(&env, &[&["--quick", "--inject", inject], args].concat());
            assert!(
                !ok && said.contains("ringbench: FAIL"),
                "{inject} {args:?} was not noticed: {said}"
            );
            if !said.contains("too few datagrams came") {
                return said;
            }
        }
        panic!("{inject} {args:?}: no fault could be planted");
    };
    for contender in CONTENDERS.iter().filter(|c| !c.floor) {
        if let Some(why) = (contender.unavailable)() {
            Part(contender.name).skip(why);
            continue;
        }
        for inject in ["flip", "drop", "dup"] {
            let said = caught(&["--only", "throughput", "--contender", contender.name], inject);
            let says: &[&str] = match inject {
                "flip" => &["sum is", "over the data"],
                "dup" => &["came again"],
                // A contender that may lose has lost one that the kernel did not; for one that may
                // not, there is a gap.
                _ => &["no loss was reported", "datagrams are missing, the kernel counts"],
            };
            assert!(says.iter().any(|s| said.contains(s)), "{} {inject}: {said}", contender.name);
        }
    }
    if Part("packets: captures").needs_network_namespaces() {
        let said = caught(&["--only", "packets"], "flip");
        assert!(said.contains("over the data"), "{said}");
    }
}

#[test]
fn wrong_names_are_refused_with_the_valid_ones() {
    let env = Environment::new(Duration::from_secs(60));
    let (ok, _, said) = ringbench(&env, &["--only", "speed"]);
    assert!(!ok && said.contains("no question \"speed\"; there are copy, throughput"), "{said}");
    let (ok, _, said) = ringbench(&env, &["--rounds", "0"]);
    assert!(!ok && said.contains("--rounds 0"), "{said}");
    let (ok, _, said) = ringbench(&env, &["chart", "/nowhere/x.jsonl"]);
    assert!(!ok && said.contains("/nowhere/x.jsonl"), "{said}");
    let (ok, list, _) = ringbench(&env, &["--list"]);
    assert!(ok && list.contains("device+fanout") && list.contains("publish"), "{list}");
}
