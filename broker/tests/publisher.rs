//! Programs that publish by themselves: what a publisher promises, whatever its program does.
//!
//! Every test checks the account of a reader: published = delivered + lost.

use ringweir::{Account, Cause, End, Gap, Item, Options, Reader, Start};
use ringweir_broker::source::{Arrival, Fill, Intake, Source, SourceError, WaitFor};
use ringweir_broker::{Broker, Layer, PublishError, Publisher, StreamOptions};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A run directory, and streams in it.
struct Streams(tempfile::TempDir);

impl Streams {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn options(&self, name: &str) -> StreamOptions {
        StreamOptions::new(name).run_dir(self.0.path()).max_datagram(4096).capacity(1 << 20)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.sock"))
    }

    fn attach(&self, name: &str, options: Options) -> Reader {
        options.attach(self.socket(name).to_str().unwrap()).expect("attached")
    }
}

fn from_oldest() -> Options {
    Options::new("test").start(Start::Oldest)
}

/// Everything that is there now: datagrams, and losses before the ring.
fn now(reader: &mut Reader) -> (Vec<Vec<u8>>, Vec<(u64, bool)>) {
    let (mut datagrams, mut losses) = (Vec::new(), Vec::new());
    loop {
        match reader.next().unwrap() {
            Item::Datagram(mut datagram) => datagrams.push(datagram.to_vec().unwrap()),
            Item::Gap(Gap { count, cause: Cause::Upstream { exact, .. }, .. }) => {
                losses.push((count, exact));
            }
            Item::Gap(_) => {}
            Item::Empty | Item::Ended(_) => return (datagrams, losses),
            Item::Restarted(_) | Item::Demoted(_) => {}
        }
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "never came: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn closes(account: &Account, published: u64) {
    assert_eq!(account.delivered + account.lost, published, "{account:?}");
}

#[test]
fn what_is_published_is_read_in_whichever_way_it_was_published() {
    let streams = Streams::new();
    let mut publisher = streams.options("ways").build().unwrap();
    let mut reader = streams.attach("ways", from_oldest());
    publisher.publish(b"copied").unwrap();
    let arrival = Arrival { channel: 7, source_time: 99, original_len: 4000 };
    publisher.publish_as(b"cut", arrival).unwrap();
    let mut claim = publisher.claim(4096).unwrap();
    claim.bytes()[..8].copy_from_slice(b"in place");
    claim.commit(8).unwrap();
    assert_eq!(now(&mut reader).0, [&b"copied"[..], b"cut"], "not flushed yet");
    publisher.flush().unwrap();
    publisher.lost(Layer::Device, 3, true).unwrap();
    let batch: Vec<Vec<u8>> = (0..1000_u16).map(|n| n.to_be_bytes().into()).collect();
    assert_eq!(publisher.publish_batch(batch.iter().map(Vec::as_slice)), Ok(1000));
    publisher.publish(b"").unwrap();
    let (got, losses) = now(&mut reader);
    assert_eq!((got.len(), losses), (1002, vec![(3, true)]));
    assert_eq!(
        (&got[0][..], &got[1..1001], &got[1001][..]),
        (&b"in place"[..], &batch[..], &[][..])
    );
    closes(reader.account(), publisher.next_seq());
    drop(publisher);
    assert!(matches!(reader.next().unwrap(), Item::Ended(End::Stream)));
    assert!(!streams.socket("ways").exists(), "the socket is removed");
}

/// A claim that is dropped or refused publishes nothing and costs nothing.
#[test]
fn mistakes_are_errors_and_nothing_is_published() {
    let streams = Streams::new();
    let mut publisher = streams.options("mistakes").build().unwrap();
    let mut reader = streams.attach("mistakes", from_oldest());
    let too_long = PublishError::TooLong { asked: 4097, most: 4096 };
    assert_eq!(publisher.publish(&[0; 4097]), Err(too_long));
    assert_eq!(publisher.claim(4097).err(), Some(too_long));
    assert!(too_long.to_string().contains("max_datagram"), "{too_long}");
    publisher.claim(100).unwrap().bytes().fill(0xee);
    let claim = publisher.claim(100).unwrap();
    let past = PublishError::PastTheClaim { asked: 101, claimed: 100 };
    assert_eq!(claim.commit(101), Err(past));
    // The first of a batch is published, the second is refused.
    let batch = [&b"good"[..], &[1; 5000], b"never seen"];
    assert!(matches!(publisher.publish_batch(batch), Err(PublishError::TooLong { .. })));
    assert!(publisher.claim(8).is_ok());
    publisher.publish(b"last").unwrap();
    assert_eq!(now(&mut reader), (vec![b"good".to_vec(), b"last".to_vec()], vec![]));
    closes(reader.account(), publisher.next_seq());

    let taken = streams.options("mistakes").build().unwrap_err().to_string();
    assert!(taken.contains("already served"), "{taken}");
    for (options, says) in [
        (StreamOptions::new("a b"), "a b"),
        (streams.options("x").max_datagram(0), "--max-datagram"),
        (streams.options("x").readers_max(0), "--readers-max"),
        (streams.options("x").capacity(1 << 50).depth(1000), "1 TiB"),
        (streams.options("x").group("nosuchgroup"), "nosuchgroup"),
    ] {
        let refused = options.build().unwrap_err().to_string();
        assert!(refused.contains(says), "{refused}");
    }
}

#[test]
fn a_publisher_that_is_dropped_in_a_panic_ends_its_stream() {
    let streams = Streams::new();
    let mut publisher = streams.options("panics").build().unwrap();
    let mut reader = streams.attach("panics", from_oldest());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        publisher.publish(b"whole").unwrap();
        publisher.claim(8).unwrap().commit(8).unwrap();
        let mut half = publisher.claim(64).unwrap();
        half.bytes()[..32].fill(1);
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    let (got, losses) = now(&mut reader);
    assert_eq!((got.len(), losses.len()), (2, 0), "what was committed, and no half datagram");
    assert!(matches!(reader.next().unwrap(), Item::Ended(_)));
    closes(reader.account(), 2);
}

/// While the program publishes nothing, even in the middle of a claim, readers attach, sleep and
/// leave, more of them than there are places at one time. Control: with nobody to see to them, the
/// last would find no place.
#[test]
fn a_silent_publisher_keeps_no_reader_waiting() {
    let streams = Streams::new();
    let mut publisher = streams.options("silent").readers_max(2).build().unwrap();
    publisher.publish(b"before").unwrap();
    let mut claim = publisher.claim(16).unwrap();
    claim.bytes().fill(7);
    let socket = streams.socket("silent");
    for _ in 0..12 {
        let mut reader = None;
        until("a place is free", || {
            reader = from_oldest().attach(socket.to_str().unwrap()).ok();
            reader.is_some()
        });
        let mut reader = reader.unwrap();
        assert_eq!(now(&mut reader).0, [b"before"]);
    }
    let mut reader = None;
    until("a place is free", || {
        reader = from_oldest().attach(socket.to_str().unwrap()).ok();
        reader.is_some()
    });
    let mut reader = reader.unwrap();
    assert_eq!(now(&mut reader).0, [b"before"]);
    // It sleeps, and the commit wakes it.
    let woken = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let got = loop {
                reader.wait(None).unwrap();
                let (got, _) = now(&mut reader);
                if !got.is_empty() {
                    break got;
                }
            };
            woken.store(true, Ordering::Relaxed);
            assert_eq!(got, [[7; 16]]);
        });
        std::thread::sleep(Duration::from_millis(500));
        assert!(!woken.load(Ordering::Relaxed), "nothing was published yet");
        // Shown without a flush, too.
        claim.commit(16).unwrap();
    });
    assert!(woken.load(Ordering::Relaxed));
}

