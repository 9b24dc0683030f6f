//! A16, for real: data that arrives while the consumer goes to sleep wakes it, or is found by its second look. The loom
//! model (`fifo_wakes` in `proto/tests/loom/device.rs`) shows it of the orderings; here are eventfds, two mappings of one
//! memory and a scheduler.
//!
//! First with a device that stores exactly where the consumer is to be met, so that every outcome is certain; its controls
//! are a consumer without the second look, and a device that looks at the mask before it has stored: both hang. Then with
//! one in a process of its own that chases the consumer, and what happens is up to the machine: only that nothing hangs or
//! is lost is asserted. `RINGWEIR_WAKES=1000000` makes both as long as A16 says.

use super::consumer::{Consumer, Place, Rest};
use super::{Device, LIMIT, spec};
use ringweir_tests::fpga::port::{Place as At, Port};
use ringweir_tests::fpga::{Board, Spec};
use ringweir_tests::scene::Scene;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Cycles of each run, if the environment does not say otherwise.
const CYCLES: u64 = 100_000;
/// A consumer that slept so long over data hangs.
const HANGS: Duration = Duration::from_secs(20);
/// The same where nobody is left to wake it.
const HANGS_SURELY: Duration = Duration::from_millis(300);

fn cycles() -> u64 {
    std::env::var("RINGWEIR_WAKES").map_or(CYCLES, |n| n.parse().expect("RINGWEIR_WAKES"))
}

/// Where the consumer is when the next datagram arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// It is about to look.
    BeforeTheCheck,
    /// There.
    At(Place),
}

const EVERYWHERE: [Arrival; 4] = [
    Arrival::BeforeTheCheck,
    Arrival::At(Place::Checked),
    Arrival::At(Place::Unmasked),
    Arrival::At(Place::GoesToSleep),
];

/// What the consumer orders of the device, and what that answers.
#[derive(Default)]
struct Orders {
    /// Steps ordered, and done.
    ordered: AtomicU64,
    done: AtomicU64,
    /// Whether the last datagram was announced.
    raised: AtomicBool,
    over: AtomicBool,
}

impl Orders {
    /// Has the device do its next step; `wait`: until it is done.
    fn step(&self, wait: bool) {
        let step = self.ordered.load(Ordering::Relaxed) + 1;
        self.ordered.store(step, Ordering::Release);
        if wait {
            self.wait_until(|| self.done.load(Ordering::Acquire) == step);
        }
    }

    /// Quickly, but not at the cost of whom it waits for. False: it is over.
    fn wait_until(&self, so: impl Fn() -> bool) -> bool {
        for round in 0_u64.. {
            if so() {
                return true;
            }
            if self.over.load(Ordering::Acquire) {
                break;
            }
            if round > 2000 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        false
    }
}

/// Ends the device's thread however the consumer's ends.
struct Over<'o>(&'o Orders);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

/// The device: a step is a datagram stored and, if the mask says so, announced. A `hasty` one takes two steps: it looks at
/// the mask, and stores.
fn device(mut board: Board, port: &Port, orders: &Orders, hasty: bool) {
    let mut allowed = false;
    for step in 1.. {
        if !orders.wait_until(|| orders.ordered.load(Ordering::Acquire) == step) {
            break;
        }
        if hasty && step % 2 == 1 {
            allowed = board.raises();
        } else {
            board.produce(0);
            let raised = if hasty { allowed } else { board.raises() };
            assert!(!raised || port.interrupt(), "there is a consumer");
            orders.raised.store(raised, Ordering::Relaxed);
        }
        orders.done.store(step, Ordering::Release);
    }
}

/// Which of the two breaks the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nobody,
    Consumer,
    Device,
}

/// Slept over data: which datagram, and whether it was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hang {
    number: u64,
    raised: bool,
}

/// `count` datagrams that arrive at `places` by turns.
fn run(count: u64, places: &[Arrival], wrong: Wrong) -> Result<(), Hang> {
    let scene = Scene::new(LIMIT + Duration::from_millis(count));
    let spec = Spec { sizes: "24".parse().unwrap(), ..spec() };
    let path = scene.path("device");
    let (mut port, window) =
        Port::open(&At::Socket { path: path.clone(), vectors: 1 }, &spec.shape().unwrap()).unwrap();
    let board = Board::new(window, spec);
    let mut consumer = std::thread::scope(|scope| {
        let joining = scope.spawn(|| Consumer::connect(&path).unwrap());
        while !port.look().unwrap().came {
            std::thread::sleep(Duration::from_millis(1));
        }
        joining.join().unwrap()
    });
    consumer.forgetful = wrong == Wrong::Consumer;
    let (orders, limit) = (Orders::default(), if wrong == Wrong::Nobody { HANGS } else { HANGS_SURELY });
    std::thread::scope(|scope| {
        let _over = Over(&orders);
        let hasty = wrong == Wrong::Device;
        let (port, orders) = (&port, &orders);
        scope.spawn(move || {
            let _over = Over(orders);
            device(board, port, orders, hasty);
        });
        (0..count).try_for_each(|n| cycle(&mut consumer, orders, n, places[n as usize % places.len()], hasty, limit))
    })?;
    let account = &consumer.accounts[0];
    assert_eq!((account.delivered, account.lost, account.verifier.is_clean()), (count, 0, true));
    Ok(())
}

