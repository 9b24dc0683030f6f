//! A device that writes anything into its registers and its FIFO at any moment. The drain must not
//! panic, read out of bounds (the address sanitizer checks), return more than the longest datagram,
//! run for ever, or count anything twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringweir_device::{DeviceMemory, Drain, Feed, HAS_TIME, Shape};
use ringweir_proto::sync::Ordering;

fuzz_target!(|input: &[u8]| {
    let Some((&[kind, features], steps)) = input.split_first_chunk() else { return };
    let shape = Shape {
        device_id: 0,
        features: if features & 1 == 1 { HAS_TIME } else { 0 },
        fifo_offset: 0x2000,
        fifo_bytes: 1024,
        max_datagram: 256,
        channels: 1 + u32::from(features >> 6 & 1),
        rate: 0,
    };
    let device = DeviceMemory::on_heap(&shape).expect("sound");
    let registers = device.registers();
    let words = [
        &registers.identity.magic,
        &registers.identity.version,
        &registers.identity.fifo_offset,
        &registers.identity.fifo_bytes,
        &registers.identity.max_datagram,
        &registers.identity.channels,
    ];
    if kind == 0 {
        // The device's identity: accepted only if it is valid.
        for (register, value) in words.iter().zip(steps.chunks_exact(4)) {
            register.store(u32::from_le_bytes(value.try_into().expect("4")), Ordering::Relaxed);
        }
        if let Ok(seen) = Shape::of(&registers.identity, 1 << 16) {
            assert!(
                seen.window_bytes() <= 1 << 16
                    && seen.entry_bytes(seen.max_datagram) <= seen.fifo_bytes
            );
        }
        return;
    }
    let fifo = device.fifo(0);
    let (mut feed, mut drain) = (Feed::new(&shape), Drain::new(&shape, fifo));
    let (mut accounted, mut honest) = (0u64, true);
    for step in steps.chunks_exact(6) {
        let value = u32::from_le_bytes(step[2..].try_into().expect("4"));
        match step[0] % 8 {
            0..=2 => _ = feed.store(fifo, &vec![step[1]; usize::from(step[1])], u64::from(value)),
            3 => {
                fifo.words[usize::from(step[1]) % fifo.words.len()]
                    .store(u64::from(value) << (step[0] & 32), Ordering::Relaxed);
                honest = false;
            }
            4 => {
                let channel = fifo.registers;
                let register = [
                    &channel.producer,
                    &channel.consumer,
                    &channel.lost,
                    &channel.produced,
                    &channel.next_sequence,
                ];
                register[usize::from(step[1]) % 5].store(value, Ordering::Relaxed);
                honest = false;
            }
            5 => drain = Drain::new(&shape, fifo),
            _ => {
                let mut rounds = 0;
                loop {
                    rounds += 1;
                    assert!(rounds < 200, "1024 bytes hold fewer entries than that");
                    match drain.look(fifo) {
                        Ok(Some(entry)) => {
                            assert!(entry.len <= 256);
                            let mut bytes = vec![0; entry.len];
                            drain.copy(fifo, &entry, &mut bytes);
                            drain.take(fifo, &entry);
                            assert!(!honest || (!entry.renumbered && entry.discarded == 0));
                            accounted += 1 + u64::from(entry.lost);
                        }
                        Ok(None) => break,
                        Err(garbage) => assert!(!honest, "{garbage}"),
                    }
                }
                accounted += drain.tail(fifo).map_or(0, |tail| u64::from(tail.lost));
                assert!(
                    !honest || accounted == u64::from(feed.produced()),
                    "produced = taken + lost"
                );
            }
        }
    }
});
