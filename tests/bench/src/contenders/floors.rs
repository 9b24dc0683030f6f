//! The floors of waking another process: an eventfd, and a futex in shared memory. Only a number is
//! passed.

#![allow(unsafe_code)]

use crate::contender::{Contender, Publisher, publish_batches};
use crate::job::{Job, Report, ready};
use crate::segment::Segment;
use crate::tally::{Losses, Tally};
use anyhow::{Context, ensure};
use ringweir_pattern::datagram::Header;
use ringweir_proto::sync::Ordering;
use rustix::thread::futex;
use std::sync::atomic::AtomicU32;

pub const EVENTFD: Contender = Contender {
    name: "eventfd floor",
    about: "no data, one eventfd write and one blocking read between two processes",
    publisher: Publisher::Process(ring_eventfd),
    read: read_eventfd,
    most: None,
    floor: true,
    unavailable: || None,
    polls: false,
};

pub const FUTEX: Contender = Contender {
    name: "futex floor",
    about: "no data, FUTEX_WAKE and FUTEX_WAIT on a shared word between two processes",
    publisher: Publisher::Process(wake_futex),
    read: read_futex,
    most: None,
    floor: true,
    unavailable: || None,
    polls: false,
};

const NUMBER: usize = 0;
const ENDED: usize = 1;
const FUTEX_WORD: usize = 2;
const FD: usize = 3;
const PID: usize = 4;
const PLACES: usize = 5;

/// The reader's eventfd, duplicated into this process. Its owner wrote its pid and its number into
/// the segment.
fn borrow_eventfd(segment: &Segment) -> anyhow::Result<std::os::fd::OwnedFd> {
    let pid = segment.word(PID).load(Ordering::Acquire) as i32;
    let fd = segment.word(FD).load(Ordering::Acquire) as i32;
    let pid = rustix::process::Pid::from_raw(pid).context("the reader's pid")?;
    let of = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    rustix::process::pidfd_getfd(&of, fd, rustix::process::PidfdGetfdFlags::empty())
        .context("pidfd_getfd of the reader's eventfd")
}

fn ring_eventfd(job: &Job) -> anyhow::Result<Report> {
    let segment = Segment::create(&job.dir, PLACES, 0)?;
    let mut event = None;
    let mut number = 0u64;
    let report = publish_batches(job, |_| {
        if event.is_none() {
            segment.forget(&job.dir)?;
            event = Some(borrow_eventfd(&segment)?);
        }
        number += 1;
        segment.word(NUMBER).store(number, Ordering::Release);
        let event = event.as_ref().context("opened above")?;
        Ok(rustix::io::write(event, &1u64.to_ne_bytes()).map(drop)?)
    })?;
    segment.word(ENDED).store(1, Ordering::Release);
    if let Some(event) = event {
        rustix::io::write(event, &1u64.to_ne_bytes())?;
    }
    Ok(report)
}

/// Takes all numbers up to `published`: one wake-up may stand for several.
fn take(job: &Job, tally: &mut Tally, next: &mut u64, published: u64) -> anyhow::Result<()> {
    while *next < published {
        tally.right(&Header { number: *next, len: job.size as u32, channel: 0 })?;
        *next += 1;
    }
    Ok(())
}

fn read_eventfd(job: &Job) -> anyhow::Result<Report> {
    let segment = Segment::open(&job.dir, PLACES)?;
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    segment.word(FD).store(std::os::fd::AsRawFd::as_raw_fd(&event) as u64, Ordering::Release);
    segment.word(PID).store(std::process::id().into(), Ordering::Release);
    let mut tally = Tally::new(job, ready()?, Losses::None)?;
    let mut next = 0;
    loop {
        let mut count = [0; 8];
        ensure!(rustix::io::read(&event, &mut count)? == 8, "a short read of an eventfd");
        let ended = segment.word(ENDED).load(Ordering::Acquire) == 1;
        take(job, &mut tally, &mut next, segment.word(NUMBER).load(Ordering::Acquire))?;
        if ended {
            return tally.close();
        }
    }
}

/// The futex: the low half of its place.
fn futex_word(segment: &Segment) -> &AtomicU32 {
    let at = std::ptr::from_ref(segment.word(FUTEX_WORD)).cast::<AtomicU32>();
    // SAFETY: aligned, inside the segment, alive as long as it; the place is not used as a whole
    // word.
    unsafe { &*at }
}

fn wake_futex(job: &Job) -> anyhow::Result<Report> {
    let segment = Segment::create(&job.dir, PLACES, 0)?;
    let word = futex_word(&segment);
    let mut named = true;
    let wake = |word: &AtomicU32| {
        word.fetch_add(1, Ordering::AcqRel);
        futex::wake(word, futex::Flags::empty(), 1).context("FUTEX_WAKE")
    };
    let mut number = 0;
    let report = publish_batches(job, |_| {
        if std::mem::take(&mut named) {
            segment.forget(&job.dir)?;
        }
        number += 1;
        segment.word(NUMBER).store(number, Ordering::Release);
        wake(word).map(drop)
    })?;
    segment.word(ENDED).store(1, Ordering::Release);
    wake(word)?;
    Ok(report)
}

fn read_futex(job: &Job) -> anyhow::Result<Report> {
    let segment = Segment::open(&job.dir, PLACES)?;
    let word = futex_word(&segment);
    let mut tally = Tally::new(job, ready()?, Losses::None)?;
    let mut next = 0;
    loop {
        let seen = word.load(Ordering::Acquire);
        let ended = segment.word(ENDED).load(Ordering::Acquire) == 1;
        take(job, &mut tally, &mut next, segment.word(NUMBER).load(Ordering::Acquire))?;
        if ended {
            return tally.close();
        }
        match futex::wait(word, futex::Flags::empty(), seen, None) {
            Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("FUTEX_WAIT"),
        }
    }
}
