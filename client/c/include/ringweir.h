/*
 * libringweir: reading a ringweir stream, in place, from any process, and publishing one.
 *
 *     cc r.c $(pkg-config --cflags --libs ringweir)
 *
 *     #include <ringweir.h>
 *     int main(void) {
 *         rw_reader *r; rw_datagram d; rw_gap g; char text[RW_GAP_TEXT];
 *         int rc = rw_attach("fpga0", &(rw_options){ .label = "demo", .start = RW_LATEST }, &r);
 *         if (rc) { fprintf(stderr, "%s\n", rw_strerror(rc)); return 1; }
 *         for (;;) switch (rw_next(r, &d, &g)) {                 // never blocks
 *             case RW_DATAGRAM: use(d.data, d.len, d.seq);
 *                               if (rw_release(r) == RW_TORN) undo(d.seq); break;
 *             case RW_GAP:      rw_gap_text(&g, text, sizeof text);  // count, place, cause
 *                               fprintf(stderr, "%s\n", text); break;
 *             case RW_EMPTY:    rw_wait(r, -1); break;           // sleeps
 *             case RW_RESTARTED: break;                          // a new generation begins
 *             default:          rw_detach(r); return 0;          // end of the stream, or an error
 *         }
 *     }
 *
 * Loss is data, not an error. Unless attached with RW_LOSSLESS a reader is lossy: the stream never
 * waits for it. What it misses is reported exactly and in order, as gaps. For each reader and
 * generation start + delivered + lost = read_cursor (rw_reader_account()).
 *
 * A program that publishes a stream of its own calls rw_publisher_create(), rw_publish() for each
 * datagram (or rw_publisher_claim() and rw_publisher_commit() to fill the ring itself), and
 * rw_publisher_destroy().
 *
 * Calls return an int: 0 is done, above 0 an outcome, below 0 an error (see rw_code). Nothing here
 * throws, exits, logs, or installs a signal handler. Any number of readers of any streams may exist
 * in one process; each reader, watch and publisher is used by one thread at a time. Strings are
 * UTF-8. Numbers of 64 bits are unsigned long long on every machine: print them with %llu. Times
 * are ns: publish times of CLOCK_MONOTONIC (of the machine's first time namespace), dates since
 * 1970.
 *
 * Pointers: a call checks its pointers for NULL and alignment and relies on the program for the
 * rest. A string ends with a NUL. A struct or buffer to be read or filled in has its full size, and
 * no other thread uses it during the call. A pointer to an opaque type came from this library and
 * has not been detached or freed, nor is it during the call.
 *
 * Streams are found in $RINGWEIR_DIR alone if it is set, else in $XDG_RUNTIME_DIR/ringweir,
 * /run/user/UID/ringweir and /run/ringweir.
 */


#ifndef RINGWEIR_H
#define RINGWEIR_H

/* Generated from client/c/src/ by: RINGWEIR_HEADER=write cargo test -p ringweir-c --test header */

#include <stddef.h>
#include <stdint.h>

/*
 Version of this header. Upper 16 bits: the number in the library's SONAME. Lower 16 bits: the
 number of additions since then. Compare it with rw_abi_version() if the program may run with
 another library than it was compiled with.
 */
#define RW_ABI_VERSION 7

/*
 rw_options.start: with what is published from now on.
 */
#define RW_LATEST 0

/*
 rw_options.start: with the oldest datagram still there.
 */
#define RW_OLDEST 1

/*
 rw_options.start: with the seq in start_seq. If that has been overwritten, the loss is reported
 as a gap; if it is still to come, reading begins at the write cursor.
 */
#define RW_SEQ 2

/*
 rw_options.resume: after a lap continue near the oldest datagram still there.
 */
#define RW_RESUME_OLDEST 0

/*
 rw_options.resume: after a lap continue with the newest datagram.
 */
#define RW_RESUME_NEWEST 1

/*
 rw_options.flags: rw_wait() never sleeps but polls until there is something to read. It notices
 no signals: give it a timeout.
 */
#define RW_ALWAYS_SPIN 1

/*
 rw_options.flags: rw_wait() sleeps at once, without polling first.
 */
#define RW_NO_SPIN 2

/*
 rw_options.flags: do not fill this process's page tables now: attaching is quicker, reading
 takes page faults.
 */
#define RW_NO_PREFAULT 4

/*
 rw_options.flags: when the broker dies return RW_BROKER_GONE, instead of attaching to its
 successor.
 */
#define RW_NO_REATTACH 8

/*
 rw_options.flags: make the stream wait for this reader, so that it loses nothing as long as its
 budget lasts (--lossless of ringd; without it attaching is refused). After that comes
 RW_DEMOTED.
 */
#define RW_LOSSLESS 16

/*
 rw_gap.cause: the publisher lapped this reader, which was too slow. The seqs first to last are
 lost.
 */
#define RW_LAPPED 1

/*
 rw_gap.cause: the datagrams were lost before they were published, so they have no seq. They were
 due before seq first.
 */
#define RW_UPSTREAM 2

