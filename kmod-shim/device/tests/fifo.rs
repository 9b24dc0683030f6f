//! A device's FIFO: the map against the C header, both ends of a channel against each other, and a
//! hostile device.
//!
//! Negative controls: `a_shifted_register_is_noticed`, `a_consumer_that_forgets_is_noticed`.
#![cfg(not(ringweir_loom))]

mod c;

use proptest::prelude::*;
use ringweir_device::*;
use ringweir_proto::sync::Ordering;
use std::mem::{offset_of, size_of};

// ---- the map ------------------------------------------------------------------------------------

/// The output of a C program that includes the header, after `edit` has changed the header.
fn printed_by_c(edit: impl Fn(String) -> String) -> Vec<String> {
    let header = edit(include_str!("../../ringshim.h").into());
    c::printed(&[("fifo.c", include_str!("fifo.c").into()), ("ringshim.h", header)])
}

fn ours() -> Vec<String> {
    let mut lines = Vec::new();
    macro_rules! layout {
        ($t:ty, $c:literal { $($field:ident),* }) => {
            lines.push(format!("{} {}", $c, size_of::<$t>()));
            $(lines.push(format!("{}.{} {}", $c, stringify!($field), offset_of!($t, $field)));)*
        };
    }
    layout!(Identity, "identity" { magic, version, device_id, features, fifo_offset, fifo_bytes,
        max_datagram, channels, rate });
    layout!(Status, "status" { status, interrupt_status, ready, time_low, time_high });
    layout!(Control, "control" { control, interrupt_mask, interrupt_clear, doorbell });
    layout!(Channel, "channel" { producer, produced, lost, lost_bytes, consumer, next_sequence,
        lost_reported });
    layout!(Registers, "registers" { identity, status, control, channel });
    for (name, value) in [
        ("MAGIC", MAGIC),
        ("VERSION", VERSION),
        ("FIFO_MIN", FIFO_MIN),
        ("FIFO_MAX", FIFO_MAX),
        ("CHANNELS_MAX", CHANNELS_MAX),
        ("REGISTERS", REGISTERS_BYTES as u32),
        ("HAS_INTERRUPT", HAS_INTERRUPT),
        ("HAS_TIME", HAS_TIME),
        ("HAS_DATE", HAS_DATE),
        ("IS_RUNNING", IS_RUNNING),
        ("IS_RESETTING", IS_RESETTING),
        ("DO_RUN", DO_RUN),
        ("DO_RESET", DO_RESET),
        ("IRQ_DATA", IRQ_DATA),
        ("MARK", MARK),
    ] {
        lines.push(format!("{name} {value:#x}"));
    }
    lines
}

#[test]
fn the_c_header_agrees_on_every_register() {
    assert_eq!(printed_by_c(|header| header), ours());
}

#[test]
fn a_shifted_register_is_noticed() {
    let swap = |header: String| {
        header
            .replace("__le32 interrupt_mask;", "__le32 doorbell_;")
            .replace("__le32 doorbell;", "__le32 interrupt_mask;")
    };
    let swapped = printed_by_c(|header| swap(header).replace("doorbell_", "doorbell"));
    assert_ne!(swapped, ours());
}

const SHAPE: Shape = Shape {
    device_id: 7,
    features: HAS_INTERRUPT,
    fifo_offset: 0x2000,
    fifo_bytes: 1024,
    max_datagram: 512,
    channels: 2,
    rate: 125_000,
};

/// One wrong register is enough to reject the device.
#[test]
fn a_device_is_believed_only_if_everything_agrees() {
    let window = SHAPE.window_bytes() as u64;
    assert_eq!(
        Shape::of(&DeviceMemory::on_heap(&SHAPE).unwrap().registers().identity, window),
        Ok(SHAPE)
    );
    let with = |set: &dyn Fn(&Identity)| {
        let device = DeviceMemory::on_heap(&SHAPE).unwrap();
        set(&device.registers().identity);
        Shape::of(&device.registers().identity, window).unwrap_err()
    };
    let store = Ordering::Relaxed;
    assert_eq!(with(&|i| i.magic.store(1, store)), NotAFifo::Magic(1));
    assert_eq!(with(&|i| i.version.store(0x2_0000, store)), NotAFifo::Version(0x2_0000));
    for bytes in [0, 512, 1000, 2 << 20] {
        let device = DeviceMemory::on_heap(&SHAPE).unwrap();
        device.registers().identity.fifo_bytes.store(bytes, store);
        assert_eq!(
            Shape::of(&device.registers().identity, window),
            Err(NotAFifo::FifoBytes(bytes))
        );
    }
    assert_eq!(with(&|i| i.channels.store(0, store)), NotAFifo::Channels(0));
    assert_eq!(with(&|i| i.channels.store(33, store)), NotAFifo::Channels(33));
    assert!(
        matches!(with(&|i| i.channels.store(3, store)), NotAFifo::Offset { .. }),
        "FIFOs reach over the window"
    );
    for offset in [0, 0x1000, 0x2004, 0xffff_f000] {
        let device = DeviceMemory::on_heap(&SHAPE).unwrap();
        device.registers().identity.fifo_offset.store(offset, store);
        assert!(
            matches!(Shape::of(&device.registers().identity, window), Err(NotAFifo::Offset { .. })),
            "{offset:#x}"
        );
    }
    for longest in [1009, 1024, u32::MAX] {
        let device = DeviceMemory::on_heap(&SHAPE).unwrap();
        device.registers().identity.max_datagram.store(longest, store);
        assert!(
            matches!(
                Shape::of(&device.registers().identity, window),
                Err(NotAFifo::MaxDatagram { .. })
            ),
            "{longest}"
        );
    }
    let device = DeviceMemory::on_heap(&SHAPE).unwrap();
    device.registers().identity.version.store(VERSION + 1, store);
    assert_eq!(
        Shape::of(&device.registers().identity, window),
        Ok(SHAPE),
        "a minor version more is the same map"
    );
}

