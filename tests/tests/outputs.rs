//! Where `ringcat` and `ringgen` write: outputs that take nothing, that are full, that somebody
//! made non-blocking, and names of files.

use ringweir_harness::{Daemon, Environment, wait_for};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A stream whose `count` datagrams of `size` bytes stay in the ring.
fn kept(env: &Environment, name: &str, count: u64, size: u64) -> Daemon {
    let source = format!("gen:rate=max,size={size},count={count}");
    let broker = env.broker(name, &source, &["--linger", "forever", "--capacity", "16MiB"]);
    let done = format!("{count} datagrams published");
    let full =
        wait_for(Duration::from_secs(20), || broker.process.stderr().contains(&done).then_some(()));
    assert!(full.is_some(), "{}", broker.process.stderr());
    broker
}

fn pipe_at(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

/// A named pipe that nobody opens for reading, and one that nobody reads, end with `--timeout` and
/// with one signal. What was read and not written is in the account. Control: a pipe that is read
/// gets everything.
#[test]
fn an_output_that_takes_nothing_is_given_up() {
    let env = Environment::new(LIMIT);
    let broker = kept(&env, "stuck", 2000, 1000);
    let (closed, unread) = (env.path("closed"), env.path("unread"));
    pipe_at(&closed);
    pipe_at(&unread);
    let _held = rustix::fs::open(&unread, OFlags::RDWR, Mode::empty()).unwrap();
    for (pipe, words) in [(&closed, "nobody has opened"), (&unread, "takes nothing any more")] {
        let cat = |more: &[&str]| {
            let mut command = env.command("ringcat");
            command.args(["stuck", "--from", "oldest", "-w", pipe.to_str().unwrap()]).args(more);
            env.start(command)
        };
        let output = cat(&["--timeout", "500ms"]).output();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));

        let process = cat(&[]);
        // Its handlers are in place once it has attached.
        let attached = wait_for(Duration::from_secs(20), || {
            let seen = env.run("ringstat", &["stuck", "--json"]);
            String::from_utf8_lossy(&seen.stdout).contains("\"label\":\"ringcat\"").then_some(())
        });
        assert!(attached.is_some());
        process.signal(Signal::TERM);
        let output = process.output();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
        if pipe == &unread {
            assert!(said(&output).contains("of them are not in the output"), "{}", said(&output));
        }
    }

    let path = closed.clone();
    let reader = std::thread::spawn(move || std::fs::read(path).unwrap().len());
    let args = ["stuck", "--from", "oldest", "-n", "2000", "-w", closed.to_str().unwrap()];
    let output = env.run("ringcat", &args);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(reader.join().unwrap(), 2_000_000);
    broker.end();
}

/// The same for `ringgen` and one signal, which it passes on as the reason of its end.
#[test]
fn a_generator_ends_although_nobody_reads_it() {
    use std::os::unix::process::ExitStatusExt;
    let env = Environment::new(LIMIT);
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut command = env.command("ringgen");
    command.args(["--rate", "max"]).stdout(Stdio::from(writer));
    let process = env.start(command);
    let (pid, mut peek) = (process.pid(), [0; 1]);
    // Once the pipe has something in it, the handlers are in place.
    assert_eq!(rustix::io::read(&reader, &mut peek), Ok(1), "{pid}");
    process.signal(Signal::TERM);
    let output = process.output();
    assert_eq!(output.status.signal(), Some(15), "{}", said(&output));
    assert!(said(&output).contains("ends within a datagram"), "{}", said(&output));
}

