/*
 * The layout as a C programmer would write it down from DESIGN.md alone. layout.rs compares every
 * line of the output with the Rust structs.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define LINE __attribute__((aligned(128)))

struct identity {
    uint64_t magic;
    uint32_t layout_version, header_bytes;
    uint64_t total_bytes, depth, capacity, max_datagram, claim_slots, claim_bytes, slots_offset;
    uint64_t payload_offset;
    uint64_t created_ns, realtime_offset_ns;
    uint8_t boot_id[16];
    uint32_t broker_pid, owner_uid;
    uint8_t name[64];
    uint64_t reserved[41];
} LINE;
struct claim_line { uint64_t seq, pos, reserved[14]; } LINE;
struct write_line { uint64_t seq, reserved[15]; } LINE;
struct state_line { uint64_t ended, generation, upstream, source, position, reserved[11]; } LINE;
struct restart_record { uint64_t generation, first, lost, inexact; };
struct restart_lines { struct restart_record record[16]; } LINE;
struct counter_lines { uint64_t count[32]; } LINE;
struct header {
    struct identity identity;
    struct claim_line claim;
    struct write_line write;
    struct state_line state;
    struct counter_lines counters;
    uint64_t reserved[48];
    struct restart_lines restarts;
    uint64_t metadata_len;
    uint8_t metadata[2040];
} __attribute__((aligned(4096)));
struct slot {
    uint64_t stamp, pos, offset, lengths, tags, source_time, publish_time, bytes_before;
} __attribute__((aligned(64)));
struct reader_block {
    uint64_t read_seq, start_seq, delivered, lost, gaps, bytes_delivered, bytes_lost, lag_max;
    uint64_t last_gap_first, last_gap_count, last_gap_time, upstream_lost, waiting, read_bytes;
    uint64_t detached_by, demoted;
    uint64_t seen_seq, seen_source, granted, reserved[13];
} LINE;
struct latency_block { uint64_t sum_ns, max_ns, reserved[14], buckets[368]; } LINE;

#define AT(type, field) printf(#type "." #field " %zu\n", offsetof(struct type, field))
#define SIZE(type) printf(#type " %zu %zu\n", sizeof(struct type), _Alignof(struct type))

int main(void) {
    SIZE(identity);
    AT(identity, magic); AT(identity, layout_version); AT(identity, header_bytes);
    AT(identity, total_bytes); AT(identity, depth); AT(identity, capacity);
    AT(identity, max_datagram); AT(identity, claim_slots); AT(identity, claim_bytes);
    AT(identity, slots_offset); AT(identity, payload_offset); AT(identity, created_ns);
    AT(identity, realtime_offset_ns); AT(identity, boot_id); AT(identity, broker_pid);
    AT(identity, owner_uid); AT(identity, name); AT(identity, reserved);
    SIZE(claim_line); AT(claim_line, seq); AT(claim_line, pos); AT(claim_line, reserved);
    SIZE(write_line); AT(write_line, seq); AT(write_line, reserved);
    SIZE(state_line); AT(state_line, ended); AT(state_line, generation); AT(state_line, upstream);
    AT(state_line, source); AT(state_line, position); AT(state_line, reserved);
    SIZE(restart_record); AT(restart_record, generation); AT(restart_record, first);
    AT(restart_record, lost); AT(restart_record, inexact);
    SIZE(restart_lines); AT(restart_lines, record);
    SIZE(counter_lines); AT(counter_lines, count);
    SIZE(header);
    AT(header, identity); AT(header, claim); AT(header, write); AT(header, state);
    AT(header, counters); AT(header, reserved); AT(header, restarts); AT(header, metadata_len);
    AT(header, metadata);
    SIZE(slot);
    AT(slot, stamp); AT(slot, pos); AT(slot, offset); AT(slot, lengths); AT(slot, tags);
    AT(slot, source_time); AT(slot, publish_time); AT(slot, bytes_before);
    SIZE(reader_block);
    AT(reader_block, read_seq); AT(reader_block, start_seq); AT(reader_block, delivered);
    AT(reader_block, lost); AT(reader_block, gaps); AT(reader_block, bytes_delivered);
    AT(reader_block, bytes_lost); AT(reader_block, lag_max); AT(reader_block, last_gap_first);
    AT(reader_block, last_gap_count); AT(reader_block, last_gap_time);
    AT(reader_block, upstream_lost); AT(reader_block, waiting); AT(reader_block, read_bytes);
    AT(reader_block, detached_by); AT(reader_block, demoted); AT(reader_block, seen_seq);
    AT(reader_block, seen_source); AT(reader_block, granted); AT(reader_block, reserved);
    SIZE(latency_block);
    AT(latency_block, sum_ns); AT(latency_block, max_ns); AT(latency_block, reserved);
    AT(latency_block, buckets);
    return 0;
}