/*
 rw_gap.cause: the device behind the stream's source went away; what follows was sent after its
 return.
 */
#define RW_SOURCE_GONE 3

/*
 rw_gap.cause: the broker was restarted.
 */
#define RW_RESTART 4

/*
 Where it was lost: the publisher lapped this reader.
 */
#define RW_LAYER_READER 0

/*
 Where it was lost: the device's own buffer overflowed.
 */
#define RW_LAYER_DEVICE 1

/*
 Where it was lost: the kernel had no room between driver and broker.
 */
#define RW_LAYER_KERNEL 2

/*
 Where it was lost: the broker received it and could not publish it (too long, malformed).
 */
#define RW_LAYER_BROKER 3

/*
 rw_gap.bytes: the number is not known.
 */
#define RW_UNKNOWN UINT64_MAX

/*
 A buffer of this size is never too small for rw_gap_text().
 */
#define RW_GAP_TEXT 160

/*
 rw_publisher_options.flags: the ring is a sealed memfd, without a name in /dev/shm. It cannot be
 adopted after the program's death.
 */
#define RW_MEMFD 1

/*
 rw_publisher_options.flags: use huge pages as far as the kernel has some.
 */
#define RW_HUGE_PAGES 2

/*
 rw_publisher_options.flags: the stream waits for lossless readers without limit. Without it, and
 with a lossless_ns of 0, no reader may attach lossless.
 */
#define RW_WAIT_FOREVER 4

/*
 In place of a reader's number: the stream itself.
 */
#define RW_STREAM -1

/*
 rw_figure.kind: only grows.
 */
#define RW_COUNTER 0

/*
 rw_figure.kind: goes up and down.
 */
#define RW_GAUGE 1

/*
 rw_figure.kind: a time, CLOCK_MONOTONIC ns.
 */
#define RW_MONOTONIC 2

/*
 rw_figure.kind: a date, ns since 1970.
 */
#define RW_REALTIME 3

/*
 rw_watch_text(): the stream's name.
 */
#define RW_TEXT_NAME 0

/*
 rw_watch_text(): its source as configured, cut to 64 bytes.
 */
#define RW_TEXT_SOURCE 1

/*
 rw_watch_text(): state of the source in words, empty when all is well.
 */
#define RW_TEXT_NOTE 2

/*
 What a call returns, as an int. Zero: done. Above zero: an outcome that is not an error. Below
 zero: an error; rw_strerror() says what it means and what to do, rw_error_message() says which
 value was wrong.
 */
typedef enum rw_code {
  /*
   Done.
   */
  RW_OK = 0,
  /*
   The next datagram.
   */
  RW_DATAGRAM = 1,
  /*
   Datagrams this reader will never see: the rw_gap says which and why. Reported once, in
   order.
   */
  RW_GAP = 2,
  /*
   Nothing new: wait with rw_wait(), or with rw_arm() and poll().
   */
  RW_EMPTY = 3,
  /*
   The broker was restarted; what follows belongs to the new generation. The rw_gap says with
   which seq it begins, whether the account continues or begins anew (adopted), and what the
   restart cost.
   */
  RW_RESTARTED = 4,
  /*
   Nothing new, and there never will be: the stream has ended.
   */
  RW_ENDED = 5,
  /*
   Nothing new: the broker died, and this reader was attached with RW_NO_REATTACH.
   */
  RW_BROKER_GONE = 6,
  /*
   The datagram was overwritten while it was being read: undo what you did with it. The next
   call returns the gap that begins with it.
   */
  RW_TORN = 7,
  /*
   rw_arm(): there is something to read already, do not sleep.
   */
  RW_READY = 8,
  /*
   rw_wait(): the time has passed.
   */
  RW_TIMEOUT = 9,
  /*
   rw_wait(): a signal arrived.
   */
  RW_INTERRUPTED = 10,
  /*
   An administrator detached this reader (ringctl detach): it gets nothing more. It does not
   attach again by itself.
   */
  RW_DETACHED = 11,
  /*
   This reader was attached with RW_LOSSLESS and has used up its budget: the stream does not
   wait for it any more, and what it misses from now on is reported as gaps. Reported once,
   before the first of them.
   */
  RW_DEMOTED = 12,
  /*
   rw_try_publish(): a lossless reader has not read yet what would be overwritten. Nothing was
   published.
   */
  RW_WOULD_WAIT = 13,
  /*
   An argument is invalid: NULL, not UTF-8, an unknown flag, a reserved field that is not zero.
   */
  RW_INVALID = -1,
  /*
   rw_read(): the buffer is too small; the datagram stays unread and its length is in the
   rw_datagram.
   */
  RW_TOO_SMALL = -2,
  /*
   Another call is using this reader or watch at this moment. Each serves one thread at a time.
   */
  RW_BUSY = -3,
  /*
   No stream of that name is running.
   */
  RW_NOT_FOUND = -4,
  /*
   The stream's socket is there but no broker answers.
   */
  RW_NOT_RUNNING = -5,
  /*
   This user may not connect to the stream's socket, or is not on the stream's list.
   */
  RW_NO_ACCESS = -6,
  /*
   All reader indices are taken.
   */
  RW_FULL = -7,
  /*
   The broker is there but does not answer.
   */
  RW_NO_ANSWER = -8,
  /*
   The broker closed the connection without an answer.
   */
  RW_HUNG_UP = -9,
  /*
   Broker and library are of different releases.
   */
  RW_VERSION = -10,
  /*
   The broker's answer makes no sense.
   */
  RW_PROTOCOL = -11,
  /*
   No stream can have this name.
   */
  RW_BAD_NAME = -12,
  /*
   The ring contradicts itself: its memory was damaged.
   */
  RW_CORRUPT = -13,
  /*
   The broker, or this process, has run out of a resource.
   */
  RW_RESOURCES = -14,
  /*
   A call to the kernel failed.
   */
  RW_SYSTEM = -15,
  /*
   A defect of this library: the reader or watch can only be detached.
   */
  RW_PANIC = -16,
  /*
   This process is a child of the one that attached; after fork() the reader stays with the
   parent. Call rw_detach() here, which the parent does not notice, and attach again.
   */
  RW_FORKED = -17,
  /*
   A stream cannot be served: the name is served already, a value is out of range, or there is
   no room.
   */
  RW_NOT_STARTED = -18,
} rw_code;

