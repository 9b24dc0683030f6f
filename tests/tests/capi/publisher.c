/* A publisher in C: what is right, and each mistake with the code and the words for it. The
 * argument is the run directory. A second one leaves out the fork: a memory checker takes what the
 * child of a fork leaves to its parent for a leak. */
#include "check.h"

#include <ringweir.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int mentions(const char *words) { return strstr(rw_error_message(), words) != NULL; }

int main(int argc, char **argv) {
    rw_publisher *p = NULL, *other = NULL;
    rw_publisher_options o;
    rw_published f;
    rw_arrival a;
    rw_reader *r;
    rw_datagram d;
    rw_gap g;
    rw_options ro;
    char socket[512], big[5000];
    void *memory, *again;
    pid_t child;
    int status;

    CHECK(argc == 2 || argc == 3);
    memset(&o, 0, sizeof o);
    memset(&a, 0, sizeof a);
    memset(&ro, 0, sizeof ro);
    memset(big, 7, sizeof big);
    o.run_dir = argv[1];
    o.max_datagram = 4096;
    o.metadata = "unit=mV\nchannels=8";
    CHECK(rw_publisher_create("capi-pub", &o, &p) == RW_OK && p);
    snprintf(socket, sizeof socket, "%s/capi-pub.sock", argv[1]);
    ro.start = RW_OLDEST;
    CHECK(rw_attach(socket, &ro, &r) == RW_OK);

    CHECK(rw_publish(p, "one", 3, NULL) == RW_OK);
    a.channel = 5, a.source_time = 99, a.original_len = 1000;
    CHECK(rw_try_publish(p, "two", 3, &a) == RW_OK);
    CHECK(rw_publisher_claim(p, 4096, &memory) == RW_OK);
    memset(memory, 1, 4096);
    CHECK(rw_publisher_claim(p, 4096, &again) == RW_OK && again == memory);
    CHECK(((unsigned char *)again)[4095] == 1);
    CHECK(rw_publisher_commit(p, 4096, &a) == RW_OK);
    CHECK(rw_publisher_lost(p, RW_LAYER_DEVICE, 4, 1) == RW_OK);
    CHECK(rw_publish(p, NULL, 0, NULL) == RW_OK);
    CHECK(rw_publisher_flush(p) == RW_OK);

    CHECK(rw_next(r, &d, &g) == RW_DATAGRAM && d.len == 3 && memcmp(d.data, "one", 3) == 0);
    CHECK(rw_next(r, &d, &g) == RW_DATAGRAM && d.channel == 5 && d.source_time == 99);
    CHECK(d.original_len == 1000);
    CHECK(rw_next(r, &d, &g) == RW_DATAGRAM && d.len == 4096 && d.data[4095] == 1);
    CHECK(rw_next(r, &d, &g) == RW_GAP && g.count == 4 && g.layer == RW_LAYER_DEVICE && g.exact);
    CHECK(rw_next(r, &d, &g) == RW_DATAGRAM && d.len == 0);
    CHECK(rw_next(r, &d, &g) == RW_EMPTY);
    CHECK(rw_publisher_stats(p, &f) == RW_OK && f.next_seq == 4 && f.readers == 1);
    CHECK(f.max_datagram == 4096 && f.waits == 0);

    /* Mistakes: nothing is published. */
    CHECK(rw_publish(p, big, sizeof big, NULL) == RW_INVALID && mentions("up to 4096"));
    CHECK(rw_publish(p, NULL, 4, NULL) == RW_INVALID && mentions("data is"));
    CHECK(rw_publish(NULL, "x", 1, NULL) == RW_INVALID);
    CHECK(rw_publisher_claim(p, 4097, &memory) == RW_INVALID && memory == NULL);
    CHECK(rw_publisher_commit(p, 1, NULL) == RW_INVALID && mentions("no claim is open"));
    CHECK(rw_publisher_claim(p, 8, &memory) == RW_OK);
    CHECK(rw_publisher_commit(p, 9, NULL) == RW_INVALID && mentions("of a claim of 8"));
    CHECK(rw_publisher_commit(p, 0, NULL) == RW_OK);
    CHECK(rw_publisher_commit(p, 0, NULL) == RW_INVALID && mentions("committed already"));
    CHECK(rw_publisher_lost(p, 9, 1, 1) == RW_INVALID && mentions("layer 9"));
    CHECK(rw_publisher_stats(p, NULL) == RW_INVALID);
    a.channel = 65536;
    CHECK(rw_publish(p, "x", 1, &a) == RW_INVALID && mentions("channel 65536"));
    CHECK(rw_publisher_stats(p, &f) == RW_OK && f.next_seq == 5);

    /* Options. */
    CHECK(rw_publisher_create("capi-pub", &o, &other) == RW_NOT_STARTED && !other);
    CHECK(mentions("already served"));
    CHECK(rw_publisher_create("a b", &o, &other) == RW_NOT_STARTED);
    CHECK(rw_publisher_create(NULL, &o, &other) == RW_INVALID && mentions("name is NULL"));
    CHECK(rw_publisher_create("x", &o, NULL) == RW_INVALID);
    o.flags = 64;
    CHECK(rw_publisher_create("x", &o, &other) == RW_INVALID && mentions("flags 0x40"));
    o.flags = 0, o.lossless_bytes = 1;
    CHECK(rw_publisher_create("x", &o, &other) == RW_INVALID && mentions("lossless_bytes"));
    o.lossless_bytes = 0, o.metadata = "nothing";
    CHECK(rw_publisher_create("x", &o, &other) == RW_INVALID && mentions("KEY=VALUE"));
    o.metadata = NULL, o.reserved[5] = 1;
    CHECK(rw_publisher_create("x", &o, &other) == RW_INVALID && mentions("reserved"));

    /* A lossless reader that does not read: RW_WOULD_WAIT. */
    memset(&o, 0, sizeof o);
    o.run_dir = argv[1], o.max_datagram = 4096, o.capacity = 1 << 16, o.flags = RW_WAIT_FOREVER;
    CHECK(rw_publisher_create("capi-wait", &o, &other) == RW_OK);
    {
        rw_reader *slow;
        int n = 0;
        ro.flags = RW_LOSSLESS;
        snprintf(socket, sizeof socket, "%s/capi-wait.sock", argv[1]);
        CHECK(rw_attach(socket, &ro, &slow) == RW_OK);
        while ((status = rw_try_publish(other, big, 4096, NULL)) == RW_OK && n < 1000) n++;
        CHECK(status == RW_WOULD_WAIT && n > 4 && n < 1000);
        CHECK(rw_detach(slow) == RW_OK);
        CHECK(rw_publish(other, "free", 4, NULL) == RW_OK);
    }
    CHECK(rw_publisher_destroy(other) == RW_OK);

    /* A child cannot publish, and its end ends nothing. */
    if (argc == 2) {
        child = fork();
        if (child == 0) {
            int right = rw_publish(p, "child", 5, NULL) == RW_FORKED;
            right = right && rw_publisher_stats(p, &f) == RW_FORKED;
            right = right && rw_publisher_destroy(p) == RW_OK;
            _exit(right ? 0 : 1);
        }
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    CHECK(rw_publish(p, "last", 4, NULL) == RW_OK);
    CHECK(rw_next(r, &d, &g) == RW_DATAGRAM && d.len == 0);
    CHECK(rw_next(r, &d, &g) == RW_DATAGRAM && memcmp(d.data, "last", 4) == 0);
    CHECK(rw_publisher_destroy(p) == RW_OK);
    CHECK(rw_publisher_destroy(NULL) == RW_OK);
    CHECK(rw_next(r, &d, &g) == RW_ENDED);
    CHECK(rw_detach(r) == RW_OK);
    return 0;
}
