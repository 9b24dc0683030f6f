/*
 * Buffers that are too small, and datagrams that are overwritten in hand.
 * argv: a stream that has ended and is whole in its ring, and one that flows through a small ring.
 */
#include "check.h"

enum { ROOM = 4096 };

static uint8_t buffer[ROOM + 64];

/* The next item that is a datagram or a gap; copied says how to ask for it. */
static int next(rw_reader *r, int copied, size_t size, rw_datagram *d, rw_gap *g) {
    for (;;) {
        int rc = copied ? rw_read(r, buffer, size, d, g) : rw_next(r, d, g);
        if (rc != RW_EMPTY) return rc;
        CHECK(rw_wait(r, 10000) >= 0);
    }
}

static unsigned long long delivered(rw_reader *r) {
    rw_account a;
    CHECK(rw_reader_account(r, &a) == RW_OK && a.start + a.delivered + a.lost == a.read_cursor);
    return a.delivered;
}

/*
 * Each datagram with each size of buffer, and either call after that: len - 1 and 0 leave it
 * unread, len and len + 1 read it, once.
 */
static void kept(const char *name) {
    rw_options o = from(RW_SEQ);
    rw_reader *r = attach(name, &o), *other = attach(name, &o);
    static uint8_t expected[ROOM];
    unsigned long long seq;
    rw_datagram d, e;
    rw_gap g;
    int rc;
    for (seq = 0; (rc = rw_read(other, expected, ROOM, &e, &g)) == RW_DATAGRAM; seq++) {
        size_t len = e.len, i;
        CHECK(e.seq == seq && e.data == expected);
        memset(buffer, 0xaa, sizeof buffer);
        memset(&d, 0, sizeof d);
        CHECK(rw_read(r, NULL, 0, &d, &g) == RW_TOO_SMALL && d.len == len && d.seq == seq &&
              d.data == NULL);
        CHECK(rw_read(r, buffer, len - 1, &d, &g) == RW_TOO_SMALL && d.len == len &&
              d.channel == e.channel);
        CHECK(strstr(rw_error_message(), "too small"));
        for (i = 0; i < sizeof buffer; i++) CHECK(buffer[i] == 0xaa);
        CHECK(rw_release(r) == RW_OK && delivered(r) == seq);
        switch (seq % 3) {
        case 0:
            CHECK(rw_next(r, &d, &g) == RW_DATAGRAM && d.len == len && d.seq == seq &&
                  d.data != NULL);
            CHECK(memcmp(d.data, expected, len) == 0 && delivered(r) == seq &&
                  rw_release(r) == RW_OK);
            break;
        case 1:
            CHECK(rw_read(r, buffer, len, &d, &g) == RW_DATAGRAM && d.len == len && d.seq == seq &&
                  d.data == buffer);
            break;
        default:
            CHECK(rw_read(r, buffer, len + 1, &d, &g) == RW_DATAGRAM && d.len == len &&
                  d.seq == seq);
        }
        if (seq % 3) {
            CHECK(memcmp(buffer, expected, len) == 0);
            for (i = len; i < sizeof buffer; i++) CHECK(buffer[i] == 0xaa);
        }
        CHECK(delivered(r) == seq + 1 && rw_release(r) == RW_OK && delivered(r) == seq + 1);
    }
    CHECK(rc == RW_ENDED && seq > 100 && rw_next(r, &d, &g) == RW_ENDED &&
          rw_read(r, buffer, ROOM, &d, &g) == RW_ENDED);
    CHECK(rw_detach(r) == RW_OK && rw_detach(other) == RW_OK);
}

/* A datagram that is overwritten, unread or in hand: both calls return a gap that begins with
 * it, and never its bytes. */
static void lapped(const char *name, int small, int copied, int released) {
    rw_options o = from(RW_LATEST);
    rw_reader *r = attach(name, &o);
    unsigned long long seq, had;
    rw_datagram d;
    rw_gap g, last;
    int rc;
    do rc = next(r, small, 1, &d, &g);
    while (rc == RW_GAP);
    CHECK(rc == (small ? RW_TOO_SMALL : RW_DATAGRAM));
    seq = d.seq;
    had = delivered(r);
    until_lapped(name, seq);
    if (released) {
        CHECK(rw_release(r) == (small ? RW_OK : RW_TORN));
        CHECK(rw_release(r) == RW_OK && delivered(r) == had);
    }
    CHECK(next(r, copied, ROOM, &d, &g) == RW_GAP);
    CHECK(g.first == seq && g.last == seq + g.count - 1 && g.count > 0 && g.exact == 1);
    CHECK(g.cause == RW_LAPPED && g.layer == RW_LAYER_READER && delivered(r) == had);
    CHECK(rw_reader_last_gap(r, &last) == RW_OK && last.first == g.first && last.count == g.count);
    rc = next(r, copied, ROOM, &d, &g);
    CHECK((rc == RW_DATAGRAM || rc == RW_GAP) &&
          (rc == RW_DATAGRAM ? d.seq : g.first) == last.last + 1);
    CHECK(rw_detach(r) == RW_OK);
}

/* Control: held for no time at all, the same datagrams are whole. */
static void unlapped(const char *name) {
    rw_options o = from(RW_LATEST);
    rw_reader *r = attach(name, &o);
    rw_datagram d;
    rw_gap g;
    int whole = 0, tries;
    for (tries = 0; tries < 1000 && whole < 20; tries++)
        whole += next(r, 0, 0, &d, &g) == RW_DATAGRAM && rw_release(r) == RW_OK;
    CHECK(whole == 20);
    CHECK(rw_detach(r) == RW_OK);
}

int main(int argc, char **argv) {
    int i;
    CHECK(argc == 3);
    kept(argv[1]);
    for (i = 0; i < 8; i++) lapped(argv[2], i & 1, i & 2, i & 4);
    unlapped(argv[2]);
    return 0;
}