/*
 Latencies of one reader from publish to read. The reader samples at most one datagram per
 millisecond. Constant, so any number of threads may use it.
 */
typedef struct rw_latency rw_latency;

/*
 A list of keys and values, all C strings. Constant, so any number of threads may use it.
 */
typedef struct rw_pairs rw_pairs;

/*
 The writing end of a stream. Made by rw_publisher_create(), ended by rw_publisher_destroy().
 Used by one thread at a time, which need not be the one that made it: several threads need a
 lock around its calls, or a publisher and stream each, which is faster. It stays with the
 process that made it: in a child of fork() calls return RW_FORKED.
 */
typedef struct rw_publisher rw_publisher;

/*
 The reading end of a stream. Made by rw_attach(), ended by rw_detach(). Used by one thread at a
 time, which need not be the one that attached. It stays with the process that attached: in a
 child of fork() calls return RW_FORKED; only rw_detach() works there, and the parent does not
 notice it.
 */
typedef struct rw_reader rw_reader;

/*
 A view of one stream's statistics. It works while the broker is busy, stopped or dead, and costs
 the broker nothing. Used by one thread at a time.
 */
typedef struct rw_watch rw_watch;

/*
 How to attach. All zero is a good choice; fields you do not know must be zero, so set it to zero
 first, or use a designated initialiser.
 */
typedef struct rw_options {
  /*
   What ringstat calls this reader, UTF-8, at most 32 bytes are kept; NULL: the name of the
   program.
   */
  const char *label;
  /*
   Where to begin: RW_LATEST, RW_OLDEST or RW_SEQ.
   */
  uint32_t start;
  /*
   Where to continue after a lap: RW_RESUME_OLDEST or RW_RESUME_NEWEST.
   */
  uint32_t resume;
  /*
   With RW_SEQ: the seq to begin at; otherwise 0.
   */
  unsigned long long start_seq;
  /*
   How long rw_wait() polls before it sleeps, in ns; 0: 5000. The longer, the lower the latency
   and the more processor time.
   */
  unsigned long long spin_ns;
  /*
   Any of RW_ALWAYS_SPIN, RW_NO_SPIN, RW_NO_PREFAULT, RW_NO_REATTACH, RW_LOSSLESS, or'ed.
   */
  uint32_t flags;
  /*
   Zero.
   */
  uint32_t reserved0;
  /*
   Zero.
   */
  unsigned long long reserved[6];
} rw_options;

/*
 One datagram.
 */
typedef struct rw_datagram {
  /*
   Its first byte. From rw_next(): in the shared ring, 8-aligned, read-only, and valid until
   the next call on this reader. The bytes may be overwritten at any moment; rw_release() says
   whether they were. From rw_read(): your buffer.
   */
  const uint8_t *data;
  /*
   Length in bytes.
   */
  size_t len;
  /*
   Number in the stream, from 0.
   */
  unsigned long long seq;
  /*
   Length in bytes before it was cut on its way into the ring; equals len if it was not.
   */
  size_t original_len;
  /*
   When the source saw it: ns since 1970; 0 if the source does not report it.
   */
  unsigned long long source_time;
  /*
   When the broker received it: CLOCK_MONOTONIC ns; rw_reader_date() turns it into a date.
   */
  unsigned long long publish_time;
  /*
   Channel, 0 to 65535; 0 if there is only one.
   */
  uint32_t channel;
  /*
   Zero.
   */
  uint32_t reserved0;
  /*
   Zero.
   */
  unsigned long long reserved[2];
} rw_datagram;

/*
 Datagrams a reader will never see.
 */
