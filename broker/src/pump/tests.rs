//! G8: the pump allocates nothing per datagram. Negative control:
//! `a_source_that_allocates_is_noticed`.

#![allow(unsafe_code)]

use super::core::PumpCore;
use super::handle::PumpHandle;
use super::run::Pump;
use crate::intake::for_pump::PumpIntake;
use crate::intake::for_sources::Intake;
use crate::intake::notice;
use crate::readers::commands;
use crate::readers::pump_list::PumpReaders;
use crate::source::contract::{Fill, OpenFor, Source, SourceError, WaitFor};
use crate::source::kinds;
use crate::wake::event::Event;
use ringweir_proto::layout::Geometry;
use ringweir_proto::os::backing::Memory;
use ringweir_proto::os::object::{RingObject, RingSpec};
use ringweir_proto::ring::{Publisher, WakeGate, WritableRing};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

/// A ring in mapped memory, as the broker has: a ring on the heap would add a copy.
fn mapped(geometry: Geometry) -> (RingObject, WritableRing) {
    let (memory, huge_pages, metadata) = (Memory::Memfd, false, &[]);
    let spec = RingSpec { name: "pump", geometry, generation: 1, metadata, memory, huge_pages };
    RingObject::create("/ringweir-test-pump", &spec).unwrap()
}

struct Counting;

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

// SAFETY: every call goes to the system's allocator, which keeps the trait's contract. The counter
// is a const-initialised thread-local without a destructor, so counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is also that of
        // `System`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`, which is also that of
        // `System`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A pump from `source` into `ring`.
fn pump(source: Box<dyn Source>, ring: WritableRing) -> Pump {
    let event = || Arc::new(Event::new().unwrap());
    let pump_event = event();
    let (_commands, receiver) = commands::queue(8, pump_event.clone());
    let intake = PumpIntake::new(Publisher::new(ring), notice::queue().0);
    let readers = PumpReaders::new(Arc::new(WakeGate::default()), receiver, 8, event());
    let handle = Arc::new(PumpHandle::new(pump_event, false));
    Pump::new(PumpCore::new(intake, readers, handle), source)
}

/// Pumps `source` to its end in this thread. Returns datagrams published and allocations made.
fn pumped(source: Box<dyn Source>) -> (u64, u64) {
    let (object, ring) = mapped(Geometry::new(1024, 1 << 20, 4096).unwrap());
    let memory = object.memory().clone();
    let pump = pump(source, ring);
    let before = ALLOCATIONS.with(Cell::get);
    pump.run().unwrap();
    let allocated = ALLOCATIONS.with(Cell::get) - before;
    assert!(memory.has_ended(), "readers see the end");
    (memory.write_cursor(), allocated)
}

#[test]
fn pumping_allocates_nothing_per_datagram() {
    let stream = OpenFor { max_datagram: 4096 };
    for spec in [
        "gen:rate=max,size=24..1500,channels=4,count=100000",
        "gen:rate=200k/s,size=64,count=20000",
    ] {
        let (published, allocated) = pumped(kinds::open(spec, &stream).unwrap());
        assert!(published >= 20_000);
        assert_eq!(allocated, 0, "{spec}: {published} datagrams");
    }
}

/// A source that ends after this many datagrams.
struct Until(Box<dyn Source>, u64);

impl Source for Until {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        let fill = self.0.fill(intake)?;
        // End in this round: without input there may be no next one.
        Ok(if intake.next_seq() >= self.1 { Fill::Ended } else { fill })
    }
    fn wait_for(&self) -> WaitFor<'_> {
        self.0.wait_for()
    }
}

#[test]
fn pumping_sockets_and_devices_allocates_nothing() {
    let stream = OpenFor { max_datagram: 4096 };
    let zero = kinds::open("chardev:size=64:/dev/zero", &stream).unwrap();
    assert_eq!(pumped(Box::new(Until(zero, 20_000))).1, 0, "/dev/zero");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    for kind in ["dgram", "seqpacket"] {
        let source = kinds::open(&format!("unix:{kind}:{}", path.display()), &stream).unwrap();
        let to = path.clone();
        let sender = std::thread::spawn(move || {
            // Accepting a new connection does not allocate either.
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
        kinds::open("gen:rate=max,size=64,count=10000", &OpenFor { max_datagram: 4096 }).unwrap();
    assert!(pumped(Box::new(Allocates(inner))).1 > 0);
}

#[test]
fn a_pump_that_panics_still_ends_the_ring() {
    struct Panics;
    impl Source for Panics {
        fn fill(&mut self, _: &mut Intake) -> Result<Fill, SourceError> {
            panic!("on purpose")
        }
        fn wait_for(&self) -> WaitFor<'_> {
            WaitFor::default()
        }
    }
    let (object, ring) = mapped(Geometry::new(64, 1 << 16, 1024).unwrap());
    let memory = object.memory().clone();
    let pump = pump(Box::new(Panics), ring);
    assert!(std::thread::spawn(move || pump.run()).join().is_err());
    assert!(memory.has_ended());
}
