//! Clocks that differ: one that is set while a stream runs, and one of another time namespace.

use ringweir_harness::{Environment, wait_for};
use ringweir_needs::needs;
use rustix::fs::Mode;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A program of the C library's own clock, a year late until a byte of a file says otherwise.
const LATE_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static int right = -1;
__attribute__((constructor)) static void begin(void) {
    right = open(getenv("RIGHT_CLOCK"), O_RDONLY | O_CLOEXEC);
}
int clock_gettime(clockid_t clock, struct timespec *t) {
    char byte = 0;
    int result = syscall(SYS_clock_gettime, clock, t);
    int is_right = pread(right, &byte, 1, 0) == 1 && byte == '1';
    if (result == 0 && clock == CLOCK_REALTIME && !is_right) t->tv_sec -= 365 * 86400;
    return result;
}
"#;

/// A broker that starts before the machine knows the time: once the clock is set, dates are right,
/// also in a ring that the next broker takes over. Control: before, they are those of the clock.
#[test]
fn dates_are_right_once_the_clock_is_set() {
    if !needs("cc") {
        return;
    }
    let env = Environment::new(LIMIT);
    let (code, library, clock) = (env.path("late.c"), env.path("late.so"), env.path("clock"));
    std::fs::write(&code, LATE_CLOCK).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&code);
    assert!(cc.status().unwrap().success());
    std::fs::write(&clock, "0").unwrap();
    let input = env.path("in");
    rustix::fs::mkfifoat(rustix::fs::CWD, &input, Mode::RUSR | Mode::WUSR).unwrap();
    let mut writer = File::options().read(true).write(true).open(&input).unwrap();
    let with_clock = |program: &str| {
        let mut command = env.command(program);
        command.env("LD_PRELOAD", &library).env("RIGHT_CLOCK", &clock);
        command
    };
    let start = || {
        let mut command = with_clock("ringd");
        command.arg("--run-dir").arg(env.run_dir()).args(["run", "--name", "dates"]);
        command.arg("--source").arg(format!("file:lines:{}", input.display()));
        env.broker_of("dates", command)
    };
    // Publishes a line, and returns the date of the last one.
    let mut date_of = |line: &str| {
        use std::io::Write;
        writeln!(writer, "{line}").unwrap();
        let last = wait_for(Duration::from_secs(20), || {
            let mut command = with_clock("ringcat");
            command.args(["dates", "--from", "oldest", "--until-idle", "50ms", "-f", "pcap"]);
            let out = env.start({
                command.stdout(Stdio::piped());
                command
            });
            let out = out.output().stdout;
            let at = out.len().checked_sub(line.len() + 16)?;
            out.ends_with(line.as_bytes())
                .then(|| u64::from(u32::from_le_bytes(out[at..at + 4].try_into().unwrap())))
        });
        last.expect("it is published")
    };
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    const YEAR: u64 = 365 * 86_400;
    let mut broker = start();
    assert!(now() - YEAR - date_of("early") < 60);
    std::fs::write(&clock, "1").unwrap();
    assert!(now() - date_of("set") < 60);
    broker.process.kill();
    let broker = start();
    assert!(now() - date_of("adopted") < 60);
    broker.end();
}

/// A reader and a viewer in another time namespace see the same ages. Control: there, the clock of
/// the machine really is another one.
#[test]
fn another_time_namespace_changes_no_time() {
    if !needs("unshare") || !ringweir_needs::needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let elsewhere = |program: &Path, args: &[&str]| {
        let mut command = env.command_at("unshare".as_ref());
        command.args(["-T", "--monotonic", "1000000", "--fork"]).arg(program).args(args);
        command.stdout(Stdio::piped());
        env.start(command).output()
    };
    let uptime = elsewhere("cat".as_ref(), &["/proc/self/timens_offsets"]);
    if !String::from_utf8_lossy(&uptime.stdout).contains("1000000") {
        return ringweir_needs::skip("unshare cannot make time namespaces here");
    }
    let broker = env.broker("aside", "gen:rate=2000/s,size=100", &[]);
    let program = |name: &str| std::path::PathBuf::from(env.command(name).get_program());
    let output = elsewhere(&program("ringstat"), &["aside", "--why"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("nothing limits it"), "{text}{}", said(&output));
    let args = ["aside", "-n", "200", "-f", "pcap"];
    let output = elsewhere(&program("ringcat"), &args);
    let date = u64::from(u32::from_le_bytes(output.stdout[24..28].try_into().unwrap()));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now.abs_diff(date) < 60, "{date} at {now}");

    // A reader's latencies, as the broker in this namespace shows them.
    let mut command = env.command_at("unshare".as_ref());
    command.args(["-T", "--monotonic", "1000000", "--fork", "--kill-child"]);
    command.arg(program("ringcat")).args(["aside", "-f", "none"]);
    let mut reader = env.start(command);
    let sampled = wait_for(Duration::from_secs(30), || {
        let seen = env.run("ringstat", &["aside", "--latency", "--json"]);
        let seen: serde_json::Value = serde_json::from_slice(&seen.stdout).ok()?;
        seen["readers"][0]["max_ns"].as_u64()
    });
    let longest = sampled.expect("latencies are sampled");
    assert!(longest < 60_000_000_000, "{longest} ns");
    reader.kill();
    broker.end();
}