/// One datagram, which arrives at `arrival`.
fn cycle(
    consumer: &mut Consumer,
    orders: &Orders,
    number: u64,
    arrival: Arrival,
    hasty: bool,
    limit: Duration,
) -> Result<(), Hang> {
    if arrival == Arrival::BeforeTheCheck {
        orders.step(true);
        assert_eq!(consumer.drain(), 1);
        assert!(!orders.raised.load(Ordering::Relaxed), "announced to one who is awake");
        return Ok(());
    }
    assert_eq!(consumer.drain(), 0);
    let rest = consumer.rest(limit, |place| {
        if arrival == Arrival::At(place) || hasty && place == Place::GoesToSleep {
            // Whom an interrupt is to wake does not wait for the device but sleeps.
            orders.step(place != Place::GoesToSleep);
        }
    });
    // What is done is done by now, and if it rang, it rang before.
    assert!(orders.wait_until(|| orders.done.load(Ordering::Acquire) == orders.ordered.load(Ordering::Relaxed)));
    let raised = orders.raised.load(Ordering::Relaxed);
    if rest == Rest::Nothing {
        assert!(!consumer.is_empty(), "nothing has come within {limit:?}: {arrival:?}");
        return Err(Hang { number, raised });
    }
    // What each side saw of the other. In between, where both see it, the interrupt comes to one who is awake.
    let expected = match arrival {
        Arrival::At(Place::Checked) => (Rest::FoundAfterAll, false, false),
        Arrival::At(Place::Unmasked) => (Rest::FoundAfterAll, true, true),
        _ => (Rest::Woken, true, false),
    };
    assert_eq!((rest, raised, consumer.is_interrupted()), expected, "{arrival:?}");
    assert_eq!(consumer.drain(), 1);
    Ok(())
}

/// Everywhere it is found or announced, as the handshake says where; and all the time in the one place that needs the second
/// look.
#[test]
fn data_that_arrives_while_the_consumer_goes_to_sleep_is_not_slept_over() {
    let count = cycles();
    for places in [&EVERYWHERE[..], &EVERYWHERE[1..2]] {
        let began = Instant::now();
        run(count, places, Wrong::Nobody).unwrap();
        eprintln!("{count} datagrams, in equal parts at {places:?}: no hang, {:.1} s", began.elapsed().as_secs_f64());
    }
}

/// The controls: the first datagram that needs what was left out is slept over.
#[test]
fn a_handshake_that_is_not_kept_hangs() {
    let hang = |number| Err(Hang { number, raised: false });
    assert_eq!(run(100, &EVERYWHERE, Wrong::Consumer), hang(1));
    assert_eq!(run(100, &EVERYWHERE[1..], Wrong::Device), hang(0));
}

/// A device in another process that chases the consumer: whenever that has taken everything, and a pause that sweeps over
/// the time it takes to go to sleep, the next datagram comes.
#[test]
fn a_device_that_chases_its_consumer_does_not_lose_it() {
    let count = cycles();
    let scene = Scene::new(LIMIT + Duration::from_millis(count));
    let mut device = Device::start(&scene, "--socket", &format!("--chase 2us --size 24 --count {count}"));
    let mut consumer = device.connect();
    let (began, slept) = (Instant::now(), sleeps());
    let (mut at_once, mut after_all, mut woken, mut for_nothing) = (0, 0, 0, 0);
    let mut delivered = 0;
    while delivered < count {
        let rest = consumer.rest(HANGS, |_| ());
        match rest {
            Rest::FoundAfterAll => after_all += 1,
            Rest::Woken => woken += 1,
            Rest::Nothing => assert!(consumer.is_empty() && !consumer.is_gone(), "hangs behind datagram {delivered}"),
        }
        let taken = consumer.drain();
        // One was found or announced; what else there is came before the next check.
        at_once += taken.saturating_sub(1);
        for_nothing += u64::from(rest == Rest::Woken && taken == 0);
        delivered += taken;
    }
    let (took, slept) = (began.elapsed().as_secs_f64(), sleeps() - slept);
    let books = device.books();
    let interrupts = (books.interrupts, consumer.interrupts);
    eprintln!(
        "{count} datagrams in {took:.1} s, no hang: {at_once} came before the check, {after_all} were found by the second \
         look, {woken} interrupts woke ({for_nothing} for what that look had found); {} raised, {slept} times asleep",
        books.interrupts
    );
    assert_eq!(at_once + after_all + woken - for_nothing, count);
    assert!(interrupts.0 >= interrupts.1, "(raised, seen): {interrupts:?}");
    consumer.accounts[0].check(&books.channels[0]).unwrap();
    assert_eq!((books.lost, consumer.accounts[0].verifier.is_clean()), (0, true));
}

/// How often this thread has really slept.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok()).expect("a count")
}
