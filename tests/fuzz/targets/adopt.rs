//! The ring of a dead broker, with any field damaged. It must be refused and left unchanged, or
//! adopted; after an adoption everything published from there on is read intact, and every account
//! that begins there closes. Nothing may panic, run for ever, or access a byte out of bounds (the
//! address sanitizer checks).
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringweir_proto::layout::Geometry;
use ringweir_proto::os::backing::Memory;
use ringweir_proto::os::object::{self, RingObject, RingSpec};
use ringweir_proto::ring::{
    Descriptor, Layer, Meta, Publisher, Restarted, Resume, RingMemory, RingReader, Start, Step,
    Unfit, WritableRing,
};
use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

const SLOTS: u64 = 16;
/// Number of datagrams that is more than a lap.
const LAP: u64 = 20;
const BYTES: usize = 8192 + 4096;
/// Length of header and slots: the part that adoption looks at.
const LOOKED_AT: usize = 4096 + SLOTS as usize * 64;
const VALUES: [u64; 12] = [
    0,
    1,
    SLOTS,
    1 << 31,
    1 << 32,
    (1 << 62) - 1,
    1 << 62,
    (1 << 62) + 1,
    1 << 63,
    u64::MAX,
    u64::MAX - 7,
    u32::MAX as u64,
];

/// A ring that stays mapped, the file behind it, and the contents that dead brokers left in it.
struct Stage {
    ring: RingObject,
    file: OwnedFd,
    left: Vec<Vec<u8>>,
}

fn bytes_of(file: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    assert_eq!(rustix::io::pread(file, &mut bytes, 0), Ok(BYTES));
    bytes
}

fn write(file: &OwnedFd, bytes: &[u8]) {
    assert_eq!(rustix::io::pwrite(file, bytes, 0), Ok(bytes.len()));
}

fn publish(publisher: &mut Publisher, count: u8) {
    for i in 0..count {
        publisher.publish(&[i; 100][..usize::from(i % 20) * 5], Meta::default()).expect("fits");
    }
}

impl Stage {
    fn get() -> &'static Self {
        static STAGE: OnceLock<Stage> = OnceLock::new();
        STAGE.get_or_init(|| {
            let name = format!("/ringweir-fuzz-adopt.{}", std::process::id());
            let geometry = Geometry::new(SLOTS, 4096, 256).expect("sound");
            let (memory, metadata) = (Memory::Shm, &[]);
            let spec = RingSpec {
                name: "fuzz",
                geometry,
                generation: 3,
                metadata,
                memory,
                huge_pages: false,
            };
            let (ring, _) = RingObject::create(&name, &spec).expect("a ring");
            let file = rustix::fs::open(
                format!("/dev/shm{name}"),
                OFlags::RDWR | OFlags::CLOEXEC,
                Mode::empty(),
            );
            let file = file.expect("its file");
            // Unlinked now, because the process is killed in the end. No other process needs the
            // name.
            rustix::fs::unlink(format!("/dev/shm{name}")).expect("unlink");
            let empty = bytes_of(&file);
            assert_eq!(empty.len() as u64, ring.memory().geometry().footprint());
            let mut left = vec![empty.clone()];
            let begin = |publisher: &mut Publisher| {
                publisher.lost_upstream(Layer::Kernel, 3, true);
                publisher.claim(24).expect("fits").write(0, &[0xee; 24]);
                publisher.commit(0, 24, Meta::default());
            };
            let shapes: [&dyn Fn(&mut Publisher); 4] = [
                &|p| publish(p, 5),
                &|p| publish(p, 45),
                &|p| {
                    publish(p, 20);
                    begin(p);
                },
                &|p| {
                    p.set_position(Some(7));
                    publish(p, 9);
                    begin(p);
                    let (mut next, _) = again(p.memory(), Some(20)).expect("sound");
                    publish(&mut next, 3);
                    begin(&mut next);
                },
            ];
            for shape in shapes {
                write(&file, &empty);
                // SAFETY: the publisher of the previous shape was dropped, so there is no other
                // one.
                let fresh = unsafe { WritableRing::assume_unique(ring.memory().clone()) };
                shape(&mut Publisher::new(fresh));
                left.push(bytes_of(&file));
            }
            Stage { ring, file, left }
        })
    }
}

/// Takes over the ring of a publisher that is dead.
fn again(memory: &Arc<RingMemory>, position: Option<u32>) -> Result<(Publisher, Restarted), Unfit> {
    // SAFETY: callers do not use the previous publisher any more.
    let ring = unsafe { WritableRing::assume_unique(memory.clone()) };
    Publisher::adopt(ring, position)
}

