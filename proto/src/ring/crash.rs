//! The numbered places of `DESIGN.md` §7 at which a test kills or stops the publisher, or who
//! adopts its ring.
//!
//! Contract: in production there is nothing here: `at` is an empty inline function and `SEAM` a
//! constant. With the feature `crash` a program arms one place (`arm`) with what is to happen there
//! at its n-th passing; under `ringweir_loom` a model has a piece of code end there (`killed_at`).

/// A place. `K`: in publishing, `A`: in adopting; the table in `DESIGN.md` says what the ring holds
/// then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
#[allow(missing_docs, reason = "numbers of a table")]
pub enum Point {
    K1 = 1,
    K2,
    K3,
    K4,
    K5,
    K6,
    K7,
    K8,
    K9,
    K10,
    A1 = 101,
    A2,
    A3,
    A4,
    A5,
}

impl Point {
    /// All places in publishing.
    pub const PUBLISH: [Point; 10] = [
        Point::K1,
        Point::K2,
        Point::K3,
        Point::K4,
        Point::K5,
        Point::K6,
        Point::K7,
        Point::K8,
        Point::K9,
        Point::K10,
    ];
    /// All places in adopting.
    pub const ADOPT: [Point; 5] = [Point::A1, Point::A2, Point::A3, Point::A4, Point::A5];
}

impl std::str::FromStr for Point {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::PUBLISH.into_iter().chain(Self::ADOPT);
        all.find(|p| format!("{p:?}") == text)
            .ok_or_else(|| format!("no crash point {text:?}: K1 to K10, A1 to A5"))
    }
}

/// Whether there are places at all.
pub(super) const SEAM: bool = cfg!(any(feature = "crash", ringweir_loom));

#[cfg(not(any(feature = "crash", ringweir_loom)))]
mod seam {
    use super::Point;

    #[inline(always)]
    pub(in crate::ring) fn at(_point: Point) {}

    #[inline(always)]
    pub(in crate::ring) const fn adopts_half() -> bool {
        false
    }
}

#[cfg(all(feature = "crash", not(ringweir_loom)))]
mod seam {
    use super::Point;
    use crate::sync::{AtomicU64, Ordering};
    use std::sync::OnceLock;

    struct Armed {
        point: Point,
        left: AtomicU64,
        act: fn(),
    }

    static ARMED: OnceLock<Armed> = OnceLock::new();
    static HALF: OnceLock<()> = OnceLock::new();

    /// Has this process publish what a broker that died had begun, when it adopts its ring: the
    /// control of every test that would find it out.
    pub fn adopt_half() {
        HALF.get_or_init(|| ());
    }

    pub(in crate::ring) fn adopts_half() -> bool {
        HALF.get().is_some()
    }

    /// Has `act` called when `point` is passed for the `nth` time, from 1.
    ///
    /// # Panics
    /// If something is armed already.
    pub fn arm(point: Point, nth: u64, act: fn()) {
        let fresh = ARMED.set(Armed { point, left: AtomicU64::new(nth), act });
        assert!(fresh.is_ok(), "one crash point a process");
    }

    pub(in crate::ring) fn at(point: Point) {
        at_after(point, || {});
    }

    /// The same; `before` runs before it.
    pub(in crate::ring) fn at_after(point: Point, before: impl FnOnce()) {
        if let Some(armed) = ARMED.get().filter(|a| a.point == point)
            && armed.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            before();
            (armed.act)();
        }
    }
}

#[cfg(ringweir_loom)]
mod seam {
    use super::Point;
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    // Loom runs all threads of a model on one OS thread; only one of them passes places at a time.
    thread_local!(static ARMED: Cell<Option<Point>> = const { Cell::new(None) });

    pub(in crate::ring) fn adopts_half() -> bool {
        crate::sync::weakened(crate::ring::site::ADOPTED_HALF)
    }

    pub(in crate::ring) fn at(point: Point) {
        if ARMED.get() == Some(point) {
            ARMED.set(None);
            // Unlike a panic it says nothing.
            resume_unwind(Box::new(point));
        }
    }

    /// Runs `body` up to `point`, as if the process were killed there. False: it never came there.
    pub fn killed_at(point: Point, body: impl FnOnce()) -> bool {
        ARMED.set(Some(point));
        let ended = catch_unwind(AssertUnwindSafe(body));
        ARMED.set(None);
        match ended {
            Ok(()) => false,
            Err(why) if why.is::<Point>() => true,
            Err(why) => resume_unwind(why),
        }
    }
}

#[cfg(all(feature = "crash", not(ringweir_loom)))]
pub(super) use seam::at_after;
#[cfg(ringweir_loom)]
pub use seam::killed_at;
#[cfg(all(feature = "crash", not(ringweir_loom)))]
pub use seam::{adopt_half, arm};
pub(super) use seam::{adopts_half, at};
