//! Load beside a test that makes its timing hard, and a measure of how late the machine wakes
//! threads.

use rustix::thread::{ClockId, CpuSet, clock_nanosleep_absolute, gettid, sched_setaffinity};
use rustix::time::{Timespec, clock_gettime};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Held for reading by tests that can be disturbed without harm, for writing by tests that measure.
pub static MACHINE: RwLock<()> = RwLock::new(());

/// Threads that run until they are dropped.
#[derive(Default)]
pub struct Strain {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Strain {
    fn with(mut self, mut act: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                act();
            }
        }));
        self
    }

    /// Adds a thread that only uses processor time, on processor `cpu` if given.
    pub fn busy(self, cpu: Option<usize>) -> Self {
        let mut placed = false;
        self.with(move || {
            if let (Some(cpu), false) = (cpu, placed) {
                let mut set = CpuSet::new();
                set.set(cpu);
                sched_setaffinity(None, &set).expect("a thread on that processor");
                placed = true;
            }
            (0..100_000).for_each(|n: u32| assert_eq!(std::hint::black_box(n), n));
        })
    }

    /// Adds a thread that writes and waits until the data is on the disk.
    pub fn writing(self, path: &Path) -> Self {
        let mut file = File::create(path).expect("a file to write");
        let block = vec![0x5a; 256 << 10];
        self.with(move || {
            file.seek(SeekFrom::Start(0))
                .and_then(|_| file.write_all(&block))
                .and_then(|()| file.sync_all())
                .expect("fsync");
        })
    }
}

impl Drop for Strain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of it was already reported.
            let _ended = thread.join();
        }
    }
}

/// Does what `cyclictest` does: a thread at the given real-time priority sleeps until each next ms,
/// and measures the latest wake-up.
pub struct Jitter {
    strain: Strain,
    worst: Arc<AtomicU64>,
}

impl Jitter {
    pub fn measure(priority: u32) -> Self {
        let worst: Arc<AtomicU64> = Arc::default();
        let found = Arc::clone(&worst);
        let mut next = None;
        let now = || {
            let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
            tv_sec as u64 * 1_000_000_000 + tv_nsec as u64
        };
        let strain = Strain::default().with(move || {
            let due: u64 = *next.get_or_insert_with(|| {
                let thread = gettid().as_raw_nonzero().to_string();
                let raised = Command::new("chrt")
                    .args(["-f", "-p", &priority.to_string(), &thread])
                    .status();
                assert!(raised.is_ok_and(|status| status.success()), "chrt -f -p {priority}");
                now()
            }) + 1_000_000;
            let until = Timespec {
                tv_sec: (due / 1_000_000_000) as i64,
                tv_nsec: (due % 1_000_000_000) as _,
            };
            if clock_nanosleep_absolute(ClockId::Monotonic, &until).is_ok() {
                let woke = now();
                found.fetch_max(woke - due, Ordering::Relaxed);
                // A late wake-up does not count again for the same reason.
                next = Some(due.max(woke - woke % 1_000_000));
            }
        });
        Self { strain, worst }
    }

    /// The worst so far, in ms.
    pub fn end(self) -> f64 {
        drop(self.strain);
        self.worst.load(Ordering::Relaxed) as f64 / 1e6
    }
}
