//! A16 in practice: data that arrives while the consumer goes to sleep wakes it, or its second look
//! finds the data. The loom model (`fifo_wakes` in `proto/tests/loom/device.rs`) checks the
//! orderings; here there are eventfds, two mappings of one memory, and a scheduler.
//!
//! First with a device that stores at a chosen point of the consumer, so that every outcome is
//! certain. Its controls are a consumer without the second look, and a device that looks at the
//! mask before it has stored: both hang. Then with a device in a separate process that chases the
//! consumer, where the machine decides what happens: the test asserts only that nothing hangs or is
//! lost. `RINGWEIR_WAKES=1000000` makes both as long as A16 says.

use super::consumer::{Consumer, Place, Rest};
use super::{Device, LIMIT, spec};
use ringweir_device_model::port::{Place as At, Port};
use ringweir_device_model::{DeviceModel, Spec};
use ringweir_harness::environment::Environment;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Cycles, if the environment does not set them: of a run in which the two sides take turns, and of
/// one in which they run on two processors at once, which is slow if both have other work.
const IN_TURNS: u64 = 50_000;
const CHASED: u64 = 10_000;
/// A consumer that sleeps over data for this long hangs.
const HANGS: Duration = Duration::from_secs(20);
/// The same where nothing is left that could wake it.
const HANGS_SURELY: Duration = Duration::from_millis(300);

fn cycles(usual: u64) -> u64 {
    std::env::var("RINGWEIR_WAKES").map_or(usual, |n| n.parse().expect("RINGWEIR_WAKES"))
}

/// An environment with enough time for `count` cycles.
fn env(count: u64) -> Environment {
    Environment::new(LIMIT + Duration::from_millis(2 * count))
}

/// A processor for each side, if there are two. On one processor a woken sleeper runs only while
/// its waker does not, and the two would never meet.
fn processors() -> [CpuSet; 2] {
    let allowed = sched_getaffinity(None).unwrap();
    let mut each = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).map(|cpu| {
        let mut one = CpuSet::new();
        one.set(cpu);
        one
    });
    let first = each.next().unwrap();
    [first, each.next().unwrap_or(first)]
}

/// Where the consumer is when the next datagram arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// It is about to look.
    BeforeTheCheck,
    /// At this point.
    At(Place),
}

const EVERYWHERE: [Arrival; 4] = [
    Arrival::BeforeTheCheck,
    Arrival::At(Place::Checked),
    Arrival::At(Place::Unmasked),
    Arrival::At(Place::GoesToSleep),
];

/// The consumer's orders to the device, and the device's answers.
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
    /// Makes the device do its next step; with `wait`, waits until it is done.
    fn step(&self, wait: bool) {
        let step = self.ordered.load(Ordering::Relaxed) + 1;
        self.ordered.store(step, Ordering::Release);
        if wait {
            self.wait_until(|| self.done.load(Ordering::Acquire) == step);
        }
    }

    /// Waits by spinning, but yields to the side that it waits for. False: the run is over.
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

/// Ends the device's thread, however the consumer ends.
struct Over<'o>(&'o Orders);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

/// The device. A step stores a datagram and announces it if the mask allows that. A `hasty` device
/// takes two steps: it looks at the mask, and then stores.
fn device(mut model: DeviceModel, port: &Port, orders: &Orders, hasty: bool) {
    let mut allowed = false;
    for step in 1.. {
        if !orders.wait_until(|| orders.ordered.load(Ordering::Acquire) == step) {
            break;
        }
        if hasty && step % 2 == 1 {
            allowed = model.raises();
        } else {
            model.produce(0);
            let raised = if hasty { allowed } else { model.raises() };
            assert!(!raised || port.interrupt(), "there is a consumer");
            orders.raised.store(raised, Ordering::Relaxed);
        }
        orders.done.store(step, Ordering::Release);
    }
}

/// Which side breaks the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nobody,
    Consumer,
    Device,
}

/// The consumer slept over data: which datagram, and whether it was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hang {
    number: u64,
    raised: bool,
}