/// A commit without a flush is shown all the same, soon. The publish time is that of the commit,
/// however long the claim was open and however long ago the last flush was.
#[test]
fn a_commit_that_nobody_flushes_is_shown_with_its_own_time() {
    let streams = Streams::new();
    let mut publisher = streams.options("unflushed").build().unwrap();
    let mut reader = streams.attach("unflushed", from_oldest());
    let mut last = 0;
    for published in 1..=4 {
        let claim = publisher.claim(3).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let before = ringweir_proto::os::clock::monotonic_ns();
        claim.commit(3).unwrap();
        if published == 4 {
            publisher.publish(b"").unwrap();
        }
        until("it is shown", || {
            if let Item::Datagram(datagram) = reader.next().unwrap() {
                last = datagram.publish_time();
                return true;
            }
            false
        });
        assert!(last >= before, "published {} ns before its commit", before - last);
    }
}

/// A panic in what a caller's text does leaves a publisher that can be used on, with readers that
/// are seen to.
#[test]
fn a_panic_inside_a_call_leaves_the_stream_served() {
    struct Panics;
    impl std::fmt::Display for Panics {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("on purpose")
        }
    }
    let streams = Streams::new();
    let options = streams.options("poisoned").lossless(None, None);
    let mut publisher = options.build().unwrap();
    let unwind = std::panic::AssertUnwindSafe(|| publisher.fault(Panics));
    assert!(std::panic::catch_unwind(unwind).is_err());
    publisher.claim(2).unwrap().commit(2).unwrap();
    // Only the control thread can grant this and show that.
    let mut reader = streams.attach("poisoned", from_oldest().lossless());
    until("it is shown", || now(&mut reader).0.len() == 1);
    publisher.publish(b"on").unwrap();
    assert_eq!(now(&mut reader).0, [b"on"]);
}

