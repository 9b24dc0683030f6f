//! Real threads: readers verify every byte while a publisher runs as fast as it can, and every
//! account balances.

use ringweir_proto::layout::Geometry;
use ringweir_proto::ring::{Cause, Meta, Publisher, Resume, RingReader, Start, Step, WritableRing};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A word that identifies seq and offset: the 8 bytes differ at any other offset and in any other
/// datagram.
fn word(seq: u64, at: usize) -> u64 {
    (seq << 16 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn length(seq: u64, most: usize) -> usize {
    match seq % 17 {
        0 => 0,
        1 => most,
        _ => (word(seq, 1) >> 40) as usize % most,
    }
}

fn payload(seq: u64, bytes: &mut [u8]) {
    for (i, chunk) in bytes.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&word(seq, i).to_le_bytes()[..chunk.len()]);
    }
}

fn is_payload(seq: u64, bytes: &[u8]) -> bool {
    bytes
        .chunks(8)
        .enumerate()
        .all(|(i, chunk)| word(seq, i).to_le_bytes()[..chunk.len()] == *chunk)
}

/// Publishes as fast as possible for `time`, in batches of 1 to 8. Returns the number of datagrams
/// and bytes.
fn storm(publisher: &mut Publisher, most: usize, time: Duration) -> (u64, u64) {
    let (began, mut seq, mut bytes) = (Instant::now(), 0, 0);
    while began.elapsed() < time {
        for _ in 0..64 {
            let batch = seq % 8 + 1;
            for _ in 0..batch {
                let len = length(seq, most);
                payload(seq, &mut publisher.claim(len).unwrap().bytes()[..len]);
                publisher.commit(0, len, Meta { channel: seq as u16, ..Meta::default() });
                seq += 1;
                bytes += len as u64;
            }
            publisher.flush();
        }
    }
    publisher.end();
    (seq, bytes)
}

/// Three readers with different habits verify every byte and their accounts.
#[test]
fn threads_see_whole_datagrams_and_exact_gaps() {
    const MOST: usize = 1500;
    for (depth, capacity) in [(4096, 1 << 20), (64, 64 << 10), (4, 8 << 10)] {
        let ring = WritableRing::on_heap(Geometry::new(depth, capacity, MOST as u64).unwrap());
        let memory = ring.memory().clone();
        let mut publisher = Publisher::new(ring);
        let habits = [(Resume::Oldest, 0), (Resume::Newest, 0), (Resume::Oldest, 300)];
        let readers = habits
            .map(|(resume, slow)| (RingReader::new(memory.clone(), Start::Oldest, resume), slow));
        std::thread::scope(|scope| {
            let readers = readers.map(|(mut reader, slow)| {
                scope.spawn(move || {
                    let (mut next, mut all_bytes, mut seen) = (0, true, 0u64);
                    let mut bytes = vec![0; MOST];
                    loop {
                        let gap = match reader.step().expect("not corrupt") {
                            Step::Restarted(_) => panic!("nobody restarted"),
                            Step::Ended => break,
                            Step::Empty => {
                                std::thread::yield_now();
                                continue;
                            }
                            Step::Gap(gap) => Some(gap),
                            Step::Datagram(d) => {
                                assert_eq!(
                                    (d.seq, d.len, d.channel),
                                    (next, length(next, MOST), next as u16)
                                );
                                reader.copy_out(&d, 0, &mut bytes[..d.len]);
                                seen += 1;
                                if slow > 0 && seen.is_multiple_of(slow) {
                                    std::thread::sleep(Duration::from_millis(1));
                                }
                                if reader.validate().is_ok() {
                                    assert!(is_payload(d.seq, &bytes[..d.len]), "torn");
                                    next += 1;
                                    assert_eq!(reader.release().expect("not corrupt"), None);
                                    None
                                } else {
                                    Some(
                                        reader
                                            .release()
                                            .expect("not corrupt")
                                            .expect("torn is a gap"),
                                    )
                                }
                            }
                        };
                        if let Some(gap) = gap {
                            assert_eq!((gap.first, gap.cause), (next, Cause::Lapped));
                            assert!(gap.count > 0);
                            if let Some(b) = gap.bytes {
                                let sum: usize = (gap.first..gap.first + gap.count)
                                    .map(|s| length(s, MOST))
                                    .sum();
                                assert_eq!(b, sum as u64);
                            }
                            all_bytes &= gap.bytes.is_some();
                            next += gap.count;
                        }
                        let a = reader.account();
                        assert_eq!(a.start + a.delivered + a.lost, reader.read_cursor());
                    }
                    (*reader.account(), all_bytes)
                })
            });
            let (seqs, bytes) = storm(&mut publisher, MOST, Duration::from_millis(1200));
            for reader in readers {
                let (a, all_bytes) = reader.join().unwrap();
                println!(
                    "depth {depth}: published {seqs}, delivered {}, lost {}, gaps {}",
                    a.delivered, a.lost, a.gaps
                );
                assert_eq!(a.delivered + a.lost, seqs, "published = delivered + lost");
                assert!(a.delivered > 0);
                if all_bytes {
                    assert_eq!(a.bytes_delivered + a.bytes_lost, bytes);
                }
            }
        });
    }
}

/// The control of the test above: the same check, on a datagram that is held while it is lapped and
/// not validated, detects foreign bytes. So the check can fail.
#[test]
fn without_validating_torn_bytes_are_seen() {
    const MOST: usize = 1500;
    let ring = WritableRing::on_heap(Geometry::new(64, 64 << 10, MOST as u64).unwrap());
    let memory = ring.memory().clone();
    let mut publisher = Publisher::new(ring);
    let (lapped, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (lapped, done) = (&lapped, &done);
        let reader = scope.spawn(move || {
            let mut reader = RingReader::new(memory, Start::Oldest, Resume::Oldest);
            let (mut torn, mut bytes) = (0, vec![0; MOST]);
            while torn < 100 && !done.load(Ordering::Relaxed) {
                let Step::Datagram(d) = reader.step().expect("not corrupt") else { continue };
                // Hold it until it is certain that a lap has passed.
                let at = lapped.load(Ordering::Acquire);
                while lapped.load(Ordering::Acquire) < at + 2 && !done.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                reader.copy_out(&d, 0, &mut bytes[..d.len]);
                torn += u64::from(!is_payload(d.seq, &bytes[..d.len]));
            }
            torn
        });
        let began = Instant::now();
        let mut seq = 0;
        while !reader.is_finished() && began.elapsed() < Duration::from_secs(20) {
            for _ in 0..64 {
                let len = length(seq, MOST);
                payload(seq, &mut publisher.claim(len).unwrap().bytes()[..len]);
                publisher.commit(0, len, Meta::default());
                publisher.flush();
                seq += 1;
            }
            lapped.fetch_add(1, Ordering::Release);
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(reader.join().unwrap(), 100, "the check sees torn bytes");
    });
}
