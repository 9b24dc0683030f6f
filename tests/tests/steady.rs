//! Steady state: no page fault in broker or reader, no allocation in the reader. (That the pump
//! allocates nothing is shown inside the broker, `broker/src/pump/tests.rs`.) Negative controls: a
//! reader without prefault, and one that allocates.

#![allow(unsafe_code)]

use ringweir::{Item, Options, Reader};
use ringweir_harness::Environment;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

struct Counting;

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

// SAFETY: passes everything through to the system's allocator; counting does not allocate (a const
// thread-local).
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

/// Minor faults of the calling thread so far.
fn own_faults() -> u64 {
    // SAFETY: all-zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes one rusage through a valid pointer.
    let rc = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    assert_eq!(rc, 0);
    usage.ru_minflt as u64
}

/// Minor faults of the broker's pump thread so far.
fn pump_faults(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads").flatten();
    let pump = tasks
        .map(|t| t.path())
        .find(|t| std::fs::read_to_string(t.join("comm")).is_ok_and(|c| c.starts_with("pump:")));
    let stat = std::fs::read_to_string(pump.expect("a pump").join("stat")).expect("stat");
    // Fields after the name: state is the first, minflt the eighth.
    let rest = stat.rsplit_once(')').expect("a name").1;
    rest.split_whitespace().nth(7).expect("minflt").parse().expect("a number")
}

/// Reads `count` datagrams, each byte of them.
fn read(reader: &mut Reader, count: u64, buffer: &mut [u8], mut with: impl FnMut()) -> u64 {
    let (mut seen, mut sum) = (0, 0u64);
    while seen < count {
        match reader.next().expect("next") {
            Item::Datagram(mut datagram) => {
                if let Ok(len) = datagram.copy_to(buffer) {
                    sum = buffer[..len].iter().fold(sum, |s, b| s.wrapping_add(u64::from(*b)));
                    seen += 1;
                    with();
                }
            }
            Item::Empty => {
                reader.wait(Some(Duration::from_secs(10))).expect("wait");
            }
            Item::Gap(gap) => seen += gap.count,
            other => panic!("{other:?}"),
        }
    }
    sum
}

#[test]
fn steady_state_has_no_page_fault_and_no_allocation() {
    const MEASURED: u64 = 30_000;
    let env = Environment::new(Duration::from_secs(60));
    // One lap is 4096 datagrams.
    let args = ["--capacity", "4MiB", "--depth", "4096", "--max-datagram", "1KiB"];
    let broker = env.broker("steady", "gen:rate=20k/s,size=1024", &args);
    let mut buffer = vec![0; 1024];

    let mut reader = Options::new("steady").attach(broker.path()).unwrap();
    read(&mut reader, 5_000, &mut buffer, || {});
    // Looking at /proc allocates and may fault, so it happens outside of the measured time.
    let pump_before = pump_faults(broker.process.pid());
    let before = (own_faults(), ALLOCATIONS.with(Cell::get));
    read(&mut reader, MEASURED, &mut buffer, || {});
    let after = (own_faults(), ALLOCATIONS.with(Cell::get));
    assert_eq!(
        (after.0 - before.0, after.1 - before.1),
        (0, 0),
        "faults and allocations of the reader"
    );
    assert_eq!(pump_faults(broker.process.pid()) - pump_before, 0, "faults of the pump");
    assert_eq!(reader.account().lost, 0, "it kept up");

    // Control: without prefault, the first lap of a mapping takes one fault per page.
    let mut lazy = Options::new("lazy").prefault(false).attach(broker.path()).unwrap();
    let before = own_faults();
    read(&mut lazy, 5_000, &mut buffer, || {});
    assert!(own_faults() - before > 50, "{} faults", own_faults() - before);
    // Control: a reader that allocates is counted.
    let before = ALLOCATIONS.with(Cell::get);
    read(&mut lazy, 1_000, &mut buffer, || drop(std::hint::black_box(vec![1u8])));
    assert!(ALLOCATIONS.with(Cell::get) - before >= 1_000);
    broker.end();
}
