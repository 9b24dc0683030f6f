//! A publisher stays with the process that made it: a child made by fork() cannot publish, and
//! keeps neither the stream nor its readers after the parent's death.
//!
//! One test: it forks.

#![allow(unsafe_code)]

use ringweir::{End, Item, Options, Start};
use ringweir_broker::source::{Fill, Intake, Source, SourceError, WaitFor};
use ringweir_broker::{Broker, PublishError, Publisher, StreamOptions};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs `act` in a child process, whose exit status is the result.
fn in_child(act: impl FnOnce() -> u8) -> i32 {
    // SAFETY: the child only runs `act` and ends with _exit, so it never returns into the parent's
    // test.
    match unsafe { libc::fork() } {
        0 => {
            let code = act();
            // SAFETY: _exit has no preconditions; it ends this process without running exit
            // handlers.
            unsafe { libc::_exit(code.into()) }
        }
        pid => {
            assert!(pid > 0, "fork");
            pid
        }
    }
}

fn status(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is valid for the write.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

/// A source that never has anything.
struct Silent;

impl Source for Silent {
    fn fill(&mut self, _: &mut Intake) -> Result<Fill, SourceError> {
        Ok(Fill::Idle)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        WaitFor::default()
    }
}

fn publisher(directory: &Path) -> Publisher {
    Publisher::builder("forked").run_dir(directory).build().expect("the stream starts")
}

#[test]
fn a_publisher_stays_with_its_process() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("forked.sock");
    let attach = || {
        let options = Options::new("test").start(Start::Oldest);
        options.reattach(false).attach(socket.to_str().unwrap())
    };
    let mut held = Some(publisher(directory.path()));
    held.as_mut().unwrap().publish(b"one").unwrap();
    let mut reader = attach().unwrap();

    // In the child each call returns the error, and what it drops ends nothing.
    let child = in_child(|| {
        let mut publisher = held.take().expect("inherited");
        let forked = Err(PublishError::Forked);
        let all = [
            publisher.publish(b"child") == forked,
            publisher.flush() == forked,
            publisher.claim(8).err() == Some(PublishError::Forked),
            publisher.publish_batch([&b"child"[..]]).is_err(),
            (publisher.next_seq(), publisher.readers(), publisher.waited().0) == (0, 0, 0),
        ];
        drop(publisher);
        all.iter().filter(|right| !**right).count() as u8
    });
    assert_eq!(status(child), 0, "exit status of the child: calls that were not refused");
    let parent = held.as_mut().unwrap();
    parent.publish(b"two").unwrap();
    let mut got = Vec::new();
    while let Item::Datagram(mut datagram) = reader.next().unwrap() {
        got.push(datagram.to_vec().unwrap());
    }
    assert_eq!(got, [b"one", b"two"]);
    drop(held);
    assert!(matches!(reader.next().unwrap(), Item::Ended(End::Stream)));

    // A broker with a source ends while a child of its process lives, and the child ends nothing.
    let broker = Broker::builder()
        .stream(StreamOptions::new("pulled").run_dir(directory.path()), Silent)
        .start()
        .unwrap();
    let mut held = Some(broker);
    let (mut over, until_over) = UnixStream::pair().unwrap();
    let child = in_child(|| {
        drop(held.take());
        let _until_the_parent_is_done = (&until_over).read(&mut [0]);
        0
    });
    assert!(!held.as_ref().unwrap().has_ended());
    held.take().unwrap().stop().unwrap();
    std::io::Write::write_all(&mut over, b"x").unwrap();
    assert_eq!(status(child), 0);

    // A program forks, and is killed. Its child lives on and holds nothing: readers see the death
    // at once, and the name is free.
    let (mut reported, tell) = UnixStream::pair().unwrap();
    let program = in_child(|| {
        let mut publisher = publisher(directory.path());
        publisher.publish(b"three").expect("published");
        let _child = in_child(|| {
            // Until the test ends, at the latest after a minute.
            let mut byte = [0];
            let _ends = tell.set_read_timeout(Some(Duration::from_secs(60)));
            let _over = (&tell).read(&mut byte);
            0
        });
        std::io::Write::write_all(&mut &tell, b"x").expect("sent");
        std::thread::sleep(Duration::from_secs(60));
        1
    });
    let mut byte = [0];
    reported.read_exact(&mut byte).unwrap();
    let mut reader = attach().unwrap();
    // SAFETY: `kill` takes numbers and follows no pointer.
    assert_eq!(unsafe { libc::kill(program, libc::SIGKILL) }, 0);
    status(program);
    let began = Instant::now();
    loop {
        match reader.next().unwrap() {
            Item::Ended(End::BrokerGone) => break,
            Item::Ended(end) => panic!("{end:?}"),
            _ => {}
        }
        assert!(began.elapsed() < Duration::from_secs(30), "its death was not noticed");
        reader.wait(Some(Duration::from_millis(100))).unwrap();
    }
    let mut next = publisher(directory.path());
    assert!(next.summary().contains("gen 2 (adopted, from seq 1"), "{}", next.summary());
    next.publish(b"four").unwrap();
    assert_eq!(next.next_seq(), 2);
    drop(reported);
}
