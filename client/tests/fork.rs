//! A reader stays with the process that attached: a child made by fork() cannot use it, and does
//! not keep its index after the parent's death.
//!
//! One test: it forks, and the stream sets an environment variable.

#![allow(unsafe_code)]

use ringweir::{Error, Item, Options, Start};
use ringweir_testing::Stream;
use std::os::fd::AsFd;
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
    libc::WEXITSTATUS(status)
}

fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "never came: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_reader_stays_with_the_process_that_attached() {
    let stream = Stream::start("forked");
    let options = Options::new("forks").start(Start::Oldest);
    let mut held = Some(options.attach("forked").expect("attached"));
    stream.publish(b"one");
    stream.publish(b"two");

    // In the child each call returns the error, and none of them moves the parent's reader.
    let child = in_child(|| {
        let mut reader = held.take().expect("inherited");
        let forked = |e: &Error| matches!(e, Error::Forked { .. });
        let all = [
            reader.next().is_err_and(|e| forked(&e)),
            reader.wait(Some(Duration::ZERO)).is_err_and(|e| forked(&e)),
            reader.arm().is_err_and(|e| forked(&e)),
            reader.release().is_err_and(|e| forked(&e)),
            reader.next().is_err_and(|e| e.to_string().contains("attach anew in the child")),
        ];
        drop(reader);
        // The number of the closed socket may be used by another file now; nothing closes it again.
        let used = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("fd");
        rustix::io::fcntl_getfd(used.as_fd()).expect("open");
        // The child may attach on its own.
        let mut own = options.attach("forked").expect("attached");
        let reads = matches!(own.next(), Ok(Item::Datagram(d)) if d.seq() == 0);
        u8::from(all != [true; 5]) + 2 * u8::from(!reads)
    });
    assert_eq!(status(child), 0);
    let mut reader = held.expect("still the parent's");
    // Control: the parent reads everything, and its broker still has it attached.
    for expected in 0..2 {
        let seq = match reader.next() {
            Ok(Item::Datagram(datagram)) => datagram.seq(),
            other => panic!("{other:?}"),
        };
        assert_eq!(seq, expected);
    }
    until("the child's reader is gone, the parent's is there", || stream.readers() == 1);

    // A process attaches, forks a child that outlives it, and is killed: its index is free.
    let (hold, release) = std::io::pipe().expect("a pipe");
    let mut release = Some(release);
    let parent = in_child(|| {
        let _reader = options.attach("forked").expect("attached");
        release.take();
        let _child = in_child(|| {
            let _until_the_test_ends = std::io::Read::read(&mut &hold, &mut [0]);
            0
        });
        // SAFETY: raise has no memory preconditions; the signal goes to this process alone.
        unsafe { libc::raise(libc::SIGKILL) };
        1
    });
    status(parent);
    until("the index of the dead parent is free", || stream.readers() == 1);
    drop(reader);
    until("no reader is left", || stream.readers() == 0);
    drop(release);
}
