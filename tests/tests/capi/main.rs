//! The C library as C programs use it: installed into a prefix, found by pkg-config, linked by cc
//! and c++, run against live brokers, and checked by valgrind and AddressSanitizer. The C sources
//! are in `capi/` and in `client/c/examples/`.

mod library;
mod publisher;

use library::*;
use ringweir_harness::{Daemon, Environment, wait_for};
use ringweir_needs::{Part, needs};
use ringweir_pattern::crc;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A stream that has ended, with all its 600 datagrams in the ring.
fn kept(env: &Environment, name: &str) -> Daemon {
    let source = "gen:rate=max,size=24..1500,count=600,channels=3";
    let broker = env.broker(
        name,
        source,
        &["--linger", "forever", "--wait-readers", "0", "--max-datagram", "2KiB"],
    );
    let full = wait_for(LIMIT, || {
        broker.process.stderr().contains("600 datagrams published").then_some(())
    });
    assert!(full.is_some(), "{}", broker.process.stderr());
    broker
}

/// A stream whose ring holds a twentieth of a second.
fn flowing(env: &Environment, name: &str) -> Daemon {
    let small = ["--depth", "256", "--capacity", "64KiB", "--max-datagram", "512"];
    env.broker(name, "gen:rate=4000/s,size=24..400", &small)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// Splits length-prefixed datagrams.
fn datagrams(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        let (datagram, behind) = behind.split_at(u32::from_le_bytes(*len) as usize);
        found.push(datagram);
        rest = behind;
    }
    assert!(rest.is_empty(), "half a length");
    found
}

/// Each sample, in each language, shared and static, prints the same as another program of the
/// project.
#[test]
fn samples_build_from_a_prefix_and_read_what_ringcat_reads() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let broker = kept(&env, "capi-samples");
    let cat = env.run("ringcat", &["capi-samples", "--from", "oldest", "--len-prefix"]).stdout;
    let cat = datagrams(&cat);
    assert_eq!(cat.len(), 600);
    let channel = |d: &[u8]| crc::check(d).unwrap().channel;
    let lines: String = (cat.iter().enumerate())
        .map(|(i, d)| format!("{i} {} {} {:016x}\n", d.len(), channel(d), fnv1a(d)))
        .collect();
    let mut sums = String::new();
    for c in 0..3 {
        let of: Vec<_> = cat.iter().filter(|d| channel(d) == c).collect();
        let bytes: usize = of.iter().map(|d| d.len()).sum();
        sums += &format!("channel {c}: {} datagrams, {bytes} bytes\n", of.len());
    }
    sums += "unheard 0 lost 0\n";
    let archive = prefix().join("lib/libringweir.a");
    let links: [&[&str]; 3] = [&[], &["-static"], &["-Wl,--as-needed", archive.to_str().unwrap()]];
    for language in [C99, Cpp17] {
        for link in links {
            let sample =
                |name: &str| build(&env, &format!("client/c/examples/{name}.c"), language, link);
            let read = sample("read");
            assert_eq!(
                passes(&env, &read, &["capi-samples", "oldest"]),
                lines,
                "{language:?} {link:?}"
            );
            assert_eq!(passes(&env, &read, &["capi-samples", "oldest", "2"]).lines().count(), 2);
            assert_eq!(
                passes(&env, &sample("channels"), &["capi-samples"]),
                sums,
                "{language:?} {link:?}"
            );
            let account = passes(&env, &sample("poll"), &["capi-samples"]);
            assert_eq!(account, "capi-samples start 0 delivered 600 lost 0 read 600\n");
        }
    }
    // What a new user does first: no argument, or the name of a stream that does not exist.
    let read = build(&env, "client/c/examples/read.c", C99, &[]);
    assert_eq!(run(&env, &read, &[]).status.code(), Some(2));
    let lost = run(&env, &read, &["capi-none"]);
    assert_eq!(lost.status.code(), Some(1));
    for part in ["no stream \"capi-none\"; running: capi-samples", "ringctl ls"] {
        assert!(said(&lost).contains(part), "{part}: {}", said(&lost));
    }
    broker.end();
}

/// Ctrl-C ends the samples, and they report their account.
#[test]
fn samples_end_on_a_signal() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let broker = env.broker("capi-int", "gen:rate=500/s,size=64", &[]);
    for name in ["read", "poll"] {
        let program = build(&env, &format!("client/c/examples/{name}.c"), C99, &[]);
        let process = start(&env, &program, &["capi-int"], Stdio::piped());
        std::thread::sleep(Duration::from_millis(500));
        process.signal(rustix::process::Signal::INT);
        let output = process.output();
        assert_eq!(output.status.code(), Some(0), "{name}: {}", said(&output));
        let all = format!("{}{}", String::from_utf8_lossy(&output.stdout), said(&output));
        assert!(all.contains(" lost 0 read "), "{name}: {all}");
    }
    broker.end();
}

