/*
 * Writes a stream to stdout, a 32-bit length before each datagram, and the account of each
 * generation to stderr.
 * argv: the stream, next or read, wait or poll or spin, ms to sleep after every 64th datagram.
 */
#include "check.h"

#include <poll.h>

/* Sums of the earlier generations, over which the account continues. */
static unsigned long long kept, kept_lost;
static unsigned long long got, lost, torn;

static void print_account(const char *what) {
    fprintf(stderr, "%s got %llu lost %llu torn %llu\n", what, got, lost, torn);
    got = lost = 0;
}

static void put(const uint8_t *data, size_t len) {
    uint32_t n = (uint32_t)len;
    CHECK(fwrite(&n, 4, 1, stdout) == 1 && fwrite(data, 1, len, stdout) == len);
    got++;
}

int main(int argc, char **argv) {
    rw_options o = from(RW_SEQ);
    static uint8_t buffer[1 << 16];
    unsigned long long expected = 0;
    struct pollfd p;
    rw_account a;
    rw_datagram d;
    rw_reader *r;
    rw_gap g;
    int rc, copied;

    CHECK(argc == 5);
    copied = strcmp(argv[2], "read") == 0;
    if (strcmp(argv[3], "spin") == 0) o.flags = RW_ALWAYS_SPIN;
    r = attach(argv[1], &o);
    p.fd = rw_fd(r);
    p.events = POLLIN;
    for (;;) {
        rc = copied ? rw_read(r, buffer, sizeof buffer, &d, &g) : rw_next(r, &d, &g);
        if (rc == RW_DATAGRAM) {
            CHECK(d.seq == expected);
            if (!copied) {
                memcpy(buffer, d.data, d.len);
                if (d.seq % 64 == 0) sleep_ms(strtol(argv[4], NULL, 10));
                if (rw_release(r) == RW_TORN) {
                    torn++;
                    continue;
                }
            } else if (d.seq % 64 == 0) {
                sleep_ms(strtol(argv[4], NULL, 10));
            }
            put(buffer, d.len);
            expected = d.seq + 1;
        } else if (rc == RW_GAP) {
            CHECK(g.first == expected && g.cause == RW_LAPPED);
            lost += g.count;
            expected = g.last + 1;
        } else if (rc == RW_EMPTY) {
            if (strcmp(argv[3], "poll") == 0 && rw_arm(r) == RW_OK) CHECK(poll(&p, 1, -1) == 1);
            else CHECK(rw_wait(r, -1) == RW_OK);
        } else if (rc == RW_RESTARTED) {
            CHECK(g.cause == RW_RESTART && rw_reader_account(r, &a) == RW_OK &&
                  g.first == a.read_cursor);
            kept = g.adopted ? kept + got : 0;
            kept_lost = g.adopted ? kept_lost + lost : 0;
            if (g.adopted) CHECK(g.first == expected && a.delivered == kept && a.lost == kept_lost);
            else CHECK(a.delivered == 0 && a.read_cursor == a.start);
            print_account("earlier");
            expected = g.first;
            fprintf(stderr, "generation %llu start %llu adopted %u\n",
                    rw_reader_generation(r), g.first, g.adopted);
        } else {
            break;
        }
    }
    CHECK(rc == RW_ENDED && rw_reader_account(r, &a) == RW_OK);
    CHECK(a.start + a.delivered + a.lost == a.read_cursor && a.delivered == kept + got &&
          a.lost == kept_lost + lost && a.read_cursor == expected);
    print_account("last");
    CHECK(fflush(stdout) == 0 && rw_detach(r) == RW_OK);
    return 0;
}
