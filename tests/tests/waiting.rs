//! Programs with their own poll loop: `Reader::fd` and `Reader::arm`, with the broker alive, dead
//! and back.

use ringweir::{Item, Options, Reader};
use ringweir_harness::Environment;
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::AsFd;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// The account of a poll loop.
#[derive(Debug, Default)]
struct Rounds {
    datagrams: u64,
    empty: u64,
    restarts: u64,
}

/// Reads and polls as the documentation of `Reader::arm` says, until `over`.
fn poll_loop(reader: &mut Reader, mut over: impl FnMut(&Rounds) -> bool) -> Rounds {
    let mut rounds = Rounds::default();
    while !over(&rounds) {
        match reader.next().unwrap() {
            Item::Datagram(_) => rounds.datagrams += 1,
            Item::Restarted(_) => rounds.restarts += 1,
            Item::Gap(_) | Item::Demoted(_) => {}
            Item::Ended(end) => panic!("{end:?}"),
            Item::Empty => {
                rounds.empty += 1;
                if reader.arm().unwrap() {
                    let fd = reader.as_fd();
                    let limit = ringweir_proto::os::event::timespec(Duration::from_secs(10));
                    assert_eq!(
                        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)),
                        Ok(1),
                        "nothing in 10 s"
                    );
                }
            }
        }
    }
    rounds
}

/// While its broker is gone, a polling reader sleeps between its attempts to attach, and reads on
/// when the next broker comes. Control: over a live stream the same loop runs once for every
/// datagram.
#[test]
fn a_polling_reader_sleeps_while_its_broker_is_gone() {
    let env = Environment::new(LIMIT);
    let args = ["--max-datagram", "2KiB"];
    let mut first = env.broker("polled", "gen:rate=1000/s", &args);
    let mut reader = Options::new("polls").attach(first.path()).unwrap();
    let live = poll_loop(&mut reader, |rounds| rounds.datagrams >= 500);
    assert!(live.empty > 100, "{live:?}");
    first.process.kill();
    // Read what is left, notice the death, and try for two seconds.
    let until = std::time::Instant::now() + Duration::from_secs(2);
    let alone = poll_loop(&mut reader, |_| std::time::Instant::now() >= until);
    assert!(alone.empty < 60 && alone.restarts == 0, "busy while the broker was gone: {alone:?}");
    let second = env.broker("polled", "gen:rate=1000/s", &args);
    let back = poll_loop(&mut reader, |rounds| rounds.datagrams >= 500);
    assert_eq!(back.restarts, 1, "{back:?}");
    assert!(back.empty > 100, "{back:?}");
    second.end();
}