// ---- both ends ----------------------------------------------------------------------------------

/// What was taken out, and the account.
#[derive(Debug, Default)]
struct Taken {
    datagrams: Vec<(Vec<u8>, Option<u64>)>,
    lost: u64,
    discarded: u64,
    renumbered: u64,
    garbage: Vec<Garbage>,
}

fn take(drain: &mut Drain, fifo: Fifo<'_>, most: usize, taken: &mut Taken) {
    for _ in 0..most {
        match drain.look(fifo) {
            Ok(None) => {
                taken.lost += drain.tail(fifo).map_or(0, |tail| u64::from(tail.lost));
                return;
            }
            Ok(Some(entry)) => {
                let mut bytes = vec![0; entry.len];
                drain.copy(fifo, &entry, &mut bytes);
                drain.take(fifo, &entry);
                taken.datagrams.push((bytes, entry.time));
                taken.lost += u64::from(entry.lost);
                taken.discarded += u64::from(entry.discarded);
                taken.renumbered += u64::from(entry.renumbered);
            }
            Err(garbage) => taken.garbage.push(garbage),
        }
    }
}

fn payload(number: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (number.wrapping_mul(31) ^ i.wrapping_mul(7)) as u8).collect()
}

/// A device whose positions are about to wrap.
fn about_to_wrap(features: u32) -> (DeviceMemory, Drain, Feed) {
    let shape = Shape { features, ..SHAPE };
    let device = DeviceMemory::on_heap(&shape).unwrap();
    let fifo = device.fifo(0);
    // Storing 2^32 bytes in steps of 512 would take long, so both ends begin near the wrap.
    for register in [&fifo.registers.consumer, &fifo.registers.producer] {
        register.store(u32::MAX - 1023, Ordering::Relaxed);
    }
    let feed = Feed::at(&shape, Counters { producer: u32::MAX - 1023, ..Counters::default() });
    let drain = Drain::new(&shape, fifo);
    (device, drain, feed)
}

proptest! {
    /// Whatever is stored and however it is drained: the same datagrams come out, whole and in
    /// order, and produced = taken + lost.
    #[test]
    fn every_loss_is_reported(
        rounds in prop::collection::vec(
            (prop::collection::vec(0usize..=512, 0..8), 0usize..8),
            1..60,
        ),
        timed: bool,
    ) {
        let features = if timed { HAS_TIME } else { 0 };
        let (device, mut drain, mut feed) = about_to_wrap(features);
        let fifo = device.fifo(0);
        let (mut stored, mut taken) = (Vec::new(), Taken::default());
        for (lengths, drained) in rounds {
            for len in lengths {
                let number = u64::from(feed.produced());
                let bytes = payload(number, len);
                if feed.store(fifo, &bytes, number + 5) {
                    stored.push((bytes, timed.then_some(number + 5)));
                }
            }
            take(&mut drain, fifo, drained, &mut taken);
        }
        take(&mut drain, fifo, usize::MAX, &mut taken);
        prop_assert_eq!(&taken.datagrams, &stored);
        prop_assert_eq!(taken.lost, u64::from(feed.lost()));
        prop_assert_eq!(stored.len() as u64 + taken.lost, u64::from(feed.produced()));
        prop_assert_eq!((taken.discarded, taken.renumbered, taken.garbage.len()), (0, 0, 0));
        prop_assert_eq!(device.fifo(1).registers.producer.load(Ordering::Relaxed), 0, "the other \
            channel is untouched");
    }

    /// Garbage is written over registers and FIFO at any moment. Nothing panics, no datagram is too
    /// long, and the channel continues. Once the device behaves again, what was discarded is known
    /// exactly.
    #[test]
    fn garbage_loses_only_what_it_covers(
        word in 0usize..128,
        value: u64,
        producer in prop::option::of(any::<u32>()),
        lengths in prop::collection::vec(0usize..200, 1..6),
    ) {
        let device = DeviceMemory::on_heap(&SHAPE).unwrap();
        let fifo = device.fifo(0);
        let (mut feed, mut drain) = (Feed::new(&SHAPE), Drain::new(&SHAPE, fifo));
        let mut taken = Taken::default();
        for len in &lengths {
            feed.store(fifo, &payload(0, *len), 0);
        }
        let true_producer = fifo.registers.producer.load(Ordering::Relaxed);
        fifo.words[word].store(value, Ordering::Relaxed);
        if let Some(producer) = producer {
            fifo.registers.producer.store(producer, Ordering::Relaxed);
        }
        take(&mut drain, fifo, 1000, &mut taken);
        prop_assert!(taken.datagrams.iter().all(|(bytes, _)| bytes.len() <= 512));
        prop_assert!(taken.datagrams.len() <= 1000);
        // The device recovers: its index is correct again.
        fifo.registers.producer.store(true_producer, Ordering::Relaxed);
        take(&mut drain, fifo, 1000, &mut taken);
        let before = taken.datagrams.len();
        feed.store(fifo, &payload(9, 8), 0);
        let mut after = Taken::default();
        take(&mut drain, fifo, 1000, &mut after);
        if producer.is_none() && taken.renumbered == 0 && after.renumbered == 0 {
            let known = before as u64 + after.discarded;
            prop_assert_eq!(known, lengths.len() as u64, "{:?} {:?}", taken, after);
            prop_assert_eq!(after.datagrams.len(), 1);
        }
    }
}

