/* Other readers: their latencies, and detaching them. argv: a stream that flows. */
#include "check.h"

/* The figures of the reader called label. */
static int find_reader(const char *name, const char *label, unsigned long long *index,
                       unsigned long long *attached) {
    int tries, row, found = 0;
    rw_watch *w;
    CHECK(rw_watch_attach(name, &w) == RW_OK);
    for (tries = 0; tries < 2000 && !found; tries++) {
        sleep_ms(10);
        if (rw_watch_refresh(w) != RW_OK) continue;
        for (row = 0; row < rw_watch_readers(w) && !found; row++) {
            if (strcmp(rw_watch_label(w, row), label) != 0) continue;
            CHECK(rw_watch_get(w, row, "index", index) == RW_OK);
            CHECK(rw_watch_get(w, row, "attached_realtime", attached) == RW_OK);
            found = 1;
        }
    }
    CHECK(rw_watch_detach(w) == RW_OK);
    return found;
}

/* Reads n datagrams, whatever is lost in between. */
static void take(rw_reader *r, unsigned n) {
    rw_datagram d;
    rw_gap g;
    int rc;
    while (n) {
        rc = rw_next(r, &d, &g);
        CHECK(rc == RW_DATAGRAM || rc == RW_GAP || (rc == RW_EMPTY && rw_wait(r, 20000) >= 0));
        n -= rc == RW_DATAGRAM;
    }
    rw_release(r);
}

static unsigned long long samples(const rw_latency *l) {
    rw_latency_total t;
    CHECK(rw_latency_all(l, &t) == RW_OK);
    return t.samples;
}

static void latencies(const char *name, rw_reader *r, unsigned index, unsigned long long attached) {
    rw_latency *first, *second, *since, *empty;
    unsigned long long sum = 0, below = 0, ns, longest;
    rw_latency_total t;
    rw_bucket b;
    size_t i;
    int rc;
    take(r, 200);
    CHECK(rw_latency_ask(name, index, &first) == RW_OK && rw_latency_all(first, &t) == RW_OK);
    CHECK(t.attached_realtime == attached && t.samples > 10 && t.sum_ns >= t.max_ns &&
          t.max_ns > 0);
    for (i = 0; (rc = rw_latency_bucket(first, i, &b)) == RW_OK; i++) {
        CHECK(b.from_ns >= below && b.from_ns < b.to_ns && b.count > 0 && b.reserved == 0);
        below = b.to_ns;
        sum += b.count;
    }
    CHECK(rc == RW_EMPTY && sum == t.samples && t.max_ns < below);
    CHECK(rw_latency_quantile(first, 1, &longest) == RW_OK && longest == t.max_ns);
    CHECK(rw_latency_quantile(first, 0.5, &ns) == RW_OK && ns > 0 && ns <= longest);

    take(r, 200);
    CHECK(rw_latency_ask(name, index, &second) == RW_OK &&
          rw_latency_since(second, first, &since) == RW_OK);
    CHECK(samples(second) > samples(first) && samples(since) == samples(second) - samples(first));
    /* Control: nothing lies between a histogram and itself. */
    CHECK(rw_latency_since(second, second, &empty) == RW_OK && samples(empty) == 0);
    ns = 7;
    CHECK(rw_latency_quantile(empty, 0.5, &ns) == RW_EMPTY && ns == 7 &&
          rw_latency_bucket(empty, 0, &b) == RW_EMPTY);
    rw_latency_free(empty);
    rw_latency_free(since);

    /* Wrong arguments. */
    CHECK(rw_latency_ask(NULL, index, &since) == RW_INVALID && since == NULL);
    CHECK(rw_latency_ask(name, index, NULL) == RW_INVALID &&
          rw_latency_ask("capi-none", 0, &since) == RW_NOT_FOUND);
    CHECK(rw_drain_gaps_ask(NULL, &since) == RW_INVALID && since == NULL);
    CHECK(rw_drain_gaps_ask(name, &since) == RW_NOT_FOUND && since == NULL);
    CHECK(rw_latency_ask(name, 4000000000u, &since) == RW_NOT_FOUND && since == NULL);
    CHECK(strstr(rw_error_message(), "has index 4000000000"));
    CHECK(rw_latency_since(NULL, first, &since) == RW_INVALID &&
          rw_latency_since(first, NULL, &since) == RW_INVALID);
    CHECK(since == NULL && rw_latency_since(second, first, NULL) == RW_INVALID);
    CHECK(rw_latency_all(NULL, &t) == RW_INVALID && rw_latency_all(first, NULL) == RW_INVALID);
    CHECK(rw_latency_quantile(first, 1.01, &ns) == RW_INVALID &&
          rw_latency_quantile(first, -0.1, &ns) == RW_INVALID);
    CHECK(rw_latency_quantile(first, 0.5, NULL) == RW_INVALID &&
          rw_latency_quantile(NULL, 0.5, &ns) == RW_INVALID);
    CHECK(rw_latency_bucket(first, 0, NULL) == RW_INVALID &&
          rw_latency_bucket(NULL, 0, &b) == RW_INVALID);
    CHECK(rw_latency_bucket(first, (size_t)-1, &b) == RW_EMPTY);
    rw_latency_free(first);
    rw_latency_free(second);
    rw_latency_free(NULL);
}

