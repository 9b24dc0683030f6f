/*
 * Reads a stream in place and prints a line for each datagram: seq, length, channel, FNV-1a hash of
 * its bytes.
 *
 *     cc -o read read.c $(pkg-config --cflags --libs ringweir)
 *     ./read demo                   from now on, until the stream ends or Ctrl-C
 *     ./read demo oldest 1000       from the oldest datagram still there; 1000 lines at most
 */
#include <ringweir.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t stop;

static void on_signal(int number) {
    (void)number;
    stop = 1;
}

static unsigned long long hash(const uint8_t *data, size_t len) {
    unsigned long long h = 0xcbf29ce484222325ULL;
    for (size_t i = 0; i < len; i++) h = (h ^ data[i]) * 0x100000001b3ULL;
    return h;
}

int main(int argc, char **argv) {
    rw_reader *r;
    rw_datagram d;
    rw_gap g;
    char text[RW_GAP_TEXT];
    rw_options options;
    rw_account a;
    unsigned long long h, lines = 0, most;
    int rc, error = 0;

    if (argc < 2) {
        fprintf(stderr, "usage: %s STREAM [latest|oldest [COUNT]]\n", argv[0]);
        return 2;
    }
    memset(&options, 0, sizeof options); /* all zero is a good choice */
    if (argc > 2 && strcmp(argv[2], "oldest") == 0) options.start = RW_OLDEST;
    most = argc > 3 ? strtoull(argv[3], NULL, 10) : ~0ULL;

    rc = rw_attach(argv[1], &options, &r);
    if (rc) {
        fprintf(stderr, "%s: %s\n%s\n", argv[0], rw_error_message(), rw_strerror(rc));
        return 1;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);

    while (!stop && !error && lines < most) {
        switch (rc = rw_next(r, &d, &g)) {
        case RW_DATAGRAM:
            h = hash(d.data, d.len);
            /*
             * The hash is valid only if the datagram was not overwritten; if it was, the gap that
             * begins with it comes next.
             */
            if (rw_release(r) == RW_TORN) break;
            printf("%llu %zu %u %016llx\n", d.seq, d.len, (unsigned)d.channel, h);
            lines++;
            break;
        case RW_GAP:
            rw_gap_text(&g, text, sizeof text);
            fprintf(stderr, "%s\n", text);
            break;
        case RW_EMPTY:
            fflush(stdout);
            /*
             * A signal between the check of `stop` and the sleep is noticed a second later; poll.c
             * shows how to avoid that.
             */
            rw_wait(r, 1000);
            break;
        case RW_RESTARTED:
            rw_gap_text(&g, text, sizeof text);
            fprintf(stderr, "generation %llu: %s\n", rw_reader_generation(r), text);
            break;
        case RW_ENDED:
            stop = 1;
            break;
        default:
            error = rc;
        }
    }
    if (error)
        fprintf(stderr, "%s: %s\n", argv[0], error < 0 ? rw_error_message() : rw_strerror(error));
    rw_reader_account(r, &a);
    fprintf(stderr, "start %llu delivered %llu lost %llu read %llu\n", a.start, a.delivered, a.lost,
            a.read_cursor);
    rw_detach(r);
    return error ? 1 : 0;
}
