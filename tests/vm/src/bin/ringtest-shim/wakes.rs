//! The module's half of the wake handshake (A16). A device that chases its consumer (`ringfpga
//! --chase`) stores the next datagram while the consumer goes to sleep in `poll`, and the consumer
//! must not sleep over any. It drains as the broker does: the mapped window, the same algorithm,
//! `poll` when it is empty.
//!
//! Control: sleeping in an edge-triggered `epoll_wait`. It asks the module only once, so the next
//! interrupt is never allowed, and the consumer sleeps over the datagram after that.

#![allow(unsafe_code)]

use ringweir_device::{Drain, disarm};
use ringweir_pattern::verify::Verifier;
use rustix::event::epoll;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::check::check;
use crate::device::{CONTROL, DOORBELL, Device, STATUS};

/// A consumer that sleeps this long over data hangs. On a busy host everything else takes long,
/// too.
const HANGS: Duration = Duration::from_secs(30);
/// The same where nothing is left that could wake it.
const HANGS_SURELY: Duration = Duration::from_secs(2);

/// The outcomes, as far as the consumer can know them.
#[derive(Debug, Default)]
struct Met {
    datagrams: u64,
    /// Datagrams that came while others were drained.
    before_the_check: u64,
    polls: u64,
    /// Of the polls, those that found interrupts still allowed: the look after allowing them has
    /// found the datagram.
    found_by_the_second_look: u64,
    /// How often the process was really asleep.
    asleep: u64,
    /// The module's counter.
    interrupts: u64,
    spurious: u64,
    wakeups: u64,
    seconds: f64,
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { datagrams, before_the_check, polls, found_by_the_second_look, asleep, .. } =
            self;
        let Self { interrupts, spurious, wakeups, seconds, .. } = self;
        write!(
            f,
            "{datagrams} datagrams in {seconds:.1} s, no hang: {before_the_check} came before the \
            check; of {polls} polls {found_by_the_second_look} found theirs by the second look; \
            {asleep} times asleep; the module: {interrupts} interrupts, {spurious} spurious, \
            {wakeups} wake-ups"
        )
    }
}

/// How it sleeps.
enum Bed<'d> {
    Poll(&'d Device),
    Edge(OwnedFd),
}

impl Bed<'_> {
    /// Sleeps until something has come; false if the time is over. Then poll itself looks once more
    /// and finds what it slept over, so its answer does not count: the clock does.
    fn sleep(&self) -> Result<bool> {
        let began = Instant::now();
        let limit = match self {
            Self::Poll(device) => {
                let found = device.poll(HANGS);
                ensure!(found & !libc::POLLIN == 0, "FAILED poll: {found:#x}");
                HANGS
            }
            Self::Edge(epoll) => {
                let mut events = [MaybeUninit::<epoll::Event>::uninit()];
                let limit = ringweir_proto::os::event::timespec(HANGS_SURELY);
                epoll::wait(epoll, &mut events, Some(&limit))?;
                HANGS_SURELY
            }
        };
        Ok(began.elapsed() < limit)
    }
}

/// Takes `datagrams` of a device that chases.
pub fn run(node: &Path, datagrams: u64, edge: bool) -> Result<()> {
    let device = Device::wait_open(node)?;
    let window = device.window()?;
    for (control, status) in [
        (ringweir_device::DO_RESET, ringweir_device::IS_RESETTING),
        (ringweir_device::DO_RUN, ringweir_device::IS_RUNNING),
    ] {
        window.put(CONTROL, control);
        ensure!(device.ioctl(DOORBELL, 0).is_ok(), "DOORBELL");
        window.until(STATUS, status, true)?;
    }
    let (at, length) = (NonNull::new(window.at).context("mapped at 0")?, window.length);
    // SAFETY: page-aligned and mapped for reading and writing until the window, which moves along,
    // is dropped; nothing else here knows the address.
    let window = unsafe { ringweir_device::DeviceMemory::over(at, length, Box::new(window)) }?;
    let bed = match edge {
        false => Bed::Poll(&device),
        true => {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            epoll::add(
                &epoll,
                &device,
                epoll::EventData::new_u64(0),
                epoll::EventFlags::IN | epoll::EventFlags::ET,
            )?;
            Bed::Edge(epoll)
        }
    };
    let counters = || -> Result<[u64; 3]> {
        Ok([device.counter("interrupts")?, device.counter("spurious")?, device.counter("wakeups")?])
    };
    let (before, slept, began) = (counters()?, sleeps()?, Instant::now());
    let mut met = take(&window, &bed, datagrams)?;
    (met.seconds, met.asleep) = (began.elapsed().as_secs_f64(), sleeps()? - slept);
    let after = counters()?;
    [met.interrupts, met.spurious, met.wakeups] = std::array::from_fn(|n| after[n] - before[n]);
    // When this is run by hand, there is no host to print it.
    let _heard = ringweir_vm::guest::scenario::print(met.to_string());
    check("all in order, and none slept over", true, &met)?;
    check(
        "interrupts woke it",
        met.interrupts > 0 && met.wakeups > 0 && met.wakeups <= met.interrupts,
        &met,
    )
}

fn take(window: &ringweir_device::DeviceMemory, bed: &Bed<'_>, datagrams: u64) -> Result<Met> {
    let (fifo, mask) = (window.fifo(0), &window.registers().control.interrupt_mask);
    let mut drain = Drain::new(window.shape(), fifo);
    let (mut met, mut verifier) = (Met::default(), Verifier::default());
    let mut payload = vec![0; window.shape().max_datagram as usize];
    while met.datagrams < datagrams {
        if !bed.sleep()? {
            let mask = mask.load(Ordering::Relaxed);
            // If the device has stored nothing, it is only slow.
            ensure!(
                drain.is_empty(fifo),
                "FAILED: slept over a datagram: {met:?}, interrupts allowed: {mask}"
            );
            continue;
        }
        met.polls += 1;
        met.found_by_the_second_look += u64::from(mask.load(Ordering::Relaxed) != 0);
        disarm(mask);
        let mut taken = 0;
        while let Some(entry) = drain.look(fifo)? {
            let payload = &mut payload[..entry.len];
            drain.copy(fifo, &entry, payload);
            verifier
                .accept(payload)
                .map_err(|fault| anyhow::anyhow!("FAILED datagram {}: {fault}", met.datagrams))?;
            drain.take(fifo, &entry);
            taken += 1;
        }
        met.datagrams += taken;
        met.before_the_check += taken.saturating_sub(1);
        ensure!(
            verifier.is_clean() && verifier.ok == met.datagrams,
            "FAILED not in order: {verifier:?}"
        );
    }
    Ok(met)
}

/// How often this thread has given up the processor by itself.
fn sleeps() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status")?;
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok(count.context("no voluntary_ctxt_switches")?.trim().parse()?)
}
