//! `ringd` as a service: its messages to its manager, sockets that it is handed, streams that come
//! and go with its file, the units and their installation. There is no systemd here: the test is
//! the manager.

use ringweir::{Item, Options};
use ringweir_harness::environment::{Environment, Process, wait_for};
use ringweir_harness::programs;
use ringweir_needs::{Part, needs};
use ringweir_proto::os::socket;
use rustix::process::Signal;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn until<T>(what: &str, process: &Process, found: impl FnMut() -> Option<T>) -> T {
    wait_for(LIMIT, found).unwrap_or_else(|| panic!("{what}: {}", process.stderr()))
}

/// Writes a file of streams: name and other lines of each.
fn put(env: &Environment, streams: &[(&str, &str)]) -> PathBuf {
    let path = env.path("ringd.toml");
    let one = |(name, more): &(&str, &str)| {
        format!(
            "[[stream]]\nname = '{name}'\nsource = 'gen:rate=100/s,size=64'\ndepth = \
            32768\ncapacity = '4MiB'\n{more}\n"
        )
    };
    // Replaces the old one in one step, as editors do.
    let new = env.path("ringd.toml.new");
    std::fs::write(&new, streams.iter().map(one).collect::<String>()).unwrap();
    std::fs::rename(&new, &path).unwrap();
    path
}

fn serve(env: &Environment, file: &Path) -> Command {
    let mut command = env.command("ringd");
    command.arg("--config").arg(file).arg("--run-dir").arg(env.run_dir());
    command
}

/// Receives messages to the manager until one begins with `last`.
fn receive(manager: &UnixDatagram, last: &str) -> Vec<String> {
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let mut received = Vec::new();
    loop {
        let mut room = [0; 512];
        let n = manager
            .recv(&mut room)
            .unwrap_or_else(|e| panic!("waiting for {last}: {e}: {received:?}"));
        received.push(String::from_utf8_lossy(&room[..n]).into_owned());
        if received.last().is_some_and(|h| h.starts_with(last)) {
            return received;
        }
    }
}

/// Ready when readers can attach, alive again and again, reloading, ready again, stopping; through
/// a path and through an abstract name. Controls: a stopped broker sends nothing, and one without a
/// manager runs.
#[test]
fn the_manager_is_notified_of_every_state() {
    let env = Environment::new(2 * LIMIT);
    let file = put(&env, &[("service-a", ""), ("service-b", "")]);
    let path = env.path("notify");
    let abstract_name = format!("ringweir-service-{}", std::process::id());
    let managers = [
        (UnixDatagram::bind(&path).unwrap(), path.display().to_string()),
        (
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap())
                .unwrap(),
            format!("@{abstract_name}"),
        ),
    ];
    for (manager, name) in managers {
        let mut command = serve(&env, &file);
        command.env("NOTIFY_SOCKET", &name).env("WATCHDOG_USEC", "200000");
        let mut broker = env.start(command);
        let received = receive(&manager, "READY=1");
        assert_eq!(received, ["READY=1\nSTATUS=2 streams: service-a service-b"]);
        assert!(socket::connect(&env.run_dir().join("service-b.sock")).is_ok(), "ready is ready");
        receive(&manager, "WATCHDOG=1");
        receive(&manager, "WATCHDOG=1");

        broker.stop();
        manager.set_nonblocking(true).unwrap();
        while manager.recv(&mut [0; 512]).is_ok() {}
        std::thread::sleep(Duration::from_millis(500));
        assert!(
            manager.recv(&mut [0; 512]).is_err(),
            "the control: who does not live says nothing"
        );
        manager.set_nonblocking(false).unwrap();
        broker.signal(Signal::CONT);
        receive(&manager, "WATCHDOG=1");

        broker.signal(Signal::HUP);
        let reloading = receive(&manager, "RELOADING=1");
        assert!(reloading.last().unwrap().contains("MONOTONIC_USEC="));
        receive(&manager, "READY=1");
        broker.signal(Signal::TERM);
        receive(&manager, "STOPPING=1");
        assert!(broker.wait().success(), "{}", broker.stderr());
    }
    // Inherited from a service that has ended: the broker warns, and serves without a manager.
    let mut command = serve(&env, &file);
    command.env("NOTIFY_SOCKET", env.path("nobody"));
    let mut broker = env.start(command);
    let warned = || broker.stderr().contains("NOTIFY_SOCKET=").then_some(());
    assert!(wait_for(LIMIT, warned).is_some(), "{}", broker.stderr());
    let up = || (!ringweir_proto::os::paths::streams_in(&env.run_dir()).is_empty()).then_some(());
    assert!(wait_for(LIMIT, up).is_some(), "{}", broker.stderr());
    broker.signal(Signal::TERM);
    assert!(broker.wait().success(), "{}", broker.stderr());
}