/// A lossless reader that attaches while a claim is open is granted the oldest datagrams, and gets
/// all of them: the commit waits for it if it must. Controls: it does wait, and a lossy reader
/// loses.
#[test]
fn a_commit_does_not_overwrite_what_a_reader_was_granted_meanwhile() {
    let streams = Streams::new();
    let options = streams.options("granted").depth(100).capacity(1 << 20).lossless(None, None);
    let mut publisher = options.build().unwrap();
    for round in 0..40_u64 {
        // The depth binds: a full ring, and one more each round, so that each place of a claim is
        // met.
        for n in 0..300 + round {
            publisher.publish(&n.to_le_bytes()).unwrap();
        }
        let claim = publisher.claim(8).unwrap();
        let mut reader = streams.attach("granted", from_oldest().lossless());
        std::thread::scope(|scope| {
            let reads = scope.spawn(|| {
                until("what was granted", || {
                    assert!(now(&mut reader).1.is_empty());
                    reader.account().delivered > 50
                });
            });
            claim.commit(8).unwrap();
            reads.join().unwrap();
        });
        assert_eq!(reader.account().lost, 0, "round {round}: {:?}", reader.account());
    }
}

/// The stream waits for a lossless reader, or says that it would wait; once its budget is used up
/// it does not. Control: a lossy reader of the same stream is lapped.
#[test]
fn lossless_readers_are_waited_for_within_their_budget() {
    let streams = Streams::new();
    let options = streams.options("lossless").lossless(None, Some(Duration::from_millis(300)));
    let mut publisher = options.build().unwrap();
    let mut lossy = streams.attach("lossless", from_oldest());
    // The publisher is silent, so the control thread lets it begin.
    let mut reader = streams.attach("lossless", from_oldest().lossless());
    let datagram = [1; 4096];
    let mut sent = 0_u64;
    while publisher.try_publish(&datagram, Arrival::default()).is_ok() {
        sent += 1;
        assert!(sent < 10_000, "it never would have waited");
    }
    assert!(matches!(publisher.try_claim(4096).err(), Some(PublishError::WouldWait)));
    assert!(sent > 100, "{sent}");
    // The reader reads, and the stream continues.
    assert_eq!(now(&mut reader).0.len() as u64, sent);
    publisher.publish(&datagram).unwrap();
    sent += 1;
    // It reads no more: the budget is used up, and the stream continues without it.
    let began = Instant::now();
    for _ in 0..2 * sent {
        publisher.publish(&datagram).unwrap();
    }
    assert!(began.elapsed() >= Duration::from_millis(250), "it has waited");
    let (times, time) = publisher.waited();
    assert!(times >= 1 && time >= Duration::from_millis(250), "{times} times, {time:?}");
    let mut demoted = false;
    let published = publisher.next_seq();
    while reader.account().delivered + reader.account().lost < published {
        match reader.next().unwrap() {
            Item::Demoted(_) => demoted = true,
            Item::Gap(gap) => assert_eq!(gap.cause, Cause::Lapped),
            _ => {}
        }
    }
    assert!(demoted && reader.account().lost > 0);
    closes(reader.account(), published);
    now(&mut lossy);
    assert!(lossy.account().lost > 0, "control");
    closes(lossy.account(), published);
}