/// The driver's account of one generation: got, lost, torn.
fn account(stderr: &str, what: &str) -> [u64; 3] {
    let line = stderr
        .lines()
        .find(|l| l.starts_with(what))
        .unwrap_or_else(|| panic!("no {what}: {stderr}"));
    let mut numbers = line.split_whitespace().filter_map(|w| w.parse().ok());
    std::array::from_fn(|_| numbers.next().expect("three numbers"))
}

/// Published = delivered + lost, and every byte is right: in place and copied, with each way of
/// waiting, for readers that keep up and for readers that are lapped. Each is the other's control.
#[test]
fn published_datagrams_are_delivered_or_reported_lost() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let small =
        ["--depth", "256", "--capacity", "256KiB", "--max-datagram", "1KiB", "--wait-readers", "1"];
    let large = [
        "--depth",
        "32768",
        "--capacity",
        "16MiB",
        "--max-datagram",
        "1KiB",
        "--wait-readers",
        "1",
    ];
    let ways = [
        ("next", "wait", C99),
        ("next", "spin", Cpp17),
        ("read", "poll", C99),
        ("read", "wait", Cpp17),
    ];
    for (n, (how, wait, language)) in ways.into_iter().enumerate() {
        let driver = build(&env, "tests/tests/capi/stream.c", language, &[]);
        for slow in [false, true] {
            let name = format!("capi-all{n}{slow}");
            let source = format!("gen:rate=20000/s,size=24..1000,count=20000,seed={n}");
            let broker = env.broker(&name, &source, if slow { &small } else { &large });
            let out = env.path(&format!("out{n}"));
            let to = std::fs::File::create(&out).unwrap();
            let ms = if slow { "25" } else { "0" };
            let mut process = start(&env, &driver, &[&name, how, wait, ms], to.into());
            let published = broker.published();
            assert!(process.wait().success(), "{how} {wait}: {}", process.stderr());
            let [got, lost, torn] = account(&process.stderr(), "last ");
            assert_eq!((published, got + lost), (20_000, 20_000), "{how} {wait} {slow}");
            assert_eq!(
                (lost > 0, torn > 0),
                (slow, slow && how == "next"),
                "{how} {wait} {slow}: {lost} {torn}"
            );
            let bytes = std::fs::read(&out).unwrap();
            let numbers: Vec<u64> =
                datagrams(&bytes).iter().map(|d| crc::check(d).unwrap().number).collect();
            assert_eq!(numbers.len() as u64, got);
            assert!(numbers.is_sorted_by(|a, b| a < b), "out of order");
        }
    }
}

/// The broker is killed and started again: the C reader reads what is left, gets one notice of the
/// restart, and reads on.
#[test]
fn a_reader_outlives_its_broker() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let source = "gen:rate=5000/s,size=64..512,count=20000";
    let more =
        ["--max-datagram", "512", "--depth", "32768", "--capacity", "16MiB", "--wait-readers", "1"];
    let mut broker = env.broker("capi-phoenix", source, &more);
    let driver = build(&env, "tests/tests/capi/stream.c", C99, &[]);
    let out = env.path("out");
    let to = std::fs::File::create(&out).unwrap();
    let mut process = start(&env, &driver, &["capi-phoenix", "read", "poll", "0"], to.into());
    let flows = || std::fs::metadata(&out).is_ok_and(|m| m.len() > 200_000).then_some(());
    assert!(wait_for(LIMIT, flows).is_some(), "{}", process.stderr());
    broker.process.kill();
    drop(broker);
    let published = env.broker("capi-phoenix", source, &more).published();
    assert!(process.wait().success(), "{}", process.stderr());
    let text = process.stderr();
    let ([before, ..], [after, lost, _]) = (account(&text, "earlier "), account(&text, "last "));
    assert!(text.contains(&format!("generation 2 start {before} adopted 1")), "{text}");
    assert_eq!((published, after, lost), (before + 20_000, 20_000, 0), "{text}");
    let bytes = std::fs::read(&out).unwrap();
    let numbers = datagrams(&bytes).into_iter().map(|d| crc::check(d).unwrap().number);
    assert!(numbers.eq((0..before).chain(0..after)), "{text}");
}