/// The file changes: one stream goes, one comes, and the third is not affected: its reader receives
/// every number. A wrong file changes nothing. Controls: without a signal nothing happens; without
/// a file the same signal ends the broker.
#[test]
fn reload_adds_and_ends_streams_without_affecting_others() {
    let env = Environment::new(2 * LIMIT);
    let file = put(&env, &[("service-stays", ""), ("service-goes", "")]);
    let mut broker = env.start(serve(&env, &file));
    let socket = |name: &str| env.run_dir().join(format!("{name}.sock"));
    let path = |name: &str| socket(name).to_str().unwrap().to_owned();
    until("both are there", &broker, || broker.stderr().contains("service-goes gen").then_some(()));
    until("both are there", &broker, || socket("service-goes").exists().then_some(()));
    let mut stays = Options::new("stays").attach(&path("service-stays")).unwrap();
    let mut goes = Options::new("goes").attach(&path("service-goes")).unwrap();
    let mut next = None;
    let mut follow = |count: u32| {
        let mut left = count;
        while left > 0 {
            match stays.next().unwrap() {
                Item::Datagram(d) => {
                    assert_eq!(next.unwrap_or(d.seq()), d.seq());
                    next = Some(d.seq() + 1);
                    left -= 1;
                }
                Item::Empty => _ = stays.wait(Some(Duration::from_secs(1))).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    };
    follow(100);

    put(&env, &[("service-comes", ""), ("service-stays", "")]);
    follow(100);
    assert!(!socket("service-comes").exists(), "the control: nothing happens unasked");
    broker.signal(Signal::HUP);
    until("one comes", &broker, || socket("service-comes").exists().then_some(()));
    until("one goes", &broker, || (!socket("service-goes").exists()).then_some(()));
    follow(100);
    let _end = until("its reader is notified", &broker, || match goes.next().unwrap() {
        Item::Ended(end) => Some(end),
        Item::Restarted(_) | Item::Demoted(_) | Item::Empty | Item::Datagram(_) | Item::Gap(_) => {
            None
        }
    });
    let mut comes = Options::new("comes").attach(&path("service-comes")).unwrap();
    until("it brings datagrams", &broker, || {
        matches!(comes.next().unwrap(), Item::Datagram(_)).then_some(())
    });
    // What a sandboxed thread starts is in the same sandbox.
    for task in std::fs::read_dir(format!("/proc/{}/task", broker.pid())).unwrap().flatten() {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"), "{status}");
    }

    // A stream that cannot start, one with changed keys, and a file that is no file of streams.
    put(
        &env,
        &[
            ("service-stays", "readers-max = 3"),
            ("service-comes", ""),
            ("service-no", "group = 'service-none'"),
        ],
    );
    broker.signal(Signal::HUP);
    for words in
        ["service-stays: stays as it is", "stream \"service-no\": --group \"service-none\""]
    {
        until(words, &broker, || broker.stderr().contains(words).then_some(()));
    }
    std::fs::write(&file, "[[stream]]\nnmae = 'x'\n").unwrap();
    broker.signal(Signal::HUP);
    until("reported", &broker, || broker.stderr().contains("nothing was changed").then_some(()));
    follow(100);
    broker.signal(Signal::TERM);
    assert!(broker.wait().success(), "{}", broker.stderr());
    drop((stays, goes, comes));

    let plain = env.broker("service-plain", "gen:rate=10/s,size=64", &[]);
    plain.process.signal(Signal::HUP);
    let mut plain = plain;
    assert!(plain.process.wait().success(), "the control: without a file it ends");
}

/// `ringctl reload` prints what became of each stream, also through a stream that ends by this, and
/// whether the file is what runs now. Controls: another user, a broker without a file, a wrong
/// file; each time nothing changes.
#[test]
fn reload_reports_what_it_changed() {
    let env = Environment::new(LIMIT);
    let file = put(&env, &[("service-ask", ""), ("service-old", "")]);
    let mut broker = env.start(serve(&env, &file));
    until("both are there", &broker, || broker.stderr().contains("service-old gen").then_some(()));
    let reload = |stream: &str, more: &[&str]| {
        let done = env.run("ringctl", &[&["reload", stream], more].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code(), text(&done.stdout), text(&done.stderr))
    };
    let ok = |text: &str| (Some(0), text.to_owned(), String::new());
    assert_eq!(reload("service-ask", &[]), ok("nothing has changed\n"));
    put(&env, &[("service-ask", ""), ("service-new", "")]);
    // Asked through the stream that the reload ends.
    assert_eq!(reload("service-old", &[]), ok("ended   service-old\nbegun   service-new\n"));
    put(
        &env,
        &[
            ("service-ask", "readers-max = 3"),
            ("service-no", "group = 'service-none'"),
            ("service-new", ""),
        ],
    );
    let (status, report, _) = reload("service-ask", &[]);
    assert_eq!(status, Some(1), "the file is not what runs: {report}");
    assert!(report.starts_with(
        "stays   service-ask: its changes need a restart\nfailed  service-no: \
        --group \"service-none\""
    ));
    let (status, report, _) = reload("service-ask", &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((status, &json["changes"][1]["outcome"]), (Some(1), &"failed".into()), "{report}");
    std::fs::write(&file, "[[stream]]\nnmae = 'x'\n").unwrap();
    let (status, report, why) = reload("service-ask", &[]);
    assert_eq!((status, report.as_str()), (Some(1), ""));
    assert!(why.contains("nmae") && why.contains("nothing was changed"), "{why}");
    let (status, _, why) = reload("service-nobody", &[]);
    assert!(status == Some(1) && why.contains("service-nobody"), "{why}");
    if rustix::process::geteuid().is_root() {
        std::fs::write(&file, "").unwrap();
        let mut handshaking = env.command_as_nobody("ringctl");
        handshaking.args(["reload", "service-ask"]).stdout(Stdio::piped());
        let handshaking = env.start(handshaking).output();
        assert_eq!(handshaking.status.code(), Some(1));
        assert!(!said(&handshaking).is_empty());
        let read = env.run("ringcat", &["service-ask", "-n", "2", "--verify"]);
        assert!(read.status.success(), "it is as before: {}", said(&read));
    }
    broker.signal(Signal::TERM);
    assert!(broker.wait().success(), "{}", broker.stderr());
    let plain = env.broker("service-plain-ask", "gen:rate=10/s,size=64", &[]);
    let (status, _, why) = reload("service-plain-ask", &[]);
    assert!(status == Some(1) && why.contains("started without --config"), "{why}");
    plain.end();
}

/// A source of a kind that was not there at the start is refused because its rights were given up,
/// unless the file had announced it; the other streams continue in either case.
#[test]
fn later_sources_must_be_announced_at_the_start() {
    let env = Environment::new(LIMIT);
    for (later, comes) in [("", false), ("later = ['udp']\n", true)] {
        let file = env.path("later.toml");
        let one = "[[stream]]\nname = 'service-one'\nsource = 'gen:rate=10/s,size=64'\n";
        let two = "[[stream]]\nname = 'service-two'\nsource = 'udp:127.0.0.1:0'\n";
        std::fs::write(&file, format!("{later}{one}")).unwrap();
        let mut broker = env.start(serve(&env, &file));
        // Ready when the lock file and the log line are there; a signal that comes earlier stays
        // pending.
        until("it is there", &broker, || broker.stderr().contains("service-one gen").then_some(()));
        std::fs::write(&file, format!("{later}{one}{two}")).unwrap();
        broker.signal(Signal::HUP);
        let words = if comes {
            "service-two gen 1"
        } else {
            "stream \"service-two\": source \"udp:127.0.0.1:0\""
        };
        until(words, &broker, || broker.stderr().contains(words).then_some(()));
        assert_eq!(broker.stderr().contains("later = ["), !comes, "{}", broker.stderr());
        let read = env.run("ringcat", &["service-one", "-n", "2", "--verify"]);
        assert!(read.status.success(), "{}", said(&read));
        broker.signal(Signal::TERM);
        assert!(broker.wait().success(), "{}", broker.stderr());
    }
}

/// A socket that was opened before the start is used and not removed, and clients that connected
/// before the start are served. Control: another one, which no stream uses, is reported.
#[test]
fn a_passed_socket_is_served_and_stays() {
    let env = Environment::new(LIMIT);
    let path = env.run_dir().join("service-act.sock");
    let (ours, other) = (
        socket::listen(&path, 0o660, None).unwrap().0,
        socket::listen(&env.path("other.sock"), 0o600, None).unwrap().0,
    );
    let early = socket::connect(&path).unwrap();
    socket::send(&early, &ringweir_proto::control::Request::Describe.encode(), &[]).unwrap();
    let mut command = env.command_at("sh".as_ref());
    command
        .args(["-c", "LISTEN_PID=$$ exec \"$@\" 3<&0 4<&1 0</dev/null 1>&2", "-"])
        .arg(programs::path("ringd"));
    command
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", "service-act:other")
        .arg("--run-dir")
        .arg(env.run_dir());
    command.args(["run", "--name", "service-act", "--source", "gen:rate=100/s,size=64"]);
    // Passed as descriptors that a command inherits anyway; the copies here are closed with the
    // command.
    command.stdin(ours).stdout(other);
    let broker = env.broker_of("service-act", command);
    let answer = ringweir_proto::control::Reply::decode(&socket::receive(&early).unwrap().bytes);
    assert!(matches!(answer, Ok(ringweir_proto::control::Reply::Described(_))), "{answer:?}");
    let read = env.run("ringcat", &["service-act", "-n", "3", "--verify"]);
    assert!(read.status.success(), "{}", said(&read));
    let log = broker.process.stderr();
    assert!(log.contains("other.sock: passed by the service manager"), "{log}");
    broker.end();
    assert!(path.exists(), "it belongs to the process that made it");
    std::fs::remove_file(&path).unwrap();
}

/// Programs are installed without symbols, with their pages, completions and units in the right
/// places; systemd's own checker accepts the units, and its exposure figure is low. Controls: the
/// program that was built has symbols; a unit with a fault is noticed; `uninstall` leaves no file.
#[test]
fn units_are_installed_and_valid() {
    if !needs("make") || !needs("strip") {
        return;
    }
    let env = Environment::new(LIMIT);
    let bins = programs::build();
    let root = env.path("root");
    let install = |target: &str| {
        let mut make = Command::new("make");
        make.args(["-C", concat!(env!("CARGO_MANIFEST_DIR"), "/../broker"), target, "PREFIX=/usr"]);
        make.arg(format!("DESTDIR={}", root.display()));
        make.arg(format!("CARGO_TARGET_DIR={}", bins.parent().unwrap().display()));
        make.arg(if bins.ends_with("release") { "PROFILE=release" } else { "PROFILE=dev" });
        let done = make.env_remove("MAKEFLAGS").output().expect("make");
        assert!(done.status.success(), "{}", said(&done));
    };
    install("install");
    let units = root.join("usr/lib/systemd/system");
    for file in [
        "usr/bin/ringd",
        "usr/bin/ringcat",
        "usr/share/man/man1/ringcat.1",
        "usr/share/man/man5/ringd.toml.5",
        "usr/share/bash-completion/completions/ringctl",
        "usr/share/zsh/site-functions/_ringctl",
        "usr/share/fish/vendor_completions.d/ringctl.fish",
        "usr/lib/sysusers.d/ringweir.conf",
        "usr/lib/tmpfiles.d/ringweir.conf",
    ] {
        assert!(root.join(file).exists(), "{file}");
    }
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    let (built, installed) = (size(&programs::path("ringd")), size(&root.join("usr/bin/ringd")));
    assert!(installed * 2 < built, "{installed} of {built} bytes");
    let mut ringd = env.command_at(&root.join("usr/bin/ringd"));
    ringd.arg("--version");
    let ringd = env.start(ringd).output();
    assert!(ringd.status.success(), "{}", said(&ringd));
    if Part("systemd-analyze").needs("systemd-analyze") {
        // An instance of it, with the present path of the program.
        let dir = env.path("units");
        std::fs::create_dir(&dir).unwrap();
        let service = std::fs::read_to_string(units.join("ringd@.service")).unwrap();
        assert!(service.contains("ExecStart=/usr/bin/ringd --config"), "{service}");
        let here =
            service.replace("/usr/bin/ringd", &programs::path("ringd").display().to_string());
        let (unit, socket) = (dir.join("ringd@x.service"), dir.join("ringd@x.socket"));
        std::fs::write(&unit, &here).unwrap();
        std::fs::copy(units.join("ringd@.socket"), &socket).unwrap();
        let verify = |files: &[&Path]| {
            let done = Command::new("systemd-analyze")
                .args(["verify", "--man=no"])
                .args(files)
                .output()
                .unwrap();
            (done.status.success(), said(&done))
        };
        assert_eq!(verify(&[&unit, &socket]), (true, String::new()));
        let faulty = dir.join("ringd@y.service");
        std::fs::write(&faulty, here.replace("UMask=0077", "UMusk=0077")).unwrap();
        assert!(verify(&[&faulty]).1.contains("UMusk"), "the control");
        let judged = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--threshold=30"])
            .arg(&unit)
            .output()
            .unwrap();
        let text = said(&judged);
        let score = text.lines().find(|l| l.contains("Overall exposure level")).unwrap_or("");
        assert!(judged.status.success() && !score.is_empty(), "{text}");
        eprintln!("{}", score.trim());
    }
    let part = Part("systemd-sysusers");
    if part.needs("systemd-sysusers") && part.needs_root() {
        std::fs::create_dir_all(root.join("etc")).unwrap();
        for (program, args) in [("systemd-sysusers", &[][..]), ("systemd-tmpfiles", &["--create"])]
        {
            let mut command = Command::new(program);
            command.args(args).arg(format!("--root={}", root.display()));
            let done = command.output().unwrap();
            assert!(done.status.success(), "{program}: {}", said(&done));
        }
        let users = std::fs::read_to_string(root.join("etc/passwd")).unwrap();
        assert!(users.contains("ringweir:") && users.contains("/run/ringweir"), "{users}");
        assert!(root.join("run/ringweir").is_dir());
    }
    install("uninstall");
    for dir in ["usr/bin", "usr/share", "usr/lib"] {
        let find = Command::new("find").arg(root.join(dir)).args(["!", "-type", "d"]).output();
        assert_eq!(String::from_utf8(find.expect("find").stdout).unwrap(), "", "{dir}");
    }
}

/// `make install` in the root of the project installs programs and library. Control: the same in
/// `broker/` installs no library.
#[test]
fn everything_is_installed_by_one_command() {
    if !needs("make") {
        return;
    }
    for (dir, library) in [("/..", true), ("/../broker", false)] {
        let dir = env!("CARGO_MANIFEST_DIR").to_owned() + dir;
        // Only says what it would do.
        let mut make = Command::new("make");
        make.args(["-n", "-C", &dir, "install", "PREFIX=/opt/x", "DESTDIR=/stage"]);
        let done = make.env_remove("MAKEFLAGS").output().expect("make");
        assert!(done.status.success(), "{}", said(&done));
        let text = String::from_utf8(done.stdout).unwrap();
        assert!(text.contains("/stage/opt/x/bin") && text.contains("man --dir"), "{text}");
        assert_eq!(text.contains("/stage/opt/x/lib/pkgconfig/ringweir.pc"), library, "{text}");
        assert_eq!(text.contains("/stage/opt/x/include/ringweir.h"), library, "{text}");
    }
}