/// Counts from 0, in datagrams of 8 bytes, and ends.
struct Counts {
    next: u64,
    end: u64,
    fails: bool,
}

impl Source for Counts {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        while intake.has_room() {
            if self.next == self.end {
                return if self.fails { Err(SourceError::new("broken")) } else { Ok(Fill::Ended) };
            }
            let mut claim = intake.claim(8).map_err(SourceError::new)?;
            claim.write(0, &self.next.to_le_bytes());
            intake.commit(0, 8, Arrival { channel: 1, ..Arrival::default() });
            self.next += 1;
        }
        Ok(Fill::Took)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        WaitFor::default()
    }
}

#[test]
fn a_source_of_ones_own_is_served() {
    let streams = Streams::new();
    let counts = |fails| Counts { next: 0, end: 20_000, fails };
    let options = |name| streams.options(name).capacity(8 << 20).depth(20_000);
    for fails in [false, true] {
        let (one, two) = ("one", if fails { "fails" } else { "two" });
        let broker = Broker::builder()
            .stream(options(one).wait_readers(1), counts(false))
            .stream(options(two).wait_readers(1), counts(fails))
            .start()
            .unwrap();
        assert!(!broker.has_ended() && broker.summaries()[1].starts_with(two), "{broker:?}");
        let mut readers = [one, two].map(|name| streams.attach(name, from_oldest()));
        assert_eq!(broker.wait().is_err(), fails);
        for reader in &mut readers {
            let (got, losses) = now(reader);
            assert!(
                losses.is_empty()
                    && got.iter().enumerate().all(|(n, bytes)| {
                        u64::from_le_bytes(bytes[..].try_into().unwrap()) == n as u64
                    })
            );
            closes(reader.account(), 20_000);
        }
    }
}

/// Two streams in one program, each from a thread of its own.
#[test]
fn publishers_are_independent() {
    let streams = Streams::new();
    let mut readers = Vec::new();
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let mut publisher =
                streams.options(name).capacity(8 << 20).depth(20_000).build().unwrap();
            readers.push((name, streams.attach(name, from_oldest())));
            scope.spawn(move || {
                for n in 0..20_000_u32 {
                    publisher.publish(&n.to_le_bytes()).unwrap();
                }
                name
            });
        }
    });
    for (name, mut reader) in readers {
        let (got, losses) = now(&mut reader);
        assert_eq!((got.len(), losses.len()), (20_000, 0), "{name}");
        closes(reader.account(), 20_000);
    }
    assert!(Publisher::builder("a").run_dir(streams.0.path()).build().is_ok(), "the name is free");
}
