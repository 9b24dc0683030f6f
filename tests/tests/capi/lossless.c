/* Lossless readers. argv: a stream that waits for ever, one that waits for 200 ms, and one that
 * does not wait. */
#include "check.h"

int main(int argc, char **argv) {
    rw_options o = from(RW_LATEST);
    rw_reader *r = NULL;
    rw_datagram d;
    rw_gap g;
    unsigned long long read = 0;
    int rc, demoted = 0, gaps = 0;

    CHECK(argc == 4);
    o.flags = RW_LOSSLESS;
    CHECK(rw_attach(argv[3], &o, &r) == RW_NO_ACCESS && r == NULL);
    CHECK(strstr(rw_error_message(), "--lossless") != NULL);
    o.flags = 32;
    CHECK(rw_attach(argv[1], &o, &r) == RW_INVALID);

    /* Slower than the stream for a moment at a time: the stream waits for it. */
    o.flags = RW_LOSSLESS;
    r = attach(argv[1], &o);
    while (read < 2000) {
        rc = rw_next(r, &d, &g);
        if (rc == RW_EMPTY) {
            CHECK(rw_wait(r, 10000) >= 0);
            continue;
        }
        CHECK(rc == RW_DATAGRAM && rw_release(r) == RW_OK);
        if (++read % 400 == 0) sleep_ms(150);
    }
    CHECK(rw_detach(r) == RW_OK);

    /* Over its budget: one notice, before the first gap. */
    r = attach(argv[2], &o);
    while ((rc = rw_next(r, &d, &g)) != RW_DATAGRAM)
        CHECK(rc == RW_EMPTY && rw_wait(r, 10000) >= 0);
    until_lapped(argv[2], d.seq);
    while (!gaps) {
        rc = rw_next(r, &d, &g);
        if (rc == RW_DEMOTED) {
            demoted++;
        } else if (rc == RW_GAP) {
            gaps++;
            CHECK(g.cause == RW_LAPPED && demoted == 1);
        } else if (rc == RW_EMPTY) {
            CHECK(rw_wait(r, 10000) >= 0);
        } else {
            CHECK(rc == RW_DATAGRAM);
        }
    }
    CHECK(demoted == 1 && strstr(rw_strerror(RW_DEMOTED), "budget") != NULL);
    CHECK(rw_detach(r) == RW_OK);
    return 0;
}