/// Bytes and length of a datagram that is published after the adoption.
fn content(seq: u64) -> ([u8; 256], usize) {
    ([seq as u8; 256], (seq % 200) as usize)
}

/// Whether the datagram in hand is what was published as `found.seq`; `None` if it was torn.
fn is_right(reader: &mut RingReader, found: &Descriptor) -> Option<bool> {
    let mut bytes = [0; 256];
    reader.copy_out(found, 0, &mut bytes[..found.len]);
    let (right, len) = content(found.seq);
    reader.validate().ok().map(|()| (found.len, &bytes[..found.len]) == (len, &right[..len]))
}

/// Reads everything available. Datagrams from `first` on must be right.
fn read(reader: &mut RingReader, first: u64) {
    for _ in 0..LAP {
        match reader.step() {
            Ok(Step::Datagram(found)) => {
                let right = is_right(reader, &found);
                assert!(found.seq < first || right != Some(false), "seq {}", found.seq);
            }
            Ok(Step::Gap(_) | Step::Restarted(_)) => {}
            // Damage may be reported as an error.
            Ok(Step::Empty | Step::Ended) | Err(_) => return,
        }
        let account = reader.account();
        assert_eq!(
            account.start.wrapping_add(account.delivered).wrapping_add(account.lost),
            reader.read_cursor()
        );
    }
}

fn adopted(memory: &Arc<RingMemory>, mut publisher: Publisher, first: u64, mut there: RingReader) {
    let mut fresh = RingReader::new(memory.clone(), Start::Latest, Resume::Oldest);
    assert_eq!((fresh.read_cursor(), publisher.next_seq()), (first, first));
    for seq in first..first + LAP {
        let (bytes, len) = content(seq);
        publisher.publish(&bytes[..len], Meta::default()).expect("fits");
        let mut step = fresh.step();
        if let Ok(Step::Gap(gap)) = step {
            // Records of losses and of a lost source that come before the first datagram may be
            // damaged too.
            assert_eq!((gap.first, first), (seq, seq), "{gap:?}");
            step = fresh.step();
        }
        match step {
            Ok(Step::Datagram(found)) => {
                assert!(
                    found.seq == seq && is_right(&mut fresh, &found) == Some(true),
                    "seq {seq}"
                );
            }
            other => panic!("seq {seq}: {other:?}"),
        }
        if seq % 5 == 0 {
            read(&mut there, first);
        }
    }
    publisher.end();
    read(&mut there, first);
    while !matches!(fresh.step(), Ok(Step::Ended)) {}
    let account = fresh.account();
    assert_eq!((account.lost, account.start + account.delivered), (0, first + LAP));
}

fuzz_target!(|input: &[u8]| {
    let stage = Stage::get();
    let [shape, position, patches @ ..] = input else { return };
    let mut bytes = stage.left[usize::from(*shape) % stage.left.len()].clone();
    for patch in patches.chunks_exact(12) {
        let (how, at) = (patch[0], usize::from(u16::from_le_bytes([patch[1], patch[2]])));
        let value = u64::from_le_bytes(patch[4..12].try_into().expect("8 bytes"));
        let at = at % if how & 0x80 == 0 { LOOKED_AT } else { BYTES };
        let word = at & !7;
        // Constant words are compared when the object is opened: tests/tests/restart.rs.
        if word < 512 || (2048..4096).contains(&word) {
            continue;
        }
        let now = u64::from_le_bytes(bytes[word..word + 8].try_into().expect("8 bytes"));
        let new = match how % 4 {
            0 => value,
            1 => now.wrapping_add_signed((value as i8).into()),
            2 => VALUES[value as usize % VALUES.len()],
            _ => now ^ 1 << (value % 64),
        };
        bytes[word..word + 8].copy_from_slice(&new.to_le_bytes());
    }
    let position = (*position < 128).then_some(u32::from(*position));
    write(&stage.file, &bytes);
    let memory = &object::attach(stage.ring.read_only(), false).expect("its own").memory;
    let there = RingReader::new(memory.clone(), Start::Oldest, Resume::Newest);
    match again(stage.ring.memory(), position) {
        Err(_) => assert_eq!(bytes_of(&stage.file), bytes, "unfit, and not left as it was"),
        Ok((publisher, restarted)) => adopted(memory, publisher, restarted.first, there),
    }
});