typedef struct rw_gap {
  /*
   First seq lost; for RW_UPSTREAM and RW_SOURCE_GONE the seq before which it happened.
   */
  unsigned long long first;
  /*
   Last seq lost; for RW_UPSTREAM and RW_SOURCE_GONE equal to first.
   */
  unsigned long long last;
  /*
   How many were lost; last - first + 1 for RW_LAPPED; 0 for RW_SOURCE_GONE, because the number
   is not known.
   */
  unsigned long long count;
  /*
   Their payload bytes, or RW_UNKNOWN.
   */
  unsigned long long bytes;
  /*
   Publish time of the datagram at which reading continues (CLOCK_MONOTONIC ns); 0 if there is
   none yet.
   */
  unsigned long long time;
  /*
   RW_LAPPED, RW_UPSTREAM or RW_SOURCE_GONE; with RW_RESTARTED always RW_RESTART.
   */
  uint32_t cause;
  /*
   Where they were lost: RW_LAYER_READER, _DEVICE, _KERNEL or _BROKER; for RW_SOURCE_GONE
   always _DEVICE.
   */
  uint32_t layer;
  /*
   1: count is exact (always so for RW_LAPPED). 0: at least count were lost, because the layer
   below does not count exactly (always so for RW_SOURCE_GONE).
   */
  uint32_t exact;
  /*
   RW_RESTART: 1 if the new broker took over the ring, so that seqs, account and sizes
   continue; count is what the restart cost. 0 if it made a fresh ring: the account begins
   anew, and metadata and geometry may have changed. For other causes 0.
   */
  uint32_t adopted;
  /*
   Zero.
   */
  unsigned long long reserved[2];
} rw_gap;

/*
 Sizes of a ring.
 */
typedef struct rw_geometry {
  /*
   Slots, a power of two: datagrams the ring holds at most.
   */
  unsigned long long depth;
  /*
   Payload bytes the ring holds.
   */
  unsigned long long capacity;
  /*
   Largest datagram in bytes: a buffer of this size is never too small.
   */
  unsigned long long max_datagram;
  /*
   Zero.
   */
  unsigned long long reserved[5];
} rw_geometry;

/*
 The account of a reader in this generation: always start + delivered + lost = read_cursor.
 */
typedef struct rw_account {
  /*
   Seq at which it began.
   */
  unsigned long long start;
  /*
   Datagrams delivered without being torn. One that is in hand, not released yet, is not
   counted.
   */
  unsigned long long delivered;
  /*
   Datagrams lost because the reader was lapped.
   */
  unsigned long long lost;
  /*
   Next seq to read.
   */
  unsigned long long read_cursor;
  /*
   Payload bytes delivered.
   */
  unsigned long long bytes_delivered;
  /*
   Payload bytes lost, where known.
   */
  unsigned long long bytes_lost;
  /*
   Laps reported.
   */
  unsigned long long gaps;
  /*
   Losses before the ring that were reported to it (these have no seq and are not in lost).
   */
  unsigned long long upstream_lost;
  /*
   Largest lag seen, in datagrams.
   */
  unsigned long long lag_max;
  /*
   Zero.
   */
  unsigned long long reserved[7];
} rw_account;

/*
 Who detached a reader.
 */
typedef struct rw_detached_by {
  /*
   Process that asked for it; 0 if it has no number in the broker's PID namespace.
   */
  uint32_t pid;
  /*
   User of that process.
   */
  uint32_t uid;
  /*
   Zero.
   */
  unsigned long long reserved[3];
} rw_detached_by;

/*
 Totals of a histogram.
 */
typedef struct rw_latency_total {
  /*
   When the reader attached, ns since 1970; together with its index this identifies it. 0 for
   drain gaps.
   */
  unsigned long long attached_realtime;
  /*
   Number of samples.
   */
  unsigned long long samples;
  /*
   Sum of all samples, ns.
   */
  unsigned long long sum_ns;
  /*
   The longest sample, ns.
   */
  unsigned long long max_ns;
  /*
   Zero.
   */
  unsigned long long reserved[4];
} rw_latency_total;

/*
 Samples of at least from_ns and less than to_ns.
 */
typedef struct rw_bucket {
  /*
   The shortest time in it, ns.
   */
  unsigned long long from_ns;
  /*
   The shortest time above it, ns: at most an eighth above from_ns, or 1 above it. UINT64_MAX
   for the last bucket.
   */
  unsigned long long to_ns;
  /*
   Samples in it, never 0.
   */
  unsigned long long count;
  /*
   Zero.
   */
  unsigned long long reserved;
} rw_bucket;

/*
 How a stream is served. All zero is a good choice; fields you do not know must be zero.
 */