/// Too small a buffer leaves the datagram unread. A datagram that is overwritten during its use is
/// torn. Both become a gap when the reader is lapped.
#[test]
fn small_buffers_lose_nothing_and_torn_datagrams_are_found() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let (one, two) = (kept(&env, "capi-kept"), flowing(&env, "capi-flow"));
    for language in [C99, Cpp17] {
        let program = build(&env, "tests/tests/capi/sizes.c", language, &[]);
        passes(&env, &program, &["capi-kept", "capi-flow"]);
    }
    one.end();
    two.end();
}

#[test]
fn waiting_ends_by_time_signal_and_datagram() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let idle = env.broker("capi-idle", "gen:rate=1/s,size=100", &[]);
    let slow = env.broker("capi-slow", "gen:rate=200/s,size=24..400", &[]);
    for language in [C99, Cpp17] {
        let program = build(&env, "tests/tests/capi/waits.c", language, &[]);
        passes(&env, &program, &["capi-idle", "capi-slow"]);
    }
    idle.end();
    slow.end();
}

#[test]
fn a_lossless_reader_is_waited_for_and_then_demoted() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let small = ["--depth", "256", "--capacity", "64KiB", "--max-datagram", "512"];
    let serve = |name: &str, more: &[&str]| {
        env.broker(name, "gen:rate=4000/s,size=24..400", &[&small, more].concat())
    };
    let waits = serve("capi-waits", &["--lossless", "forever"]);
    let bears = serve("capi-bears", &["--lossless", "200ms"]);
    let never = serve("capi-never", &[]);
    for language in [C99, Cpp17] {
        let program = build(&env, "tests/tests/capi/lossless.c", language, &[]);
        passes(&env, &program, &["capi-waits", "capi-bears", "capi-never"]);
    }
    [waits, bears, never].into_iter().for_each(Daemon::end);
}

/// The stream of `arguments.c`.
fn described(env: &Environment, name: &str) -> Daemon {
    env.broker(name, "gen:rate=500/s,size=24..64", &["--meta", "channels=3", "--meta", "dtype=<i2"])
}

/// Everything wrong is refused with its name (a C++ program into which an exception was thrown
/// would end by `terminate`). Each code of the header has its own text, and no other number has
/// one.
#[test]
fn wrong_arguments_are_refused_and_every_code_has_a_text() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let broker = described(&env, "capi-args");
    let header = std::fs::read_to_string(prefix().join("include/ringweir.h")).unwrap();
    let codes = header
        .split("typedef enum rw_code {")
        .nth(1)
        .and_then(|s| s.split("} rw_code;").next())
        .unwrap();
    let numbers: BTreeSet<i32> = codes
        .lines()
        .filter(|l| l.trim_start().starts_with("RW_"))
        .map(|l| l.trim_end_matches(',').rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    for language in [C99, Cpp17] {
        let program = build(&env, "tests/tests/capi/arguments.c", language, &[]);
        let table = passes(&env, &program, &["capi-args"]);
        let (mut words, mut known) = (BTreeSet::new(), BTreeSet::new());
        for (code, text) in table.lines().map(|l| l.split_once(' ').expect("code and words")) {
            if !text.starts_with("not a return code") {
                assert!(words.insert(text), "the same words twice: {text}");
                known.insert(code.parse::<i32>().unwrap());
            }
        }
        assert_eq!(known, numbers);
        assert!(numbers.len() > 20 && numbers.contains(&0));
    }
    broker.end();
}

/// The latencies of another reader add up. A permitted process can detach that reader, which
/// learns by whom, and no other reader is affected.
#[test]
fn latency_and_detaching_of_other_readers() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let broker = flowing(&env, "capi-others");
    let uid = rustix::process::geteuid().as_raw();
    for language in [C99, Cpp17] {
        let program = build(&env, "tests/tests/capi/others.c", language, &[]);
        let process = start(&env, &program, &["capi-others"], Stdio::piped());
        let pid = process.pid();
        let output = process.output();
        assert!(output.status.success(), "{language:?}: {}", said(&output));
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("pid {pid} uid {uid}\n"),
            "{language:?}"
        );
    }
    broker.end();
}

