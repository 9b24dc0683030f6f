/*
 * Waiting by timeout, by signal, by descriptor, by spinning.
 * argv: a stream of one datagram now and then, and one that flows.
 */
#define _GNU_SOURCE 1
#include "check.h"

#include <poll.h>
#include <signal.h>
#include <sys/time.h>

static rw_reader *waiting;
static volatile sig_atomic_t signals, busy;

static void on_alarm(int number) {
    rw_datagram d;
    rw_gap g;
    (void)number;
    signals++;
    busy += rw_next(waiting, &d, &g) == RW_BUSY && rw_detach(waiting) == RW_BUSY;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Reads until nothing is left. */
static unsigned drain(rw_reader *r) {
    rw_datagram d;
    rw_gap g;
    unsigned n = 0;
    int rc;
    while ((rc = rw_next(r, &d, &g)) != RW_EMPTY) {
        CHECK(rc == RW_DATAGRAM && rw_release(r) == RW_OK);
        n++;
    }
    return n;
}

static void idle(const char *name, unsigned flags) {
    rw_options o = from(RW_LATEST);
    struct itimerval soon;
    int tries, rc = RW_OK;
    rw_reader *r;
    o.flags = flags;
    r = attach(name, &o);
    for (tries = 0; tries < 20 && rc != RW_TIMEOUT; tries++) {
        double began;
        drain(r);
        began = now();
        rc = rw_wait(r, 30);
        CHECK(rc == RW_OK || (rc == RW_TIMEOUT && now() - began >= 0.030));
    }
    CHECK(rc == RW_TIMEOUT);
    rc = rw_wait(r, 0);
    CHECK(rc == RW_TIMEOUT || rc == RW_OK);
    /* A signal ends a sleep, and a handler that calls in between is refused. */
    memset(&soon, 0, sizeof soon);
    soon.it_value.tv_usec = 50000;
    waiting = r;
    signals = busy = 0;
    for (tries = 0; tries < 20 && rc != RW_INTERRUPTED; tries++) {
        drain(r);
        if (!(flags & RW_ALWAYS_SPIN)) setitimer(ITIMER_REAL, &soon, NULL);
        rc = rw_wait(r, flags & RW_ALWAYS_SPIN ? 20 : -1);
        if (flags & RW_ALWAYS_SPIN) break;
        /* A signal that comes just as the wait ends by itself ends nothing: another one is sent. */
        CHECK(rc == RW_OK || (signals && rc == RW_INTERRUPTED));
    }
    CHECK(busy == signals && (rc == RW_INTERRUPTED || flags & RW_ALWAYS_SPIN));
    CHECK(rw_detach(r) == RW_OK);
}

int main(int argc, char **argv) {
    rw_options o = from(RW_LATEST);
    struct pollfd p;
    rw_reader *r;
    unsigned woken = 0, read = 0;
    struct sigaction action;

    CHECK(argc == 3);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    sigaction(SIGALRM, &action, NULL);
    idle(argv[1], 0);
    idle(argv[1], RW_NO_SPIN);
    idle(argv[1], RW_ALWAYS_SPIN);

    r = attach(argv[2], &o);
    p.fd = rw_fd(r);
    p.events = POLLIN;
    /* A wake-up may come late, for what has been read already: datagrams are counted, not
     * wake-ups. */
    while (read < 50) {
        read += drain(r);
        if (rw_arm(r) == RW_READY) continue;
        CHECK(poll(&p, 1, 20000) == 1);
        woken++;
    }
    CHECK(woken > 0);
    CHECK(rw_detach(r) == RW_OK);
    /* Control: a reader that has never armed is not woken, though datagrams come. */
    r = attach(argv[2], &o);
    p.fd = rw_fd(r);
    drain(r);
    CHECK(poll(&p, 1, 500) == 0 && drain(r) > 10);
    CHECK(rw_detach(r) == RW_OK);

    o.spin_ns = 1000000;
    r = attach(argv[2], &o);
    for (read = 0; read < 20; read += drain(r)) CHECK(rw_wait(r, 20000) == RW_OK);
    CHECK(rw_detach(r) == RW_OK);
    return 0;
}