typedef struct rw_publisher_options {
  /*
   Directory of the control socket; NULL: where readers look by default.
   */
  const char *run_dir;
  /*
   Group whose members may attach, by name or number; NULL: only root and this user.
   */
  const char *group;
  /*
   Metadata for readers, lines of KEY=VALUE; NULL: none.
   */
  const char *metadata;
  /*
   Room for payload, in bytes; 0: 8 MiB, or what depth implies.
   */
  unsigned long long capacity;
  /*
   How many datagrams the ring remembers, at least; 0: 16384, or what capacity implies.
   */
  unsigned long long depth;
  /*
   The largest datagram, in bytes, up to 16 MiB; 0: 64 KiB.
   */
  unsigned long long max_datagram;
  /*
   The usual size of a datagram, in bytes: converts capacity into depth and back; 0: 1024.
   */
  unsigned long long usual_datagram;
  /*
   How long the stream waits for a lossless reader in all, in ns; 0: no reader may attach
   lossless (but see RW_WAIT_FOREVER).
   */
  unsigned long long lossless_ns;
  /*
   How many bytes a lossless reader may be behind before the stream waits for it; 0: the whole
   ring.
   */
  unsigned long long lossless_bytes;
  /*
   Most readers at the same time, up to 4096; 0: 64.
   */
  uint32_t readers_max;
  /*
   Any of RW_MEMFD, RW_HUGE_PAGES, RW_WAIT_FOREVER, or'ed.
   */
  uint32_t flags;
  /*
   Zero.
   */
  unsigned long long reserved[6];
} rw_publisher_options;

/*
 What the source knows of a datagram beside its bytes.
 */
typedef struct rw_arrival {
  /*
   When the source saw it: ns since 1970; 0: not known.
   */
  unsigned long long source_time;
  /*
   Its length in bytes before it was cut; 0: it was not cut.
   */
  uint32_t original_len;
  /*
   Channel, 0 to 65535.
   */
  uint32_t channel;
  /*
   Zero.
   */
  unsigned long long reserved[2];
} rw_arrival;

/*
 The figures of a publisher.
 */
typedef struct rw_published {
  /*
   Seq of the next datagram. It is not 0 at the start if the ring of an earlier run of the
   program was adopted.
   */
  unsigned long long next_seq;
  /*
   Readers that are attached now.
   */
  unsigned long long readers;
  /*
   How often the stream has waited for lossless readers.
   */
  unsigned long long waits;
  /*
   For how long in all, in ns.
   */
  unsigned long long waited_ns;
  /*
   The largest datagram, in bytes.
   */
  unsigned long long max_datagram;
  /*
   Zero.
   */
  unsigned long long reserved[3];
} rw_published;

/*
 One figure.
 */
typedef struct rw_figure {
  /*
   Its name, the same as in ringstat --json. Valid until rw_watch_detach().
   */
  const char *name;
  /*
   What it means, in one line. Valid until rw_watch_detach().
   */
  const char *help;
  /*
   Its value.
   */
  unsigned long long value;
  /*
   RW_COUNTER, RW_GAUGE, RW_MONOTONIC or RW_REALTIME.
   */
  uint32_t kind;
  /*
   Zero.
   */
  uint32_t reserved0;
  /*
   Zero.
   */
  unsigned long long reserved[2];
} rw_figure;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 RW_ABI_VERSION of the library that is loaded. It fits the program if its upper 16 bits equal
 those of RW_ABI_VERSION and its lower 16 bits are not smaller.
 */
uint32_t rw_abi_version(void);

/*
 What a return code means and what to do about it, in English. Never NULL; the text is constant.
 */
const char *rw_strerror(int code);

/*
 Describes the last error of this thread: what was wrong, with which value, and what to do. For
 example: no stream "daq9"; running: daq0. Empty if there was none. Valid until the next call of
 this thread that returns an error; a successful call does not change it.
 */
const char *rw_error_message(void);

/*
 Attaches to the stream name, or to the control socket at a path (anything with a '/'). options
 may be NULL. On RW_OK end *reader with rw_detach(), otherwise it is NULL. Blocks until the
 broker answers, for at most 10 s. Errors: RW_INVALID, RW_NOT_FOUND, RW_NOT_RUNNING,
 RW_NO_ACCESS, RW_FULL, RW_NO_ANSWER, RW_HUNG_UP, RW_VERSION, RW_PROTOCOL, RW_BAD_NAME,
 RW_RESOURCES, RW_SYSTEM, RW_PANIC.
 */
int rw_attach(const char *name, const struct rw_options *options, struct rw_reader **reader);

/*
 Ends a reader: frees its reader index and everything it handed out. NULL is fine. RW_BUSY:
 another call is using it, and nothing was done.
 */
int rw_detach(struct rw_reader *reader);

/*
 Reads the next item. Never blocks, and makes no system call while datagrams come. After a
 restart of the broker each call only takes the next step of attaching to it. A datagram still in
 hand is released first; if it turns out to be torn, the gap that begins with it comes now.

 RW_DATAGRAM: *datagram describes it, in place; it is in hand until the next call that reads.
 Call rw_release() when done: unless it returns RW_OK, the bytes that were read may be a mixture.
 RW_GAP: *gap says what is lost. RW_RESTARTED: *gap describes the restart. RW_EMPTY, RW_DEMOTED,
 RW_ENDED, RW_BROKER_GONE, RW_DETACHED: neither is touched. Errors: RW_INVALID, RW_BUSY,
 RW_FORKED; RW_CORRUPT, and those of rw_attach() if attaching to a restarted broker fails for a
 permanent reason.
 */
