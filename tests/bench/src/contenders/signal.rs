//! A signal and a copy for each frame: the driver signals (as with SIGIO), the reader asks for the
//! frame in a system call that copies it out.
//!
//! The driver's frame memory is a memfd of 64 frames; a queued real-time signal carries the number,
//! `pread` is the `ioctl`. Like a driver, the publisher knows how far each reader's calls have
//! come, and waits for the slowest.

#![allow(unsafe_code)]

use crate::contender::{Contender, Publisher, publish_batches};
use crate::job::{Job, Report, ready};
use crate::segment::Segment;
use crate::tally::{Losses, Tally};
use anyhow::{Context, ensure};
use ringweir_proto::sync::Ordering;
use std::io;
use std::path::PathBuf;

pub const CONTENDER: Contender = Contender {
    name: "signal+copy",
    about: "a queued signal to each reader for each frame, which it answers by a call that copies \
        the frame (pread of the driver's memory); 64 frames, the driver waits for the slowest",
    publisher: Publisher::Process(publish),
    read,
    most: None,
    floor: false,
    unavailable: || None,
    polls: false,
};

/// Frames the driver keeps.
const FRAMES: u64 = 64;
/// The value that means that no more frames follow.
const END: usize = usize::MAX;

fn frames_at(job: &Job) -> PathBuf {
    job.dir.join("frames")
}

fn signal_number() -> i32 {
    libc::SIGRTMIN() + 1
}

fn notify(pid: i32, value: usize) -> anyhow::Result<()> {
    loop {
        let value = libc::sigval { sival_ptr: value as *mut libc::c_void };
        // SAFETY: no pointers; the value is a number to both sides.
        if unsafe { libc::sigqueue(pid, signal_number(), value) } == 0 {
            return Ok(());
        }
        let e = io::Error::last_os_error();
        // The queue of signals is full.
        ensure!(e.raw_os_error() == Some(libc::EAGAIN), "sigqueue: {e}");
        std::thread::yield_now();
    }
}

fn publish(job: &Job) -> anyhow::Result<Report> {
    // Places: pid and cursor of each reader.
    let segment = Segment::create(&job.dir, 2 * job.readers, 0)?;
    let frames = rustix::fs::memfd_create("frames", rustix::fs::MemfdFlags::CLOEXEC)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&frames);
    std::os::unix::fs::symlink(format!("/proc/{}/fd/{fd}", std::process::id()), frames_at(job))?;
    let size = job.size as u64;
    let mut pids: Vec<i32> = Vec::new();
    let slowest = || {
        (0..job.readers).map(|n| segment.word(2 * n + 1).load(Ordering::Acquire)).min().unwrap_or(0)
    };
    let (mut next, mut free_until) = (0, FRAMES);
    let report = publish_batches(job, |batch| {
        if pids.is_empty() {
            segment.forget(&job.dir)?;
            pids = (0..job.readers)
                .map(|n| segment.word(2 * n).load(Ordering::Acquire) as i32)
                .collect();
        }
        for datagram in batch.datagrams() {
            while next == free_until {
                free_until = slowest() + FRAMES;
                if next == free_until {
                    std::thread::yield_now();
                }
            }
            rustix::io::pwrite(&frames, datagram, next % FRAMES * size).context("pwrite")?;
            pids.iter().try_for_each(|pid| notify(*pid, next as usize))?;
            next += 1;
        }
        Ok(())
    })?;
    pids.iter().try_for_each(|pid| notify(*pid, END))?;
    // The frames exist as long as this process, so it waits until the last one is read.
    while slowest() < next {
        std::thread::yield_now();
    }
    Ok(report)
}

fn read(job: &Job) -> anyhow::Result<Report> {
    // SAFETY: all-zero is a valid sigset_t, filled in by the calls that follow.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: a set of this process and a signal number that exists.
    let blocked = unsafe { libc::sigaddset(&raw mut set, signal_number()) };
    // SAFETY: blocks that signal in this thread, the only one; taken by sigwaitinfo below.
    let blocked = blocked
        | unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    ensure!(blocked == 0, "block the signal: {}", io::Error::last_os_error());
    let reader = job.reader.unwrap_or(0);
    let segment = Segment::open(&job.dir, 2 * job.readers)?;
    let frames = std::fs::File::open(frames_at(job)).context("the driver's frames")?;
    segment.word(2 * reader).store(std::process::id().into(), Ordering::Release);
    let mut tally = Tally::new(job, ready()?, Losses::None)?;
    let mut frame = vec![0; job.size];
    loop {
        // SAFETY: all-zero is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: a set and room for one siginfo_t.
        if unsafe { libc::sigwaitinfo(&raw const set, &raw mut info) } < 0 {
            continue;
        }
        // SAFETY: sent by sigqueue, so it carries a value.
        let number = unsafe { info.si_value() }.sival_ptr as usize;
        if number == END {
            break;
        }
        let got = rustix::io::pread(&frames, &mut frame, number as u64 % FRAMES * job.size as u64)
            .context("pread")?;
        ensure!(got == job.size, "a frame of {got} bytes");
        tally.datagram(&frame)?;
        segment.word(2 * reader + 1).store(number as u64 + 1, Ordering::Release);
    }
    tally.close()
}
