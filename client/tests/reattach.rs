//! A restarted broker that does not answer does not block its readers: each call of next() returns
//! at once, and the reader attaches when the broker answers.
//!
//! One test: the stream sets an environment variable.

use ringweir::{Item, Options, Start, Waited};
use ringweir_testing::Stream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A blocking connect or receive would wait for ten seconds.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn silent_broker_does_not_block_a_reader() {
    let stream = Stream::with_metadata("silent", &[("life", "1")]);
    let mut reader = Options::new("waits").start(Start::Oldest).attach("silent").expect("attached");
    stream.publish(b"before");
    assert!(matches!(reader.next(), Ok(Item::Datagram(_))));

    stream.stop_answering();
    stream.restart(&[("life", "2")]);
    // The reader notices the hang-up, sends its request, and waits for the answer without blocking.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(500) {
        let call = Instant::now();
        assert!(matches!(reader.next(), Ok(Item::Empty)), "there is no answer yet");
        assert!(call.elapsed() < AT_ONCE, "next() took {:?}", call.elapsed());
        let call = Instant::now();
        reader.wait(Some(Duration::from_millis(10))).expect("waited");
        assert!(call.elapsed() < AT_ONCE, "wait() took {:?}", call.elapsed());
    }
    // Its fd stays silent meanwhile. Control: it becomes readable when the answer has come.
    assert!(reader.arm().expect("armed"));
    let readable = |reader: &ringweir::Reader, ms: i64| {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let limit = Timespec { tv_sec: 0, tv_nsec: ms * 1_000_000 };
        let fd = reader.as_fd();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)) == Ok(1)
    };
    assert!(!readable(&reader, 200), "nothing has come");
    stream.resume_answering();
    let began = Instant::now();
    while !readable(&reader, 900) {
        assert!(began.elapsed() < Duration::from_secs(60), "the answer wakes nobody");
    }
    let restart = loop {
        match reader.next().expect("attached again") {
            Item::Restarted(restart) => break restart,
            Item::Empty => {
                assert!(began.elapsed() < Duration::from_secs(60), "never attached again");
                assert_ne!(reader.wait(Some(AT_ONCE)).expect("waited"), Waited::Interrupted);
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(!restart.adopted && restart.generation == 2);
    assert_eq!(reader.meta("life"), Some("2"));
    stream.publish(b"after");
    assert!(matches!(reader.next(), Ok(Item::Datagram(_))));
    assert_eq!(stream.readers(), 1);
}