int rw_next(struct rw_reader *reader, struct rw_datagram *datagram, struct rw_gap *gap);

/*
 Releases the datagram of rw_next(). RW_OK: it was not overwritten, what you read is valid, and
 it counts as delivered (RW_OK also if nothing was in hand). RW_TORN: the publisher overwrote it
 meanwhile; undo what you did with it. The next call returns the gap that begins with it. Errors:
 RW_INVALID, RW_BUSY.
 */
int rw_release(struct rw_reader *reader);

/*
 As rw_next(), but copies the datagram into the size bytes at buffer and validates the copy. It
 counts as delivered at once: there is no rw_release(), and never RW_TORN. A buffer of
 rw_geometry.max_datagram bytes is never too small; align it to 64.

 RW_TOO_SMALL: datagram->len is the size it needs (data is NULL, buffer untouched), and it stays
 unread: the next rw_read() or rw_next() returns it again or, if it has been overwritten by then,
 the gap that begins with it. buffer may be NULL if size is 0.
 */
int rw_read(struct rw_reader *reader,
            void *buffer,
            size_t size,
            struct rw_datagram *datagram,
            struct rw_gap *gap);

/*
 Sleeps until there is something to read, a signal arrives, or timeout_ms milliseconds have
 passed (-1: for ever, 0: only looks). Polls for rw_options.spin_ns first. RW_OK: call rw_next();
 sometimes there is nothing after all. RW_TIMEOUT: the time has passed. RW_INTERRUPTED: a signal
 arrived. A signal that arrives just before this call does not end it; where that matters, block
 the signal and use rw_arm(), rw_fd() and ppoll(), which also takes finer timeouts. Errors:
 RW_INVALID, RW_BUSY, RW_SYSTEM.
 */
int rw_wait(struct rw_reader *reader, int timeout_ms);

/*
 A file descriptor for poll(), select() or epoll: readable when a reader that was armed with
 rw_arm() has something to read, or its broker is gone. It stays the same when the broker
 restarts, and belongs to the reader: never read from it or close it. Errors, below zero:
 RW_INVALID, RW_BUSY, RW_RESOURCES, RW_SYSTEM.
 */
int rw_fd(struct rw_reader *reader);

/*
 Announces that this reader is about to sleep on rw_fd(): call it before each poll(), after
 rw_next() has returned RW_EMPTY. RW_OK: sleep; the descriptor will become readable (while there
 is no broker: when the next attempt to attach is due). RW_READY: do not sleep, call rw_next().
 Errors: RW_INVALID, RW_BUSY, RW_RESOURCES, RW_SYSTEM.
 */
int rw_arm(struct rw_reader *reader);

/*
 Writes what *gap says to text, as one line without a line end and with a NUL, for example "lost
 65 datagrams [seq 100..164], reader was lapped" or "lost at least 14 datagrams before seq 10158,
 in the kernel". RW_TOO_SMALL: it was cut to size bytes. Errors: RW_INVALID.
 */
int rw_gap_text(const struct rw_gap *gap, char *text, size_t size);

/*
 Name by which it was attached. Valid until rw_detach(). NULL if reader is NULL or in use by
 another call.
 */
const char *rw_reader_name(const struct rw_reader *reader);

/*
 Generation of the stream it is attached to, from 1; 0 if reader is NULL or in use by another
 call.
 */
unsigned long long rw_reader_generation(const struct rw_reader *reader);

/*
 Metadata of the stream, as given to ringd with --meta. Belongs to the reader: constant, and
 valid until rw_detach(); do not free it. After RW_RESTARTED with adopted 0 this may return
 another list: that of the new generation. NULL if reader is NULL, misaligned, or in use by
 another call.
 */
const struct rw_pairs *rw_reader_metadata(const struct rw_reader *reader);

/*
 Sizes of the ring; the same within a generation. Errors: RW_INVALID, RW_BUSY.
 */
int rw_reader_geometry(const struct rw_reader *reader, struct rw_geometry *geometry);

/*
 The reader's account. Errors: RW_INVALID, RW_BUSY.
 */
int rw_reader_account(const struct rw_reader *reader, struct rw_account *account);

/*
 The last lap of this generation. RW_EMPTY: there was none, and *gap is untouched. Errors:
 RW_INVALID, RW_BUSY.
 */
int rw_reader_last_gap(const struct rw_reader *reader, struct rw_gap *gap);

/*
 Turns a publish time into a date: ns since 1970, as the clock stands now. 0 if
 reader is NULL or in use by another call.
 */
unsigned long long rw_reader_date(const struct rw_reader *reader, unsigned long long publish_time);

/*
 Lists the streams whose sockets are in the run directories: the key is the name, the value the
 path of the control socket. Does not check whether their brokers are running. On RW_OK free
 *pairs with rw_pairs_free(). Errors: RW_INVALID.
 */
int rw_streams(struct rw_pairs **pairs);

