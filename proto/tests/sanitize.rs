//! The ring between plain pthreads, for `tests/sanitize`, and faults that a sanitizer must find.
//!
//! Contract: neither the standard library nor its test harness is instrumented, so their ways to
//! pass data between threads would look like races. This is why threads are created with
//! `pthread_create`, and why `main` is ours. No reader is lapped: the reads of a lapped reader race
//! by design (`DESIGN.md` §6). Loom checks that what it read is discarded (P2), since
//! ThreadSanitizer does not support fences. An argument selects a fault.

#![allow(unsafe_code)]

use ringweir_proto::layout::Geometry;
use ringweir_proto::ring::{Meta, Publisher, Resume, RingReader, Start, Step, WritableRing};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const READERS: usize = 2;
const COUNT: u64 = 20_000;
const MOST: usize = 500;

/// Runs each body in a thread and joins them all.
fn threads(bodies: Vec<Box<dyn FnOnce() + Send>>) {
    extern "C" fn run(body: *mut c_void) -> *mut c_void {
        // SAFETY: the pointer comes from into_raw below and is passed only to this thread.
        let body = unsafe { Box::from_raw(body.cast::<Box<dyn FnOnce() + Send>>()) };
        body();
        std::ptr::null_mut()
    }
    let start = |body: Box<dyn FnOnce() + Send>| {
        let mut thread = 0;
        let body = Box::into_raw(Box::new(body)).cast();
        // SAFETY: `run` takes ownership of the body, which no other thread has, and `thread`
        // outlives the call that writes its id.
        let started = unsafe { libc::pthread_create(&raw mut thread, std::ptr::null(), run, body) };
        assert_eq!(started, 0);
        thread
    };
    let all: Vec<_> = bodies.into_iter().map(start).collect();
    for thread in all {
        // SAFETY: started above and joined once.
        assert_eq!(unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }, 0);
    }
}

fn length(seq: u64) -> usize {
    1 + (seq as usize * 7) % MOST
}

/// A publisher that waits for all readers before it would lap one. It fills in place and copies in,
/// in turn.
fn hand_over(count: u64) {
    let ring = WritableRing::on_heap(Geometry::new(64, 64 << 10, MOST as u64).unwrap());
    let memory = ring.memory().clone();
    let done: Arc<[AtomicU64; READERS]> = Arc::default();
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    let mut publisher = Publisher::new(ring);
    let seen = done.clone();
    bodies.push(Box::new(move || {
        for seq in 0..count {
            // A claim runs ahead of what is published by up to a sixteenth of the ring.
            while seen.iter().any(|done| done.load(Ordering::Acquire) + 32 <= seq) {
                std::thread::yield_now();
            }
            let len = length(seq);
            if seq % 2 == 0 {
                publisher.claim(len).unwrap().bytes()[..len].fill(seq as u8);
                publisher.commit(0, len, Meta::default());
                publisher.flush();
            } else {
                publisher.publish(&vec![seq as u8; len], Meta::default()).unwrap();
            }
        }
        publisher.end();
    }));
    for place in 0..READERS {
        let (mut reader, done) =
            (RingReader::new(memory.clone(), Start::Oldest, Resume::Oldest), done.clone());
        bodies.push(Box::new(move || {
            let mut bytes = vec![0; MOST];
            loop {
                match reader.step().unwrap() {
                    Step::Datagram(d) => {
                        reader.copy_out(&d, 0, &mut bytes[..d.len]);
                        assert!(
                            bytes[..d.len].iter().all(|b| *b == d.seq as u8)
                                && d.len == length(d.seq)
                        );
                        assert_eq!(reader.release().unwrap(), None);
                        done[place].store(d.seq + 1, Ordering::Release);
                    }
                    Step::Empty => std::thread::yield_now(),
                    Step::Ended => break,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(reader.account().delivered, count);
        }));
    }
    threads(bodies);
}

/// P1, between threads and over hundreds of laps: writing a datagram is ordered before reading it.
/// Or runs the fault that the argument names.
fn main() {
    match std::env::args().nth(1).as_deref() {
        #[cfg(ringweir_tsan)]
        Some("commit-not-released") => faults::weakened(ringweir_proto::ring::site::COMMIT_STORE),
        #[cfg(ringweir_tsan)]
        Some("cursor-not-acquired") => faults::weakened(ringweir_proto::ring::site::COMMIT_LOAD),
        #[cfg(ringweir_asan)]
        Some("read-beyond-the-end") => faults::read_beyond_the_end(),
        #[cfg(ringweir_asan)]
        Some("leak") => faults::leak(),
        _ => hand_over(COUNT),
    }
}

#[cfg(ringweir_tsan)]
mod faults {
    pub fn weakened(site: ringweir_proto::sync::Site) {
        ringweir_proto::sync::mutant::weaken(site);
        super::hand_over(2000);
    }
}

#[cfg(ringweir_asan)]
mod faults {
    use std::hint::black_box;

    pub fn read_beyond_the_end() {
        let bytes = vec![1u8; black_box(24)];
        // SAFETY: none; this is the fault that the sanitizer must find.
        black_box(unsafe { bytes.as_ptr().add(black_box(24)).read_volatile() });
    }

    pub fn leak() {
        std::mem::forget(black_box(vec![1u8; 1000]));
    }
}