/// No error and no leak in any driver, checked by valgrind and AddressSanitizer. Controls: a leak,
/// and a write or read past the end of a buffer, are found. (Sanitizers do not see into the
/// library's own code; valgrind does.)
#[test]
fn memory_checkers_find_only_planted_faults() {
    if !can_build() {
        return;
    }
    let (_alone, env) = (alone(), Environment::new(LIMIT));
    let has_valgrind = Part("valgrind").needs("valgrind");
    let asan = ["-fsanitize=address"];
    let brokers = [
        kept(&env, "capi-kept"),
        flowing(&env, "capi-flow"),
        described(&env, "capi-args"),
        kept(&env, "capi-two"),
        env.broker("capi-idle", "gen:rate=1/s,size=100", &[]),
        env.broker("capi-slow", "gen:rate=200/s,size=24..400", &[]),
    ];
    let (pair, one, table): (&[&str], &[&str], &[&str]) =
        (&["capi-kept", "capi-flow"], &["capi-kept"], &["capi-args"]);
    let clean: [(&str, &[&str]); 10] = [
        ("client/c/examples/read.c", &["capi-kept", "oldest"]),
        ("client/c/examples/channels.c", one),
        ("client/c/examples/poll.c", &["capi-kept", "capi-two"]),
        ("tests/tests/capi/sizes.c", pair),
        ("tests/tests/capi/arguments.c", table),
        ("tests/tests/capi/waits.c", &["capi-idle", "capi-slow"]),
        ("tests/tests/capi/others.c", &["capi-slow"]),
        ("tests/tests/capi/stream.c", &["capi-kept", "next", "wait", "0"]),
        ("tests/tests/capi/stream.c", &["capi-kept", "read", "poll", "0"]),
        ("tests/tests/capi/planted.c", &["capi-kept", "none"]),
    ];
    let planted: [(&str, bool); 3] = [("leak", true), ("library", false), ("program", true)];
    for (source, args) in clean {
        if has_valgrind {
            let output = valgrind(&env, &build(&env, source, C99, &[]), args);
            assert!(output.status.success(), "{source}: {}", said(&output));
        }
        passes(&env, &build(&env, source, C99, &asan), args);
    }
    for (what, by_asan) in planted {
        let source = "tests/tests/capi/planted.c";
        if has_valgrind {
            let output = valgrind(&env, &build(&env, source, C99, &[]), &["capi-kept", what]);
            assert_eq!(
                output.status.code(),
                Some(9),
                "valgrind did not find {what}: {}",
                said(&output)
            );
        }
        if by_asan {
            let output = run(&env, &build(&env, source, C99, &asan), &["capi-kept", what]);
            let found = !output.status.success() && said(&output).contains("Sanitizer");
            assert!(found, "AddressSanitizer did not find {what}: {}", said(&output));
        }
    }
    brokers.into_iter().for_each(Daemon::end);
}

/// The library exports the names in the header and no others. `uninstall` removes what was
/// installed. A package is staged in DESTDIR with the paths of its PREFIX. Without cargo the
/// message says what is missing.
#[test]
fn library_is_installed_staged_and_uninstalled_cleanly() {
    if !can_build() || !needs("nm") {
        return;
    }
    let _alone = alone();
    let library = prefix().join("lib/libringweir.so");
    let nm = Command::new("nm").args(["-D", "--defined-only"]).arg(&library).output().expect("nm");
    let shown: BTreeSet<String> = String::from_utf8(nm.stdout)
        .unwrap()
        .lines()
        .filter_map(|l| l.rsplit(' ').next())
        .map(String::from)
        .collect();
    let header = std::fs::read_to_string(prefix().join("include/ringweir.h")).unwrap();
    assert!(shown.len() > 30);
    assert!(
        shown.iter().all(|name| name.starts_with("rw_") && header.contains(&format!("{name}("))),
        "{shown:?}"
    );
    assert_eq!(std::fs::read_link(&library).unwrap(), Path::new("libringweir.so.0"));

    let stage = tempfile::tempdir().unwrap();
    let args = |goal: &str| {
        [
            goal.to_string(),
            "PREFIX=/opt/ringweir".into(),
            format!("DESTDIR={}", stage.path().display()),
        ]
    };
    let files = || {
        let find = Command::new("find")
            .arg(stage.path())
            .args(["!", "-type", "d"])
            .output()
            .expect("find");
        String::from_utf8(find.stdout).unwrap().lines().count()
    };
    let made = make(&args("install"));
    assert!(made.status.success(), "{}", said(&made));
    let pc = std::fs::read_to_string(stage.path().join("opt/ringweir/lib/pkgconfig/ringweir.pc"))
        .unwrap();
    assert!(pc.contains("libdir=/opt/ringweir/lib\n") && !pc.contains('@'), "{pc}");
    assert_eq!(files(), 6);
    assert!(make(&args("uninstall")).status.success());
    assert_eq!(files(), 0);

    let target = format!("CARGO_TARGET_DIR={}", stage.path().join("target").display());
    let none = make(&["all".into(), "CARGO=capi-no-cargo".into(), target]);
    assert!(
        !none.status.success() && said(&none).contains("capi-no-cargo is missing: install Rust"),
        "{}",
        said(&none)
    );
}