/*
 Describes a stream: "name", "source", "summary" (what the broker reported at its start),
 "broker_version", and its metadata with "meta." before each key. On RW_OK free *pairs with
 rw_pairs_free(). Errors: those of rw_attach().
 */
int rw_describe(const char *name, struct rw_pairs **pairs);

/*
 Number of pairs; 0 for NULL.
 */
size_t rw_pairs_count(const struct rw_pairs *pairs);

/*
 Key of pair i (from 0); NULL past the end. Valid as long as the list.
 */
const char *rw_pairs_key(const struct rw_pairs *pairs, size_t i);

/*
 Value of pair i (from 0); NULL past the end. Valid as long as the list.
 */
const char *rw_pairs_value(const struct rw_pairs *pairs, size_t i);

/*
 Value of the first pair with this key; NULL if there is none. Valid as long as the list.
 */
const char *rw_pairs_find(const struct rw_pairs *pairs, const char *key);

/*
 Frees a list of rw_streams() or rw_describe() and everything in it. NULL is fine. Not for
 rw_reader_metadata().
 */
void rw_pairs_free(struct rw_pairs *pairs);

/*
 Detaches a reader of the stream name; allowed for root and the broker's own user. The reader
 gets RW_DETACHED. index and attached_realtime are its figures in rw_watch_get(). Both are
 needed, so that a reader that got the same index meanwhile is not detached instead.
 RW_NOT_FOUND: no such stream, or the reader is not attached any more. Errors: those of
 rw_attach().
 */
int rw_detach_reader(const char *name, uint32_t index, unsigned long long attached_realtime);

/*
 After RW_DETACHED: who detached this reader. RW_EMPTY: it has not got RW_DETACHED, and *by is
 untouched. Errors: RW_INVALID, RW_BUSY.
 */
int rw_reader_detached_by(const struct rw_reader *reader, struct rw_detached_by *by);

/*
 Asks the broker of the stream name for the latencies of the reader whose figure "index"
 (rw_watch_get()) is index. On RW_OK free *latency with rw_latency_free(), otherwise it is NULL.
 RW_NOT_FOUND: no such stream, or no reader with that index. Errors: those of rw_attach().
 */
int rw_latency_ask(const char *name, uint32_t index, struct rw_latency **latency);

/*
 Asks the broker of the stream name for its drain gaps since the stream began: how long the
 device's FIFO had been filling each time it was drained. On RW_OK free *latency with
 rw_latency_free(), otherwise it is NULL. RW_NOT_FOUND: no such stream, or its source has no
 FIFO. Errors: those of rw_attach().
 */
int rw_drain_gaps_ask(const char *name, struct rw_latency **latency);

/*
 Makes a histogram of the samples that latency has and before does not have; both must be of the
 same reader. Its longest sample is only as exact as its bucket. On RW_OK free *since with
 rw_latency_free(), otherwise it is NULL. Errors: RW_INVALID (also: of two readers).
 */
int rw_latency_since(const struct rw_latency *latency,
                     const struct rw_latency *before,
                     struct rw_latency **since);

/*
 Number of samples, their sum, and the longest one. Errors: RW_INVALID.
 */
int rw_latency_all(const struct rw_latency *latency, struct rw_latency_total *total);

/*
 The time in ns that a share (0 to 1) of the samples does not exceed; share 0.99 gives the 99th
 percentile. *ns is at most 12.5 % too high, never too low, and never above the longest sample.
 RW_EMPTY: there are no samples, and *ns is untouched. Errors: RW_INVALID.
 */
int rw_latency_quantile(const struct rw_latency *latency, double share, unsigned long long *ns);

/*
 Bucket i (from 0) of the buckets that are not empty, in rising order. RW_EMPTY: i is past the
 last one, and *bucket is untouched. Errors: RW_INVALID.
 */
int rw_latency_bucket(const struct rw_latency *latency, size_t i, struct rw_bucket *bucket);

/*
 Frees a histogram. NULL is fine.
 */
void rw_latency_free(struct rw_latency *latency);

/*
 Serves the stream name, which this program publishes. options may be NULL. On RW_OK end
 *publisher with rw_publisher_destroy(), otherwise it is NULL. If an earlier run of the program
 died, its ring is adopted: readers read on and get RW_RESTARTED. The library starts two threads
 for each publisher; they sleep unless readers attach, sleep or leave, and look after them ten
 times a second. Errors: RW_INVALID, RW_NOT_STARTED (the name is served already, a value is out
 of range, no room: the message says it), RW_PANIC.
 */
int rw_publisher_create(const char *name,
                        const struct rw_publisher_options *options,
                        struct rw_publisher **publisher);

/*
 Ends the stream: readers read what is there, then get RW_ENDED. NULL is fine. RW_BUSY: another
 call is using it, and nothing was done. In a child of fork() it frees the child's memory only.
 */
int rw_publisher_destroy(struct rw_publisher *publisher);

