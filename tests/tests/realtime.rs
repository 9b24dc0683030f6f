//! A broker launched with `chrt -f 60` at the rate of a slow device (1 Mbit/s), with one reader
//! stopped for 5 s and another one killed every 100 ms. No other reader loses anything, the stopped
//! one gets one exact gap, and nothing is left behind. Negative control: the stopped reader itself,
//! in the same run; and `a_plain_launch_logs_its_ordinary_class` for the class.

use ringweir_harness::{Daemon, Environment, Process, wait_for};
use ringweir_helpers::mailbox::{Live, Mailbox};
use ringweir_needs::{needs_realtime, skip};
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const RATE: u64 = 488; // × 256 B = 125 kB/s
const SECONDS: u64 = 9;

fn reader(
    env: &Environment,
    mailbox: &Mailbox,
    broker: &Daemon,
    slot: usize,
    from: &str,
) -> Process {
    let mut command = env.command("ringtest-reader");
    command.args([
        &broker.name,
        "--mailbox",
        mailbox.id(),
        "--slot",
        &slot.to_string(),
        "--from",
        from,
    ]);
    env.start(command)
}

fn until(mailbox: &Mailbox, slot: usize, what: Live, least: u64) {
    let got = wait_for(Duration::from_secs(20), || {
        (mailbox.slot(slot).live(what) >= least).then_some(())
    });
    assert!(got.is_some(), "reader {slot}: {what:?} has not reached {least}");
}

/// Scheduling classes of the threads of a process, by thread name.
fn classes(pid: u32) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads").flatten();
    let mut found: Vec<_> = tasks
        .map(|task| {
            let id = task.file_name().into_string().expect("a number");
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let said = Command::new("chrt").args(["-p", &id]).output().expect("chrt").stdout;
            let said = String::from_utf8_lossy(&said).into_owned();
            let class =
                ["SCHED_FIFO", "SCHED_OTHER"].into_iter().find(|c| said.contains(c)).unwrap_or("?");
            (name.trim().to_string(), class.to_string())
        })
        .collect();
    found.sort();
    found
}

fn launch(env: &Environment, front: &[&str], args: &[&str]) -> Daemon {
    let ringd = ringweir_harness::programs::path("ringd");
    let mut command = match front {
        [] => env.command_at(&ringd),
        [program, rest @ ..] => {
            let mut command = env.command_at(Path::new(program));
            command.args(rest).arg(&ringd);
            command
        }
    };
    command.arg("--run-dir").arg(env.run_dir()).args(["run", "--name", "slow"]).args(args);
    env.broker_of("slow", command)
}

#[test]
fn at_real_time_stopped_and_dying_readers_cost_others_nothing() {
    if !needs_realtime() {
        return;
    }
    let env = Environment::new(Duration::from_secs(60));
    let mailbox = Mailbox::create(4);
    let count = RATE * SECONDS;
    let source = format!("gen:rate={RATE}/s,size=256,count={count}");
    // 256 KiB = 2 s of history, so a reader that sleeps for 5 s is lapped.
    let args = [
        "--source",
        &source,
        "--wait-readers",
        "3",
        "--depth",
        "1024",
        "--capacity",
        "256KiB",
        "--max-datagram",
        "1KiB",
    ];
    let broker = launch(&env, &["chrt", "-f", "60"], &args);
    let said = broker.process.stderr();
    assert!(said.contains("sched FIFO/60 ok") && said.contains("prefault ok"), "{said}");
    // Only the pump is at real-time priority.
    let classes = classes(broker.process.pid());
    for (name, class) in &classes {
        let expected = if name.starts_with("pump:") { "SCHED_FIFO" } else { "SCHED_OTHER" };
        assert_eq!(class, expected, "{classes:?}");
    }
    assert!(classes.len() >= 3, "{classes:?}");

    let steady: Vec<_> = (0..2).map(|i| reader(&env, &mailbox, &broker, i, "oldest")).collect();
    let stopped = reader(&env, &mailbox, &broker, 2, "oldest");
    until(&mailbox, 2, Live::Delivered, RATE / 2);
    stopped.stop();
    let began = Instant::now();
    let mut killed = 0;
    while began.elapsed() < Duration::from_secs(5) {
        let mut victim = reader(&env, &mailbox, &broker, 3, "latest");
        std::thread::sleep(Duration::from_millis(100));
        victim.kill();
        killed += 1;
    }
    stopped.signal(Signal::CONT);
    let published = broker.published();
    assert_eq!(published, count);
    for (slot, mut process) in steady.into_iter().enumerate() {
        assert!(process.wait().success(), "{}", process.stderr());
        let report = mailbox.slot(slot).take();
        report.check(published).unwrap();
        assert_eq!((report.delivered, report.lost), (published, 0), "a reader that was left alone");
    }
    let mut stopped = stopped;
    assert!(stopped.wait().success(), "{}", stopped.stderr());
    let report = mailbox.slot(2).take();
    report.check(published).unwrap();
    assert_eq!(
        (report.gaps, report.first_gap_count),
        (1, published - report.delivered),
        "one exact gap: {report:?}"
    );
    assert!(killed > 20, "{killed} killed");
    eprintln!(
        "published {published}, {killed} readers killed, the stopped one learned of {} lost",
        report.lost
    );
    // Dropping the environment checks that /dev/shm and the run directory are empty.
}

#[test]
fn a_plain_launch_logs_its_ordinary_class() {
    let env = Environment::new(Duration::from_secs(30));
    let broker = launch(&env, &[], &["--source", "gen:rate=100/s,size=64"]);
    let said = broker.process.stderr();
    assert!(said.contains("sched OTHER (for real time: chrt -f 60 ringd"), "{said}");
    assert!(classes(broker.process.pid()).iter().all(|(_, class)| class == "SCHED_OTHER"));
    broker.end();
}

/// The kernel would stop `--spin` at real-time priority for 50 ms in each second: the broker warns
/// about that.
#[test]
fn spinning_at_real_time_priority_is_warned_about() {
    if !needs_realtime() {
        return;
    }
    let throttled = std::fs::read_to_string("/proc/sys/kernel/sched_rt_runtime_us")
        .is_ok_and(|t| t.trim() != "-1");
    if !throttled {
        return skip("needs real-time throttling (sysctl kernel.sched_rt_runtime_us=950000)");
    }
    let env = Environment::new(Duration::from_secs(30));
    let broker = launch(
        &env,
        &["chrt", "-f", "1"],
        &["--source", "gen:rate=100/s,size=64,count=10", "--spin", "--linger", "5s"],
    );
    let said = wait_for(Duration::from_secs(10), || {
        Some(broker.process.stderr()).filter(|s| s.contains("sched_rt_runtime_us"))
    });
    assert!(said.is_some(), "{}", broker.process.stderr());
    broker.end();
}