/// Somebody else may have made standard output non-blocking, and its reader may be slow: everything
/// arrives. Control: the descriptor really is non-blocking and full.
#[test]
fn a_nonblocking_output_gets_everything() {
    let env = Environment::new(LIMIT);
    let broker = kept(&env, "slow", 3000, 500);
    let generate = ["--count", "3000", "--size", "500", "--framing", "fixed", "--rate", "max"];
    for (program, args) in
        [("ringcat", &["slow", "--from", "oldest", "-n", "3000"][..]), ("ringgen", &generate)]
    {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let full: OwnedFd = writer.try_clone().unwrap();
        let mut command = env.command(program);
        command.args(args).stdout(Stdio::from(writer));
        let process = env.start(command);
        let stuck = wait_for(Duration::from_secs(20), || {
            let mut fds = [rustix::event::PollFd::new(&full, rustix::event::PollFlags::OUT)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            (rustix::event::poll(&mut fds, Some(&now)) == Ok(0)).then_some(())
        });
        assert!(stuck.is_some(), "{program} has not filled its output");
        drop(full);
        let mut got = Vec::new();
        File::from(reader).read_to_end(&mut got).unwrap();
        let output = process.output();
        assert!(output.status.success(), "{program}: {}", said(&output));
        assert_eq!(got.len(), 1_500_000, "{program}");
    }
    broker.end();
}

/// A file that may not grow (`ulimit -f`) and a disk that is full: the capture holds whole records,
/// and the account says how many are missing. Control: without the limit all are in it.
#[test]
fn a_full_disk_leaves_whole_records_and_an_account() {
    let env = Environment::new(LIMIT);
    let broker = kept(&env, "full", 1000, 1000);
    let file = env.path("x.pcap");
    let cat = |limit: &str| {
        let mut command = env.command_at("sh".as_ref());
        let line = format!(
            "ulimit -f {limit}; exec {} full --from oldest -n 1000 -w {}",
            env.command("ringcat").get_program().to_str().unwrap(),
            file.display()
        );
        command.args(["-c", &line]);
        env.start(command).output()
    };
    // Blocks of 512 bytes, or of 1024 in some shells.
    let output = cat("100");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let records = (std::fs::metadata(&file).unwrap().len() - 24) as f64 / 1016.0;
    assert!(records.fract() == 0.0 && (50.0..=101.0).contains(&records), "{records}");
    let missing =
        format!("; {} of them are not in the output", said_read(&output) - records as u64);
    let text = said(&output);
    assert!(text.contains("File too large") && text.contains(&missing), "{missing}: {text}");

    assert!(cat("unlimited").status.success());
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 24 + 1000 * 1016);

    let mut command = env.command("ringcat");
    command.args(["full", "--from", "oldest", "-n", "10"]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let output = env.start(command).output();
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(text.contains("No space left") && text.contains("10 of them are not"), "{text}");
    broker.end();
}

/// How many datagrams a summary says were delivered.
fn said_read(output: &std::process::Output) -> u64 {
    let text = said(output);
    let words: Vec<_> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "delivered").unwrap_or_else(|| panic!("{text}"));
    words[at - 1].parse().unwrap_or_else(|_| panic!("{text}"))
}

/// The name of the file says what it holds, and `-` is standard output.
#[test]
fn the_name_of_the_file_is_understood() {
    let env = Environment::new(LIMIT);
    let broker = kept(&env, "names", 10, 100);
    let cat = |file: &str| {
        let mut command = env.command("ringcat");
        command.args(["names", "--from", "oldest", "-n", "10", "-w", file]);
        command.current_dir(env.path("")).stdout(Stdio::piped());
        env.start(command).output()
    };
    assert!(cat("x.pcap").status.success());
    let file = std::fs::read(env.path("x.pcap")).unwrap();
    assert_eq!((file.len(), &file[..4]), (24 + 10 * 116, &0xa1b2_3c4d_u32.to_le_bytes()[..]));
    let output = cat("-");
    assert_eq!((output.stdout.len(), env.path("-").exists()), (1000, false));
    let output = cat("x.pcapng");
    assert_eq!((output.status.code(), env.path("x.pcapng").exists()), (Some(2), false));
    assert!(said(&output).contains("name it .pcap"), "{}", said(&output));
    // Control: any other name is bytes.
    assert!(cat("x").status.success());
    assert_eq!(std::fs::metadata(env.path("x")).unwrap().len(), 1000);
    broker.end();
}
