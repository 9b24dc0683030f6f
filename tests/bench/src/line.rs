//! A cache line passed from core to core: the floor of all polling, and a sign of where the host
//! has put the processors.

use ringweir_proto::sync::{AtomicU64, Ordering};
use std::time::Instant;

const ROUNDS: u64 = 300;
const TRIES: usize = 9;

#[repr(align(128))]
struct Line(AtomicU64);

/// ns one way between processors 0 and 1: the median of several short volleys, so that one that is
/// interrupted does not count. 0 on a machine with one processor.
pub fn one_way_ns() -> f64 {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return 0.0;
    }
    let line = Line(AtomicU64::new(0));
    let total = ROUNDS * TRIES as u64;
    let mut volleys = Vec::with_capacity(TRIES);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Without the right to pin it, the scheduler places it.
            let _pinned = super::job::pin(1);
            for n in 0..total {
                while line.0.load(Ordering::Acquire) != 2 * n + 1 {
                    std::hint::spin_loop();
                }
                line.0.store(2 * n + 2, Ordering::Release);
            }
        });
        scope.spawn(|| {
            let _pinned = super::job::pin(0);
            for volley in 0..TRIES as u64 {
                let began = Instant::now();
                for n in volley * ROUNDS..(volley + 1) * ROUNDS {
                    line.0.store(2 * n + 1, Ordering::Release);
                    while line.0.load(Ordering::Acquire) != 2 * n + 2 {
                        std::hint::spin_loop();
                    }
                }
                volleys.push(began.elapsed().as_nanos() as f64 / (2 * ROUNDS) as f64);
            }
        });
    });
    super::record::median(&mut volleys)
}
