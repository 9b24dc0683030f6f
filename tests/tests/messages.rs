//! Messages that nobody reads, and arguments that are not text: no program waits, fails or loses
//! data over them.

use ringweir_harness::environment::{Environment, Process, wait_for};
use ringweir_harness::programs;
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(30);

/// What standard error can be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stderr {
    /// The control.
    Read,
    ReaderGone,
    FullAndUnread,
    FullDisk,
    NonBlockingAndFull,
    Closed,
}

const ALL: [Stderr; 6] = [
    Stderr::Read,
    Stderr::ReaderGone,
    Stderr::FullAndUnread,
    Stderr::FullDisk,
    Stderr::NonBlockingAndFull,
    Stderr::Closed,
];

/// A FIFO for standard error; the descriptors keep it as it is.
struct Pipe {
    reader: Option<OwnedFd>,
    _writer: OwnedFd,
}

impl Pipe {
    fn new(path: &Path, full: bool) -> Self {
        let _old = std::fs::remove_file(path);
        rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
        let open = |flags| rustix::fs::open(path, flags | OFlags::NONBLOCK, Mode::empty()).unwrap();
        let (reader, writer) = (open(OFlags::RDONLY), open(OFlags::WRONLY));
        while full && rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
        Self { reader: Some(reader), _writer: writer }
    }
}

/// A shell that gives a program this standard error; for the pipe keep what is returned.
fn shell(env: &Environment, stderr: Stderr) -> (Command, Pipe) {
    let path = env.path("stderr");
    let full = matches!(stderr, Stderr::FullAndUnread | Stderr::NonBlockingAndFull);
    let pipe = Pipe::new(&path, full);
    let redirect = match stderr {
        Stderr::FullDisk => "2>/dev/full".into(),
        Stderr::Closed => "2>&-".into(),
        // For writing only: the test has the one descriptor that could be read from.
        _ => format!("2>{}", path.display()),
    };
    let mut command = env.command_at("bash".as_ref());
    // The open file is non-blocking, so a process that shares it makes it so for all.
    let nonblocking = "import fcntl, os\n\
        fcntl.fcntl(2, fcntl.F_SETFL, fcntl.fcntl(2, fcntl.F_GETFL) | os.O_NONBLOCK)";
    let script = match stderr {
        Stderr::NonBlockingAndFull => {
            format!("exec {redirect}\npython3 -c '{nonblocking}'\nexec \"$@\"")
        }
        _ => format!("exec \"$@\" {redirect}"),
    };
    command.args(["-c", &script, "-"]);
    (command, pipe)
}

fn ends(process: &mut Process, within: Duration) -> Option<std::process::ExitStatus> {
    wait_for(within, || process.ended())
}

/// A broker whose standard error cannot be written serves readers and ends in good order, though it
/// logs when it starts and ends. Control: with a standard error that is read.
#[test]
fn a_broker_needs_nobody_who_reads_its_log() {
    for stderr in ALL {
        if stderr == Stderr::NonBlockingAndFull && !ringweir_needs::needs("python3") {
            continue;
        }
        let env = Environment::new(LIMIT);
        let (mut command, mut pipe) = shell(&env, stderr);
        command.arg(programs::path("ringd")).arg("--run-dir").arg(env.run_dir());
        command.args(["run", "--name", "log", "--capacity", "1MiB", "--source"]);
        command.args(["gen:rate=20000/s,size=64"]);
        let mut broker = env.start(command);
        let socket = env.run_dir().join("log.sock");
        assert!(
            wait_for(SOON, || socket.exists().then_some(())).is_some(),
            "{stderr:?}: no socket"
        );
        if stderr == Stderr::ReaderGone {
            pipe.reader = None;
        }
        for _ in 0..5 {
            let read = env.run("ringcat", &["log", "-n", "20", "--from", "latest", "--verify"]);
            assert!(read.status.success(), "{stderr:?}: {read:?}");
        }
        broker.signal(Signal::TERM);
        let status = ends(&mut broker, SOON);
        assert_eq!(status.and_then(|s| s.code()), Some(0), "{stderr:?}");
        assert_eq!(env.left(), Vec::<std::path::PathBuf>::new(), "{stderr:?}");
    }
}

/// A tool whose error message cannot be written ends with the status of the error.
#[test]
fn tools_end_with_their_status_whatever_stderr_is() {
    let env = Environment::new(LIMIT);
    let cases: [(&str, &[&str], i32); 6] = [
        ("ringcat", &["absent"], 1),
        ("ringstat", &["absent"], 1),
        ("ringctl", &["show", "absent"], 1),
        ("ringsend", &["udp:no-address"], 2),
        ("ringgen", &["--rate", "1MB/s", "--size", "1", "--channels", "99999"], 2),
        ("ringd", &["--config", "/absent"], 1),
    ];
    for stderr in [Stderr::Read, Stderr::FullDisk, Stderr::FullAndUnread, Stderr::Closed] {
        for (program, args, expected) in cases {
            let (mut command, _pipe) = shell(&env, stderr);
            command.arg(programs::path(program)).args(args).stdout(Stdio::null());
            let mut process = env.start(command);
            let status = ends(&mut process, SOON);
            let code = status.and_then(|s| s.code());
            assert_eq!(code, Some(expected), "{program} with {stderr:?}: {status:?}");
        }
    }
}

/// An argument that is no UTF-8 is a usage error, or a file name.
#[test]
fn arguments_need_not_be_utf8() {
    let env = Environment::new(LIMIT);
    let odd = OsStr::from_bytes(b"m\xe4rz");
    for program in ["ringd", "ringcat", "ringstat", "ringctl", "ringsend", "ringgen"] {
        let mut command = env.command(program);
        command.arg(odd).stdout(Stdio::null());
        let output = env.start(command).output();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{program}: {} {text}", output.status);
        assert!(!text.contains("panicked"), "{program}: {text}");
    }
    // As the name of a file it is as good as any.
    let broker = env.broker("odd", "gen:rate=1000/s,size=64,count=10", &["--linger", "60s"]);
    let file = env.path("").join(odd);
    let mut command = env.command("ringcat");
    command.args(["odd", "--from", "0", "-n", "10", "-w"]).arg(&file);
    assert!(env.start(command).wait().success());
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 640);
    broker.end();
}

/// `ringd sources` into a full disk fails; into a pipe whose reader has gone it ends quietly.
#[test]
fn printed_lists_survive_their_reader() {
    let env = Environment::new(LIMIT);
    for (to, code) in [("/dev/full", 1), ("/dev/null", 0)] {
        let mut command = env.command("ringd");
        command.arg("sources").stdout(File::options().write(true).open(to).unwrap());
        let output = env.start(command).output();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{to}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
    let path = env.path("gone");
    let mut pipe = Pipe::new(&path, false);
    let to = File::options().write(true).open(&path).unwrap();
    pipe.reader = None;
    let mut command = env.command("ringd");
    command.arg("sources").stdout(to);
    assert_eq!(env.start(command).wait().code(), Some(0));
}
