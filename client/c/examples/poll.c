/*
 * Reads several streams in one loop. It sleeps in ppoll(), on all their descriptors and on signals,
 * and misses neither.
 *
 *     cc -o poll poll.c $(pkg-config --cflags --libs ringweir)
 *     ./poll itch_a itch_b          copies each datagram; prints the account of each stream when
 *                                   all have ended, or on Ctrl-C
 */
#define _GNU_SOURCE 1 /* ppoll */
#include <ringweir.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { STREAMS = 16 };

static volatile sig_atomic_t stop;

static void on_signal(int number) {
    (void)number;
    stop = 1;
}

/*
 * Reads everything available. The buffer starts small and grows when a datagram does not fit, which
 * costs only one more call.
 */
static int drain(rw_reader *r, uint8_t **buffer, size_t *size) {
    rw_datagram d;
    rw_gap g;
    for (;;) {
        int rc = rw_read(r, *buffer, *size, &d, &g);
        if (rc == RW_TOO_SMALL) {
            uint8_t *larger = (uint8_t *)realloc(*buffer, d.len);
            if (!larger) return rc;
            *buffer = larger;
            *size = d.len;
        } else if (rc == RW_GAP) {
            char text[RW_GAP_TEXT];
            rw_gap_text(&g, text, sizeof text);
            fprintf(stderr, "%s: %s\n", rw_reader_name(r), text);
        } else if (rc != RW_DATAGRAM && rc != RW_RESTARTED) {
            return rc;
        }
    }
}

int main(int argc, char **argv) {
    rw_reader *readers[STREAMS] = {NULL};
    struct pollfd fds[STREAMS];
    uint8_t *buffer = NULL;
    size_t size = 0;
    sigset_t blocked, unblocked;
    int i, n = argc - 1, left = n, failed = 0;

    if (n < 1 || n > STREAMS) {
        fprintf(stderr, "usage: %s STREAM... (at most %d)\n", argv[0], STREAMS);
        return 2;
    }
    /*
     * Blocked everywhere except in ppoll(): no signal can come between the check of `stop` and the
     * sleep.
     */
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &unblocked);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);

    for (i = 0; i < n; i++) {
        rw_options options = {NULL, RW_OLDEST, RW_RESUME_OLDEST, 0, 0, RW_NO_REATTACH, 0, {0}};
        int rc = rw_attach(argv[i + 1], &options, &readers[i]);
        if (rc) {
            fprintf(stderr, "%s: %s\n%s\n", argv[0], rw_error_message(), rw_strerror(rc));
            return 1;
        }
        fds[i].fd = rw_fd(readers[i]);
        fds[i].events = POLLIN;
    }
    while (left && !stop) {
        int sleep = 1;
        for (i = 0; i < n; i++) {
            int rc;
            if (fds[i].fd < 0) continue; /* ended; ppoll() skips it too */
            rc = drain(readers[i], &buffer, &size);
            if (rc == RW_EMPTY) {
                /* Something may have come meanwhile; then the descriptor would stay silent. */
                if (rw_arm(readers[i]) == RW_READY) sleep = 0;
            } else {
                if (rc != RW_ENDED) {
                    fprintf(stderr, "%s: %s: %s\n", argv[0], argv[i + 1], rw_strerror(rc));
                    failed = 1;
                }
                fds[i].fd = -1;
                left--;
                sleep = 0;
            }
        }
        if (sleep) ppoll(fds, (nfds_t)n, NULL, &unblocked);
    }
    for (i = 0; i < n; i++) {
        rw_account a;
        rw_reader_account(readers[i], &a);
        printf("%s start %llu delivered %llu lost %llu read %llu\n", argv[i + 1], a.start,
               a.delivered, a.lost, a.read_cursor);
        rw_detach(readers[i]);
    }
    free(buffer);
    return failed;
}