int main(int argc, char **argv) {
    unsigned long long index, attached, other, others;
    rw_options o = from(RW_LATEST);
    rw_reader *r, *stays;
    rw_latency *mine, *theirs, *none;
    rw_detached_by by;
    rw_account a;
    rw_datagram d;
    rw_gap g;
    int rc;

    CHECK(argc == 2);
    o.label = "goes";
    r = attach(argv[1], &o);
    o.label = "stays";
    stays = attach(argv[1], &o);
    CHECK(find_reader(argv[1], "goes", &index, &attached) &&
          find_reader(argv[1], "stays", &other, &others));
    latencies(argv[1], r, (unsigned)index, attached);
    CHECK(rw_latency_ask(argv[1], (unsigned)index, &mine) == RW_OK);
    CHECK(rw_latency_ask(argv[1], (unsigned)other, &theirs) == RW_OK);
    CHECK(rw_latency_since(mine, theirs, &none) == RW_INVALID &&
          strstr(rw_error_message(), "two readers"));
    rw_latency_free(mine);
    rw_latency_free(theirs);

    /* A wrong request detaches no reader: another index, another time, another stream, no name. */
    CHECK(rw_detach_reader(argv[1], (unsigned)index, attached + 1) == RW_NOT_FOUND);
    CHECK(rw_detach_reader(argv[1], 4000000000u, attached) == RW_NOT_FOUND);
    CHECK(rw_detach_reader("capi-none", (unsigned)index, attached) == RW_NOT_FOUND);
    CHECK(rw_detach_reader(NULL, (unsigned)index, attached) == RW_INVALID);
    memset(&by, 0xaa, sizeof by);
    CHECK(rw_reader_detached_by(r, &by) == RW_EMPTY && by.pid == 0xaaaaaaaa);
    take(r, 1);

    CHECK(rw_detach_reader(argv[1], (unsigned)index, attached) == RW_OK);
    while ((rc = rw_next(r, &d, &g)) == RW_DATAGRAM || rc == RW_GAP) {}
    CHECK(rc == RW_DETACHED && rw_next(r, &d, &g) == RW_DETACHED && rw_wait(r, -1) == RW_OK &&
          rw_arm(r) == RW_READY);
    CHECK(rw_reader_detached_by(r, NULL) == RW_INVALID &&
          rw_reader_detached_by(NULL, &by) == RW_INVALID);
    CHECK(rw_reader_detached_by(r, &by) == RW_OK && by.reserved[2] == 0);
    CHECK(rw_reader_account(r, &a) == RW_OK && a.start + a.delivered + a.lost == a.read_cursor);
    CHECK(rw_latency_ask(argv[1], (unsigned)index, &none) == RW_NOT_FOUND);
    CHECK(rw_detach_reader(argv[1], (unsigned)index, attached) == RW_NOT_FOUND);
    printf("pid %u uid %u\n", by.pid, by.uid);

    /* Control: the other reader continues. */
    take(stays, 100);
    CHECK(rw_reader_detached_by(stays, &by) == RW_EMPTY);
    CHECK(rw_detach(r) == RW_OK && rw_detach(stays) == RW_OK);
    return 0;
}
