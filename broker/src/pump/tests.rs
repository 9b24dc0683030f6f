//! G8: the pump allocates nothing per datagram. Negative control:
//! `a_source_that_allocates_is_noticed`.

use super::*;
use crate::notice::Notices;
use crate::source::{self, OpenFor};
use ringweir_proto::layout::Geometry;
use ringweir_proto::ring::{Publisher, RingMemory};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

// SAFETY: passes everything through to the system's allocator; the counter is a const-initialised
// thread-local without a destructor, so counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Pumps `source` to its end in this thread; datagrams published and allocations made.
fn pumped(source: Box<dyn Source>) -> (u64, u64) {
    let memory = Arc::new(RingMemory::on_heap(Geometry::new(1024, 1 << 20, 4096).unwrap()));
    let (notices, _drain) = Notices::queue();
    let (_commands, queue) = rtrb::RingBuffer::new(8);
    let handle = Arc::new(PumpHandle::new(Event::new().unwrap(), false));
    let gate = Arc::new(WakeGate::default());
    let intake = Intake::new(Publisher::new(memory.clone()), notices);
    let nobody = BackPressure::new(None, 8);
    let pump = Pump::new(
        intake,
        source,
        nobody,
        gate,
        queue,
        8,
        Arc::new(Event::new().unwrap()),
        handle,
        false,
    );
    let before = ALLOCATIONS.with(Cell::get);
    pump.run().unwrap();
    let allocated = ALLOCATIONS.with(Cell::get) - before;
    assert!(memory.has_ended(), "readers are told of the end");
    (memory.write_cursor(), allocated)
}

#[test]
fn pumping_allocates_nothing_per_datagram() {
    let stream = OpenFor { max_datagram: 4096 };
    for spec in [
        "gen:rate=max,size=24..1500,channels=4,count=100000",
        "gen:rate=200k/s,size=64,count=20000",
    ] {
        let (published, allocated) = pumped(source::open(spec, &stream).unwrap());
        assert!(published >= 20_000);
        assert_eq!(allocated, 0, "{spec}: {published} datagrams");
    }
}

/// Ends a source that would go on, after so many datagrams.
struct Until(Box<dyn Source>, u64);

impl Source for Until {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        let fill = self.0.fill(intake)?;
        // Not only in the next round: nothing may come to begin one.
        Ok(if intake.publisher().next_seq() >= self.1 { Fill::Ended } else { fill })
    }
    fn wait_for(&self) -> WaitFor<'_> {
        self.0.wait_for()
    }
}

#[test]
fn sockets_and_devices_are_pumped_without_allocating() {
    let stream = OpenFor { max_datagram: 4096 };
    let zero = source::open("chardev:size=64:/dev/zero", &stream).unwrap();
    assert_eq!(pumped(Box::new(Until(zero, 20_000))).1, 0, "/dev/zero");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    for kind in ["dgram", "seqpacket"] {
        let source = source::open(&format!("unix:{kind}:{}", path.display()), &stream).unwrap();
        let to = path.clone();
        let sender = std::thread::spawn(move || {
            // A new connection now and then is taken in without allocating, too.
            for _ in 0..10 {
                let kind = if kind == "dgram" { SocketType::DGRAM } else { SocketType::SEQPACKET };
                let fd = rustix::net::socket(AddressFamily::UNIX, kind, None).unwrap();
                rustix::net::connect(&fd, &SocketAddrUnix::new(&to).unwrap()).unwrap();
                for _ in 0..1000 {
                    rustix::net::send(&fd, &[7; 100], SendFlags::NOSIGNAL).unwrap();
                }
            }
        });
        let (published, allocated) = pumped(Box::new(Until(source, 10_000)));
        sender.join().unwrap();
        assert_eq!((published, allocated), (10_000, 0), "{kind}");
    }
}

#[test]
fn a_source_that_allocates_is_noticed() {
    struct Allocates(Box<dyn Source>);
    impl Source for Allocates {
        fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
            drop(std::hint::black_box(vec![1u8; 8]));
            self.0.fill(intake)
        }
        fn wait_for(&self) -> WaitFor<'_> {
            self.0.wait_for()
        }
    }
    let inner =
        source::open("gen:rate=max,size=64,count=10000", &OpenFor { max_datagram: 4096 }).unwrap();
    assert!(pumped(Box::new(Allocates(inner))).1 > 0);
}

#[test]
fn a_pump_that_panics_still_tells_readers_of_the_end() {
    struct Panics;
    impl Source for Panics {
        fn fill(&mut self, _: &mut Intake) -> Result<Fill, SourceError> {
            panic!("on purpose")
        }
        fn wait_for(&self) -> WaitFor<'_> {
            WaitFor::default()
        }
    }
    let memory = Arc::new(RingMemory::on_heap(Geometry::new(64, 1 << 16, 1024).unwrap()));
    let (_commands, queue) = rtrb::RingBuffer::new(8);
    let event = || Arc::new(Event::new().unwrap());
    let handle = Arc::new(PumpHandle::new(Event::new().unwrap(), false));
    let intake = Intake::new(Publisher::new(memory.clone()), Notices::queue().0);
    let (nobody, gate) = (BackPressure::new(None, 8), Arc::new(WakeGate::default()));
    let pump = Pump::new(intake, Box::new(Panics), nobody, gate, queue, 8, event(), handle, false);
    assert!(std::thread::spawn(move || pump.run()).join().is_err());
    assert!(memory.has_ended());
}

#[test]
fn a_reader_is_dear_that_takes_long_several_times_in_a_row() {
    let mut slow_wakes = SlowWakeDetector::default();
    assert_eq!((1..=2 * MEASURED).filter(|_| slow_wakes.rings()).count(), 2);
    let found = |took: &[(u32, u64)]| {
        let mut slow_wakes = SlowWakeDetector::default();
        took.iter().filter(|(index, ns)| slow_wakes.is_slow_to_wake(*index, *ns)).count()
    };
    let (slow_to_wake, cheap) = (SLOW_WAKE_NS, SLOW_WAKE_NS - 1);
    assert_eq!(found(&[(1, slow_to_wake), (1, slow_to_wake), (1, slow_to_wake)]), 1);
    assert_eq!(found(&[(1, slow_to_wake), (1, cheap), (1, slow_to_wake), (1, slow_to_wake)]), 0);
    assert_eq!(
        found(&[
            (1, slow_to_wake),
            (1, slow_to_wake),
            (2, slow_to_wake),
            (2, slow_to_wake),
            (1, slow_to_wake)
        ]),
        0,
        "another"
    );
    assert_eq!(
        found(&[(1, slow_to_wake), (2, slow_to_wake), (2, slow_to_wake), (2, slow_to_wake)]),
        1
    );
}