/*
 Publishes the size bytes at data as one datagram, and shows it to readers at once. arrival may
 be NULL. Made for call-backs: it needs no other call. It waits for no lossy reader, and for
 lossless ones as long as their budget allows. An open claim is given up, and data must not be
 its memory. Errors: RW_INVALID (longer than the largest datagram), RW_BUSY, RW_FORKED,
 RW_NOT_RUNNING (the library's control thread has ended), RW_PANIC.
 */
int rw_publish(struct rw_publisher *publisher,
               const void *data,
               size_t size,
               const struct rw_arrival *arrival);

/*
 As rw_publish(), but returns RW_WOULD_WAIT instead of waiting for a lossless reader; nothing was
 published then.
 */
int rw_try_publish(struct rw_publisher *publisher,
                   const void *data,
                   size_t size,
                   const struct rw_arrival *arrival);

/*
 Claims size bytes of the ring itself, so that nothing is copied: *memory is 8-aligned, and valid
 for writing until rw_publisher_commit() or another call on this publisher that publishes or
 claims; in a child of fork() never. Claiming the same size again gives the same memory with what
 was filled in. Its old content is lost to readers from now on. Waits as rw_publish() does.
 Errors: those of rw_publish(); *memory is NULL then.
 */
int rw_publisher_claim(struct rw_publisher *publisher, size_t size, void **memory);

/*
 Commits the first size bytes of the open claim as the next datagram; rw_publisher_flush() shows
 it. arrival may be NULL. If a lossless reader has attached since the claim, this may wait for
 it. Errors: RW_INVALID (no claim is open, or size is larger than it), RW_BUSY, RW_FORKED,
 RW_NOT_RUNNING, RW_PANIC.
 */
int rw_publisher_commit(struct rw_publisher *publisher,
                        size_t size,
                        const struct rw_arrival *arrival);

/*
 Shows all commits to readers, and wakes those that sleep. What nobody flushes is shown after 64
 commits, or when the program has been silent for 200 ms. Errors: RW_INVALID, RW_BUSY, RW_FORKED,
 RW_PANIC.
 */
int rw_publisher_flush(struct rw_publisher *publisher);

/*
 Reports that count datagrams were lost before the next one, in a layer (RW_LAYER_DEVICE,
 RW_LAYER_KERNEL or RW_LAYER_BROKER); exact 0: at least so many. Readers get a gap of cause
 RW_UPSTREAM before the next datagram. Errors: RW_INVALID, RW_BUSY, RW_FORKED, RW_PANIC.
 */
int rw_publisher_lost(struct rw_publisher *publisher,
                      uint32_t layer,
                      unsigned long long count,
                      int exact);

/*
 The publisher's figures. Errors: RW_INVALID, RW_BUSY, RW_FORKED, RW_PANIC.
 */
int rw_publisher_stats(struct rw_publisher *publisher, struct rw_published *figures);

/*
 Asks the broker of the stream name for its statistics, once. On RW_OK end *watch with
 rw_watch_detach(), otherwise it is NULL. Errors: those of rw_attach().
 */
int rw_watch_attach(const char *name, struct rw_watch **watch);

/*
 Ends a watch and frees everything it handed out. NULL is fine. RW_BUSY: another call is using
 it, and nothing was done.
 */
int rw_watch_detach(struct rw_watch *watch);

/*
 Takes the newest snapshot, which all calls below then use. The broker makes several per second;
 the figure sampled_at says when. Makes no system call. RW_EMPTY: there is no new one yet, and
 the last one stays. Errors: RW_INVALID, RW_BUSY.
 */
int rw_watch_refresh(struct rw_watch *watch);

/*
 1: the broker ended or died, and the figures will not change any more. 0: it did not. Errors:
 RW_INVALID, RW_BUSY.
 */
int rw_watch_hung_up(struct rw_watch *watch);

/*
 Number of readers in the snapshot. Errors: RW_INVALID (also: no snapshot yet), RW_BUSY.
 */
int rw_watch_readers(struct rw_watch *watch);

/*
 Figure i (from 0) of a reader (from 0) or of RW_STREAM. RW_EMPTY: i is past the last one, and
 *figure is untouched. The set of figures does not change within a release. Errors: RW_INVALID
 (also: no such reader, no snapshot yet), RW_BUSY.
 */
int rw_watch_figure(struct rw_watch *watch, int reader, size_t i, struct rw_figure *figure);

/*
 The value of the figure called name of a reader (from 0) or of RW_STREAM. Errors: RW_INVALID
 (also: no such figure or reader, no snapshot yet), RW_BUSY.
 */
int rw_watch_get(struct rw_watch *watch, int reader, const char *name, unsigned long long *value);

/*
 A text about the stream: which is RW_TEXT_NAME, RW_TEXT_SOURCE or RW_TEXT_NOTE. Valid until the
 next rw_watch_refresh(). NULL if there is no such text, or no snapshot yet.
 */
const char *rw_watch_text(struct rw_watch *watch, int which);

/*
 The label of a reader (from 0). Valid until the next rw_watch_refresh(). NULL if there is no
 such reader.
 */
const char *rw_watch_label(struct rw_watch *watch, int reader);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RINGWEIR_H */
