/*
 * One call-back for each channel of a stream: a table of functions, and dispatch(), which calls
 * them until nothing is left to read.
 *
 *     cc -o channels channels.c $(pkg-config --cflags --libs ringweir)
 *     ./channels daq0               prints the sums of each channel when the stream ends
 *
 * The loop is in the program, not in the library. So the program decides what happens to a torn
 * datagram, and a C++ call-back may throw.
 */
#include <ringweir.h>

#include <stdio.h>
#include <stdlib.h>

/* Gets valid datagrams only: data points into the caller's own buffer. */
typedef void on_datagram(void *user, const uint8_t *data, size_t len, unsigned long long seq);
typedef void on_gap(void *user, const rw_gap *gap);

enum { CHANNELS = 8 };

struct handlers {
    on_datagram *channel[CHANNELS]; /* NULL: no call-back */
    void *user[CHANNELS];
    on_gap *gap; /* for all channels: those of lost datagrams are not known */
    void *gap_user;
    unsigned long long unheard;
};

/*
 * Calls back for everything that can be read now. Returns RW_EMPTY, RW_ENDED, RW_BROKER_GONE or an
 * error. A datagram of a channel without a call-back is released without touching its bytes.
 */
static int dispatch(rw_reader *r, struct handlers *h, uint8_t *buffer, size_t size) {
    rw_datagram d;
    rw_gap g;
    for (;;) {
        int rc = rw_next(r, &d, &g);
        if (rc == RW_GAP) {
            h->gap(h->gap_user, &g);
        } else if (rc == RW_DATAGRAM) {
            int heard = d.channel < CHANNELS && h->channel[d.channel] != NULL;
            size_t i;
            if (heard && d.len > size) return RW_TOO_SMALL;
            if (heard)
                for (i = 0; i < d.len; i++) buffer[i] = d.data[i];
            /* Torn: the gap that begins with it comes next. */
            if (rw_release(r) == RW_TORN) continue;
            if (heard) h->channel[d.channel](h->user[d.channel], buffer, d.len, d.seq);
            else h->unheard++;
        } else if (rc != RW_RESTARTED) {
            return rc;
        }
    }
}

struct sums {
    unsigned long long datagrams, bytes;
};

static void count(void *user, const uint8_t *data, size_t len, unsigned long long seq) {
    struct sums *s = (struct sums *)user;
    (void)data;
    (void)seq;
    s->datagrams++;
    s->bytes += len;
}

static void tell(void *user, const rw_gap *gap) {
    char text[RW_GAP_TEXT];
    *(unsigned long long *)user += gap->count;
    rw_gap_text(gap, text, sizeof text);
    fprintf(stderr, "%s\n", text);
}

int main(int argc, char **argv) {
    struct sums sums[CHANNELS] = {{0, 0}};
    unsigned long long lost = 0;
    struct handlers h = {{NULL}, {NULL}, tell, NULL, 0};
    rw_options options = {NULL, RW_OLDEST, RW_RESUME_OLDEST, 0, 0, 0, 0, {0}};
    rw_geometry geometry;
    rw_reader *r;
    uint8_t *buffer;
    int i, rc;

    if (argc != 2) {
        fprintf(stderr, "usage: %s STREAM\n", argv[0]);
        return 2;
    }
    rc = rw_attach(argv[1], &options, &r);
    if (rc) {
        fprintf(stderr, "%s: %s\n%s\n", argv[0], rw_error_message(), rw_strerror(rc));
        return 1;
    }
    rw_reader_geometry(r, &geometry);
    buffer = (uint8_t *)malloc(geometry.max_datagram ? (size_t)geometry.max_datagram : 1);
    if (!buffer) return 1;
    for (i = 0; i < CHANNELS - 1; i++) { /* the last channel has no call-back */
        h.channel[i] = count;
        h.user[i] = &sums[i];
    }
    h.gap_user = &lost;

    while ((rc = dispatch(r, &h, buffer, (size_t)geometry.max_datagram)) == RW_EMPTY)
        rw_wait(r, -1);

    if (rc != RW_ENDED) fprintf(stderr, "%s: %s\n", argv[0], rw_strerror(rc));
    for (i = 0; i < CHANNELS; i++)
        if (sums[i].datagrams)
            printf("channel %d: %llu datagrams, %llu bytes\n", i, sums[i].datagrams, sums[i].bytes);
    printf("unheard %llu lost %llu\n", h.unheard, lost);
    free(buffer);
    rw_detach(r);
    return rc == RW_ENDED ? 0 : 1;
}
