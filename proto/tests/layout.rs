//! The layout as another language sees it: a C program prints every size and offset, and each must
//! match the Rust structs. Negative control: `a_shifted_field_is_noticed` compiles the same program
//! with one field moved.
#![cfg(not(ringweir_loom))]

mod c;

use ringweir_proto::layout::*;
use std::mem::{align_of, offset_of, size_of};

/// The output of the C program, after `edit` has changed its source.
fn printed_by_c(edit: impl Fn(String) -> String) -> Vec<String> {
    c::printed(&[("layout.c", edit(include_str!("layout.c").into()))])
}

fn ours() -> Vec<String> {
    let mut lines = Vec::new();
    macro_rules! layout {
        ($t:ty, $c:literal { $($field:ident),* }) => {
            lines.push(format!("{} {} {}", $c, size_of::<$t>(), align_of::<$t>()));
            $(lines.push(format!("{}.{} {}", $c, stringify!($field), offset_of!($t, $field)));)*
        };
    }
    layout!(Identity, "identity" { magic, layout_version, header_bytes, total_bytes, depth,
        capacity, max_datagram, claim_slots, claim_bytes, slots_offset, payload_offset, created_ns,
        realtime_offset_ns, boot_id, broker_pid, owner_uid, name, reserved });
    layout!(ClaimLine, "claim_line" { seq, pos, reserved });
    layout!(WriteLine, "write_line" { seq, reserved });
    layout!(StateLine, "state_line" { ended, generation, upstream, source, position, reserved });
    layout!(RestartRecord, "restart_record" { generation, first, lost, inexact });
    layout!(RestartLines, "restart_lines" { record });
    layout!(CounterLines, "counter_lines" { count });
    layout!(Header, "header" { identity, claim, write, state, counters, reserved, restarts,
        metadata_len, metadata });
    layout!(Slot, "slot" { stamp, pos, offset, lengths, tags, source_time, publish_time,
        bytes_before });
    layout!(ReaderBlock, "reader_block" { read_seq, start_seq, delivered, lost, gaps,
        bytes_delivered, bytes_lost, lag_max, last_gap_first, last_gap_count, last_gap_time,
        upstream_lost, waiting, read_bytes, detached_by, demoted, seen_seq, seen_source, granted,
        reserved });
    layout!(LatencyBlock, "latency_block" { sum_ns, max_ns, reserved, buckets });
    lines
}

#[test]
fn c_agrees_on_every_size_and_offset() {
    assert_eq!(printed_by_c(|source| source), ours());
}

#[test]
fn a_shifted_field_is_noticed() {
    let shifted =
        printed_by_c(|source| source.replace("uint64_t stamp, pos,", "uint64_t pos, stamp,"));
    assert_ne!(shifted, ours());
}

/// A header that contradicts itself or its object is refused, field by field.
#[test]
fn an_identity_is_believed_only_if_everything_agrees() {
    let geometry = Geometry::new(1024, 1 << 20, 4096).unwrap();
    let good = || Identity {
        magic: MAGIC,
        layout_version: LAYOUT_VERSION,
        header_bytes: PAGE as u32,
        total_bytes: geometry.footprint(),
        depth: geometry.depth(),
        capacity: geometry.capacity(),
        max_datagram: geometry.max_datagram(),
        claim_slots: geometry.claim_slots(),
        claim_bytes: geometry.claim_bytes(),
        slots_offset: geometry.slots_offset(),
        payload_offset: geometry.payload_offset(),
        created_ns: 1,
        realtime_offset_ns: 1,
        boot_id: [0; 16],
        broker_pid: 1,
        owner_uid: 0,
        name: [0; NAME_MAX],
        reserved: [0; 41],
    };
    assert_eq!(good().validate(geometry.footprint()), Ok(geometry));
    type Damage = fn(&mut Identity);
    let damages: [(&str, Damage); 12] = [
        ("magic", |i| i.magic ^= 1),
        ("version", |i| i.layout_version += 1),
        ("header_bytes", |i| i.header_bytes = 64),
        ("total_bytes", |i| i.total_bytes += 4096),
        ("depth", |i| i.depth = 1000),
        ("depth", |i| i.depth = 0),
        ("depth", |i| i.depth = u64::MAX),
        ("capacity", |i| i.capacity = u64::MAX),
        ("largest datagram", |i| i.max_datagram = 1 << 40),
        ("claims", |i| i.claim_bytes = 0),
        ("slots_offset", |i| i.slots_offset = 0),
        ("payload_offset", |i| i.payload_offset = u64::MAX),
    ];
    for (says, damage) in damages {
        let mut identity = good();
        damage(&mut identity);
        let error = identity.validate(geometry.footprint()).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
    assert!(good().validate(geometry.footprint() - 1).is_err(), "a shorter object must be refused");
}