/// `count` datagrams that arrive at `places` in turn.
fn run(count: u64, places: &[Arrival], wrong: Wrong) -> Result<(), Hang> {
    let env = env(count);
    let spec = Spec { sizes: "24".parse().unwrap(), ..spec() };
    let path = env.path("device");
    let (mut port, window) =
        Port::open(&At::Socket { path: path.clone(), vectors: 1 }, &spec.shape().unwrap()).unwrap();
    let model = DeviceModel::new(window, spec);
    let mut consumer = std::thread::scope(|scope| {
        let joining = scope.spawn(|| Consumer::connect(&path).unwrap());
        while !port.look().unwrap().came {
            std::thread::sleep(Duration::from_millis(1));
        }
        joining.join().unwrap()
    });
    consumer.forgetful = wrong == Wrong::Consumer;
    let (orders, limit) =
        (Orders::default(), if wrong == Wrong::Nobody { HANGS } else { HANGS_SURELY });
    std::thread::scope(|scope| {
        let hasty = wrong == Wrong::Device;
        let (port, orders) = (&port, &orders);
        let _over = Over(orders);
        scope.spawn(move || {
            let _over = Over(orders);
            device(model, port, orders, hasty);
        });
        (0..count).try_for_each(|n| {
            cycle(&mut consumer, orders, n, places[n as usize % places.len()], hasty, limit)
        })
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
            // A consumer that an interrupt is to wake does not wait for the device: it sleeps.
            orders.step(place != Place::GoesToSleep);
        }
    });
    // The step is done now, and an interrupt came before that.
    assert!(orders.wait_until(
        || orders.done.load(Ordering::Acquire) == orders.ordered.load(Ordering::Relaxed)
    ));
    let raised = orders.raised.load(Ordering::Relaxed);
    if rest == Rest::Nothing {
        assert!(!consumer.is_empty(), "nothing has come within {limit:?}: {arrival:?}");
        return Err(Hang { number, raised });
    }
    // What each side saw of the other. In between, where both see it, the interrupt reaches a
    // consumer that is awake.
    let expected = match arrival {
        Arrival::At(Place::Checked) => (Rest::FoundAfterAll, false, false),
        Arrival::At(Place::Unmasked) => (Rest::FoundAfterAll, true, true),
        _ => (Rest::Woken, true, false),
    };
    assert_eq!((rest, raised, consumer.is_interrupted()), expected, "{arrival:?}");
    assert_eq!(consumer.drain(), 1);
    Ok(())
}

/// At every point the datagram is found or announced, as the handshake says; and all the time at
/// the one point that needs the second look.
#[test]
fn consumer_never_sleeps_over_data() {
    let count = cycles(IN_TURNS);
    for places in [&EVERYWHERE[..], &EVERYWHERE[1..2]] {
        let began = Instant::now();
        run(count, places, Wrong::Nobody).unwrap();
        eprintln!(
            "{count} datagrams, in equal parts at {places:?}: no hang, {:.1} s",
            began.elapsed().as_secs_f64()
        );
    }
}

/// The controls: the first datagram that needs the missing part is slept over.
#[test]
fn a_broken_handshake_hangs() {
    let hang = |number| Err(Hang { number, raised: false });
    assert_eq!(run(100, &EVERYWHERE, Wrong::Consumer), hang(1));
    assert_eq!(run(100, &EVERYWHERE[1..], Wrong::Device), hang(0));
}

/// A device in another process chases the consumer. It stores the next datagram when the consumer
/// has taken everything, after a pause that sweeps over the time that going to sleep takes.
#[test]
fn a_chasing_device_always_wakes_its_consumer() {
    let count = cycles(CHASED);
    let env = env(count);
    let mut device =
        Device::start(&env, "--socket", &format!("--chase 1us --size 24 --count {count}"));
    let mut consumer = device.connect();
    let [ours, theirs] = processors();
    let its = Pid::from_raw(device.process.pid() as i32);
    sched_setaffinity(its, &theirs).unwrap();
    // The affinity ends with this thread.
    let chased = std::thread::scope(|scope| {
        let consume = scope.spawn(|| {
            sched_setaffinity(None, &ours).unwrap();
            Chased::by(&mut consumer, count)
        });
        consume.join().expect("a consumer that does not hang")
    });
    let device_account = device.device_account();
    eprintln!("{count} datagrams, {} interrupts raised: {chased:?}", device_account.interrupts);
    assert!(device_account.interrupts >= consumer.interrupts, "{} seen", consumer.interrupts);
    consumer.accounts[0].check(&device_account.channels[0]).unwrap();
    assert_eq!((device_account.lost, consumer.accounts[0].verifier.is_clean()), (0, true));
}

/// At which points a chased consumer was met, as far as it can know.
#[derive(Debug, Default)]
struct Chased {
    before_the_check: u64,
    found_by_the_second_look: u64,
    woken: u64,
    /// Of these, wake-ups for what the second look had found: the device had seen the mask, too.
    for_nothing: u64,
    /// How often it was really asleep.
    asleep: u64,
    took: Duration,
}

impl Chased {
    fn by(consumer: &mut Consumer, count: u64) -> Self {
        let (mut met, mut delivered) = (Self::default(), 0);
        let (began, slept) = (Instant::now(), sleeps());
        while delivered < count {
            let rest = consumer.rest(HANGS, |_| ());
            match rest {
                Rest::FoundAfterAll => met.found_by_the_second_look += 1,
                Rest::Woken => met.woken += 1,
                Rest::Nothing => {
                    assert!(
                        consumer.is_empty() && !consumer.is_gone(),
                        "hangs behind datagram {delivered}"
                    )
                }
            }
            let taken = consumer.drain();
            // One datagram was found or announced; the others came before the next check.
            met.before_the_check += taken.saturating_sub(1);
            met.for_nothing += u64::from(rest == Rest::Woken && taken == 0);
            delivered += taken;
        }
        (met.took, met.asleep) = (began.elapsed(), sleeps() - slept);
        assert_eq!(
            met.before_the_check + met.found_by_the_second_look + met.woken - met.for_nothing,
            count
        );
        met
    }
}

/// How often this thread has really slept.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok()).expect("a count")
}
