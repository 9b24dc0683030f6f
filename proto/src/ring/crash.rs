//! The crash points of `DESIGN.md` §7: where a test kills or stops the publisher or the adopter of
//! its ring.
//!
//! Contract: this costs nothing in production: `at` is an empty inline function and `SEAM` a
//! constant. With the feature `crash`, a program arms one point (`arm`) with an action for the n-th
//! time that it is passed. Under `ringweir_loom`, a model ends a piece of code there (`killed_at`).

/// A crash point. `K`: in publishing; `A`: in adopting. The table in `DESIGN.md` says what the ring
/// holds at each.
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
    /// All points in publishing.
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
    /// All points in adopting.
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

/// Whether this build has crash points.
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

    /// Makes this process publish what a dead broker had begun when it adopts that broker's ring.
    /// It is the negative control of every test that should detect this.
    pub fn adopt_half() {
        HALF.get_or_init(|| ());
    }

    pub(in crate::ring) fn adopts_half() -> bool {
        HALF.get().is_some()
    }

    /// Calls `act` when `point` is passed for the `nth` time, counted from 1.
    ///
    /// # Panics
    /// If a point is armed already.
    pub fn arm(point: Point, nth: u64, act: fn()) {
        let fresh = ARMED.set(Armed { point, left: AtomicU64::new(nth), act });
        assert!(fresh.is_ok(), "one crash point a process");
    }

    pub(in crate::ring) fn at(point: Point) {
        at_after(point, || {});
    }

    /// Like `at`; `before` runs before the armed action.
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

    // Loom runs all threads of a model on one OS thread; only one of them passes crash points at a
    // time.
    thread_local!(static ARMED: Cell<Option<Point>> = const { Cell::new(None) });

    pub(in crate::ring) fn adopts_half() -> bool {
        crate::sync::weakened(crate::ring::site::ADOPTED_HALF)
    }

    pub(in crate::ring) fn at(point: Point) {
        if ARMED.get() == Some(point) {
            ARMED.set(None);
            // Unlike `panic!`, this prints nothing.
            resume_unwind(Box::new(point));
        }
    }

    /// Runs `body` up to `point`, as if the process were killed there. Returns false if it never
    /// reached the point.
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
