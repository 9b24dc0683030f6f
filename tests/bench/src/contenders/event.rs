//! Shared memory by the usual crates: a segment of slots that every reader maps for writing, and an
//! event for each reader.
//!
//! The publisher waits for the slowest reader, as it must without validation of each slot. An event
//! is a mutex and a condition variable; it is set once per batch.

#![allow(unsafe_code)]

use crate::contender::{Contender, Publisher, publish_batches};
use crate::job::{Job, Report, ready};
use crate::segment::{self, Segment};
use crate::tally::{Losses, Tally};
use ringweir_proto::sync::Ordering;

pub const CONTENDER: Contender = Contender {
    name: "shm+event",
    about: "shared_memory with a raw_sync event to each reader and one back: slots of 4 MiB in all \
        (at least 4, at most 1024), events set once a batch, the publisher waits for the slowest",
    publisher: Publisher::Process(publish),
    read,
    most: None,
    floor: false,
    unavailable: || None,
    polls: false,
};

// Places: published, ended, the publisher's event; then cursor and event of each reader.
const PUBLISHED: usize = 0;
const ENDED: usize = 1;
const BACK: usize = 2;

fn cursor_of(reader: usize) -> usize {
    3 + 2 * reader
}

fn places(job: &Job) -> usize {
    cursor_of(job.readers)
}

fn slots(job: &Job) -> u64 {
    ((4 << 20) / job.size).clamp(4, 1024) as u64
}

fn publish(job: &Job) -> anyhow::Result<Report> {
    let (slots, size) = (slots(job), job.size);
    let segment = Segment::create(&job.dir, places(job), slots as usize * size)?;
    let back = segment.make_event(BACK)?;
    let events = (0..job.readers)
        .map(|n| segment.make_event(cursor_of(n) + 1))
        .collect::<Result<Vec<_>, _>>()?;
    let slowest = || {
        (0..job.readers)
            .map(|n| segment.word(cursor_of(n)).load(Ordering::Acquire))
            .min()
            .unwrap_or(0)
    };
    let (mut next, mut free_until, mut named) = (0, slots, true);
    let report = publish_batches(job, |batch| {
        if std::mem::take(&mut named) {
            segment.forget(&job.dir)?;
        }
        for datagram in batch.datagrams() {
            if next == free_until {
                segment.word(PUBLISHED).store(next, Ordering::Release);
                events.iter().try_for_each(|event| segment::set(&**event))?;
                while slowest() + slots == next {
                    segment::wait(&*back)?;
                }
                free_until = slowest() + slots;
            }
            let to = segment.bytes((next % slots) as usize * size, size);
            // SAFETY: a slot of `size` bytes that every reader has passed, and a datagram of the
            // same size.
            unsafe { std::ptr::copy_nonoverlapping(datagram.as_ptr(), to, size) };
            next += 1;
        }
        segment.word(PUBLISHED).store(next, Ordering::Release);
        events.iter().try_for_each(|event| segment::set(&**event))
    })?;
    segment.word(ENDED).store(1, Ordering::Release);
    events.iter().try_for_each(|event| segment::set(&**event))?;
    Ok(report)
}

fn read(job: &Job) -> anyhow::Result<Report> {
    let (slots, size, reader) = (slots(job), job.size, job.reader.unwrap_or(0));
    let segment = Segment::open(&job.dir, places(job))?;
    let (event, back) = (segment.event(cursor_of(reader) + 1)?, segment.event(BACK)?);
    let mut tally = Tally::new(job, ready()?, Losses::None)?;
    let mut next = 0;
    loop {
        let ended = segment.word(ENDED).load(Ordering::Acquire) == 1;
        let published = segment.word(PUBLISHED).load(Ordering::Acquire);
        if next == published {
            if ended {
                break;
            }
            tally.look();
            segment::wait(&*event)?;
            continue;
        }
        while next < published {
            let at = segment.bytes((next % slots) as usize * size, size);
            // SAFETY: published, and not written again before this reader's cursor has passed it.
            tally.datagram(unsafe { std::slice::from_raw_parts(at, size) })?;
            next += 1;
        }
        segment.word(cursor_of(reader)).store(next, Ordering::Release);
        segment::set(&*back)?;
    }
    tally.close()
}
