//! What the unit tests of sources share: an intake into a ring on the heap, and a reader that keeps
//! the account.

use super::{Fill, Source};
use crate::intake::Intake;
use crate::notice::{Notice, Notices};
use ringweir_proto::layout::Geometry;
use ringweir_proto::ring::{Cause, Layer, Publisher, Resume, RingMemory, RingReader, Start, Step};
use ringweir_proto::stats::{PumpCounter, Snapshot};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;

/// One datagram as a reader got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub bytes: Vec<u8>,
    pub original_len: usize,
    pub channel: u16,
    pub source_time: u64,
    /// Losses told just before it.
    pub lost_before: Vec<(Layer, u64, bool)>,
}

/// A ring with both its ends.
pub struct Bench {
    pub intake: Intake,
    notices: rtrb::Consumer<Notice>,
    reader: RingReader,
    /// Seqs before which the device was gone.
    pub gone: Vec<u64>,
    memory: Arc<RingMemory>,
    /// What every round is told the time is, CLOCK_MONOTONIC ns.
    pub now: u64,
}

impl Bench {
    /// A ring of 4096 slots.
    pub fn new(capacity: u64, max_datagram: u64) -> Self {
        let geometry = Geometry::new(4096, capacity, max_datagram).unwrap();
        let memory = Arc::new(RingMemory::on_heap(geometry));
        let (notices, drain) = Notices::queue();
        let intake = Intake::new(Publisher::new(memory.clone()), notices);
        let reader = RingReader::new(memory.clone(), Start::Oldest, Resume::Oldest);
        Self { intake, notices: drain, reader, gone: Vec::new(), memory, now: 1 }
    }

    /// One round as the pump runs it.
    pub fn round(&mut self, source: &mut dyn Source) -> Fill {
        self.intake.begin(self.now);
        let fill = source.fill(&mut self.intake).unwrap_or_else(|e| panic!("{e}"));
        self.intake.publisher().flush();
        fill
    }

    /// Rounds until the source is idle or has ended, everything read after each; what came, and how
    /// it stopped.
    pub fn run(&mut self, source: &mut dyn Source) -> (Vec<Got>, Fill) {
        let mut all = Vec::new();
        loop {
            let fill = self.round(source);
            all.extend(self.read());
            if fill != Fill::Took {
                return (all, fill);
            }
        }
    }

    /// Like [`Self::run`], and waits for a source that is idle until it ends, a second at most: the
    /// writing end of a pipe may live on for a moment in a process that another test is just
    /// starting.
    pub fn run_to_end(&mut self, source: &mut dyn Source) -> Vec<Got> {
        let mut all = Vec::new();
        loop {
            let (got, fill) = self.run(source);
            all.extend(got);
            if fill == Fill::Ended {
                return all;
            }
            assert!(wait(source, 1000), "idle and not ended");
        }
    }

    /// Everything readable now.
    pub fn read(&mut self) -> Vec<Got> {
        let (mut all, mut lost_before) = (Vec::new(), Vec::new());
        loop {
            match self.reader.step().unwrap() {
                Step::Restarted(_) => panic!("nobody restarted"),
                Step::Empty | Step::Ended => break,
                Step::Gap(gap) => match gap.cause {
                    Cause::Lapped => panic!("the test's ring is too small: {gap:?}"),
                    Cause::Upstream { layer, exact } => lost_before.push((layer, gap.count, exact)),
                    Cause::SourceGone => self.gone.push(gap.first),
                },
                Step::Datagram(d) => {
                    let mut bytes = vec![0; d.len];
                    self.reader.copy_out(&d, 0, &mut bytes);
                    all.push(Got {
                        bytes,
                        original_len: d.original_len,
                        channel: d.channel,
                        source_time: d.source_time,
                        lost_before: std::mem::take(&mut lost_before),
                    });
                }
            }
        }
        all
    }

    /// A counter of the pump.
    pub fn count(&self, counter: PumpCounter) -> u64 {
        let mut snapshot = Snapshot::new("test", "test");
        snapshot.take_pump(&self.memory);
        snapshot.pump(counter)
    }

    /// The notices so far.
    pub fn told(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.notices.pop().ok()).map(|n| n.to_string()).collect()
    }
}

/// Waits until `source` is readable, `ms` at most; whether it is.
pub fn wait(source: &dyn Source, ms: i64) -> bool {
    let fd = source.wait_for().readable.expect("a source that can be polled");
    let patience = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience)) != Ok(0)
}

/// The bytes of every datagram.
pub fn bytes_of(got: &[Got]) -> Vec<&[u8]> {
    got.iter().map(|g| g.bytes.as_slice()).collect()
}

/// Runs `test` in a network namespace of its own after `setup`, shell lines. The test is skipped
/// where that needs rights or programs that are not there. The namespace ends with it.
pub fn in_namespace(setup: &str, test: impl FnOnce() + Send) {
    if !ringweir_needs::needs_network_namespaces() {
        return;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: gives this thread, and nobody else, another network namespace; no memory is
            // concerned.
            let rc = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(rc, 0, "unshare: {}", std::io::Error::last_os_error());
            shell(setup);
            test();
        });
    });
}

/// Runs shell lines, in the network namespace of the calling thread.
pub fn shell(lines: &str) {
    let done = std::process::Command::new("sh").args(["-ec", lines]).status().expect("sh");
    assert!(done.success(), "{lines}");
}