#[test]
fn a_consumer_that_forgets_is_noticed() {
    let (device, mut drain, mut feed) = about_to_wrap(0);
    let fifo = device.fifo(0);
    for number in 0..3 {
        feed.store(fifo, &payload(number, 64), 0);
    }
    // Control of `every_loss_is_reported`: if an entry was taken but not recorded, the next entry
    // reveals it.
    let first = drain.look(fifo).unwrap().unwrap();
    drain.take(fifo, &first);
    assert!(!drain.look(fifo).unwrap().unwrap().renumbered);
    fifo.registers.next_sequence.store(0, Ordering::Relaxed);
    assert!(Drain::new(&SHAPE, fifo).look(fifo).unwrap().unwrap().renumbered);
}

#[test]
fn each_kind_of_garbage_has_its_name() {
    let spoiled = |spoil: &dyn Fn(Fifo<'_>)| {
        let device = DeviceMemory::on_heap(&SHAPE).unwrap();
        let fifo = device.fifo(0);
        let (mut feed, mut drain) = (Feed::new(&SHAPE), Drain::new(&SHAPE, fifo));
        for number in 0..2 {
            feed.store(fifo, &payload(number, 16), 0);
        }
        spoil(fifo);
        let garbage = drain.look(fifo).unwrap_err();
        assert_eq!(drain.look(fifo), Ok(None), "resynchronised");
        garbage
    };
    let set = Ordering::Relaxed;
    assert!(matches!(
        spoiled(&|f| f.registers.producer.store(1032, set)),
        Garbage::Producer { producer: 1032, .. }
    ));
    assert!(matches!(
        spoiled(&|f| f.registers.producer.store(7, set)),
        Garbage::Producer { producer: 7, .. }
    ));
    assert!(
        matches!(spoiled(&|f| f.registers.producer.store(8, set)), Garbage::Mark { .. }),
        "half a header"
    );
    assert!(matches!(
        spoiled(&|f| f.words[0].store(0xdead, set)),
        Garbage::Mark { at: 0, found: 0xdead }
    ));
    let long = |len: u32| u64::from(MARK) | u64::from(len) << 32;
    for len in [513, 65, u32::MAX] {
        let garbage = spoiled(&|f| f.words[0].store(long(len), set));
        assert!(
            matches!(garbage, Garbage::Length { at: 0, len: reported, .. } if reported == len),
            "{garbage:?}"
        );
    }
}

/// A new consumer continues where the previous one stopped, and counts nothing twice.
#[test]
fn a_new_consumer_continues() {
    let device = DeviceMemory::on_heap(&SHAPE).unwrap();
    let fifo = device.fifo(1);
    let (mut feed, mut drain, mut taken) =
        (Feed::new(&SHAPE), Drain::new(&SHAPE, fifo), Taken::default());
    for number in 0..30 {
        feed.store(fifo, &payload(number, 64), 0);
    }
    take(&mut drain, fifo, 5, &mut taken);
    let mut drain = Drain::new(&SHAPE, fifo);
    take(&mut drain, fifo, 100, &mut taken);
    assert_eq!((taken.datagrams.len() as u64, taken.lost), (12, 18), "1024 / (16 + 64) = 12 fit");
    for number in 30..35 {
        feed.store(fifo, &payload(number, 64), 0);
        take(&mut drain, fifo, 100, &mut taken);
    }
    assert_eq!(
        (taken.datagrams.len(), taken.lost, taken.discarded, taken.renumbered),
        (17, 18, 0, 0)
    );
}
