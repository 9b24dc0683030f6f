//! A ring object of an untrusted broker, with any bytes in it. Attaching must refuse or accept it,
//! and reading it must not panic, run for ever, or access a byte out of bounds (the address
//! sanitizer checks).
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringweir_proto::layout::Geometry;
use ringweir_proto::os::backing::Memory;
use ringweir_proto::os::object::{self, RingObject, RingSpec};
use ringweir_proto::ring::{Meta, Publisher, Resume, RingReader, Start, Step};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

/// The bytes of a valid ring of 16 slots with 20 datagrams, which the input then damages.
fn sound() -> &'static [u8] {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    SOUND.get_or_init(|| {
        let geometry = Geometry::new(16, 4096, 256).expect("sound");
        let metadata = [("channels".to_string(), "8".to_string())];
        let spec = RingSpec {
            name: "fuzz",
            geometry,
            generation: 3,
            metadata: &metadata,
            memory: Memory::Memfd,
            huge_pages: false,
        };
        let (ring, writable) =
            RingObject::create(&format!("/ringweir-fuzz.{}", std::process::id()), &spec)
                .expect("a ring");
        let mut publisher = Publisher::new(writable);
        for i in 0..20u8 {
            publisher.publish(&[i; 100][..usize::from(i) * 5], Meta::default()).expect("fits");
        }
        let mut bytes = vec![0; geometry.footprint() as usize];
        assert_eq!(
            rustix::io::pread(ring.read_only(), &mut bytes, 0),
            Ok(geometry.footprint() as usize)
        );
        bytes
    })
}

/// Makes a damaged ring. A leading byte of input says how much is cut off the end. Then every 11
/// bytes are one patch: an offset (2 bytes), a length (1) and a word (8).
fn object_of(input: &[u8]) -> OwnedFd {
    let mut bytes = sound().to_vec();
    let (cut, patches) = input.split_first().map_or((0, input), |(c, rest)| (*c as usize, rest));
    for patch in patches.chunks_exact(11) {
        let at = u16::from_le_bytes([patch[0], patch[1]]) as usize % bytes.len();
        // The length shortens the word, so that single bytes of a field can be changed too.
        let len = (patch[2] as usize % 8 + 1).min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&patch[3..3 + len]);
    }
    bytes.truncate(bytes.len() - if cut < 200 { 0 } else { (cut - 199) * 64 });
    let fd = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memfd");
    ftruncate(&fd, bytes.len() as u64).expect("ftruncate");
    rustix::io::pwrite(&fd, &bytes, 0).expect("pwrite");
    fd
}

fuzz_target!(|input: &[u8]| {
    let Ok(seen) = object::attach(object_of(input), false) else { return };
    for (start, resume) in [
        (Start::Oldest, Resume::Oldest),
        (Start::Seq(u64::MAX), Resume::Newest),
        (Start::Seq(7), Resume::Oldest),
    ] {
        let mut reader = RingReader::new(seen.memory.clone(), start, resume);
        let mut buffer = [0; 4096];
        for _ in 0..64 {
            match reader.step() {
                Ok(Step::Datagram(found)) => {
                    let most = found.len.min(buffer.len());
                    reader.copy_out(&found, 0, &mut buffer[..most]);
                    let _torn = reader.validate();
                }
                Ok(Step::Gap(_) | Step::Restarted(_)) => {}
                Ok(Step::Empty | Step::Ended) | Err(_) => break,
            }
            let account = reader.account();
            assert_eq!(
                account.start.wrapping_add(account.delivered).wrapping_add(account.lost),
                reader.read_cursor()
            );
        }
    }
});
