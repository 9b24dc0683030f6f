/* What the C tests share: a check that ends the program, and how to attach a reader. */
#include <ringweir.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #what,             \
                    rw_error_message());                                                           \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static inline rw_options from(unsigned start) {
    rw_options o;
    memset(&o, 0, sizeof o);
    o.start = start;
    return o;
}

static inline rw_reader *attach(const char *name, const rw_options *o) {
    rw_reader *r;
    int rc = rw_attach(name, o, &r);
    if (rc) {
        fprintf(stderr, "%s: %d: %s\n", name, rc, rw_error_message());
        exit(1);
    }
    return r;
}

static inline void sleep_ms(long ms) {
    struct timespec t;
    t.tv_sec = ms / 1000;
    t.tv_nsec = ms % 1000 * 1000000;
    nanosleep(&t, NULL);
}

/* Waits until the publisher is far beyond seq: nothing of it is left. */
static inline void until_lapped(const char *name, unsigned long long seq) {
    unsigned long long cursor = 0, depth = 0;
    rw_watch *w;
    int tries;
    CHECK(rw_watch_attach(name, &w) == RW_OK);
    for (tries = 0; tries < 2000 && (cursor < seq + 2 * depth || !depth); tries++) {
        sleep_ms(10);
        if (rw_watch_refresh(w) != RW_OK) continue;
        CHECK(rw_watch_get(w, RW_STREAM, "write_cursor", &cursor) == RW_OK);
        CHECK(rw_watch_get(w, RW_STREAM, "depth", &depth) == RW_OK);
    }
    CHECK(cursor >= seq + 2 * depth);
    CHECK(rw_watch_detach(w) == RW_OK);
}
