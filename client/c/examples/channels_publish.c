/*
 * Eight threads publish, one for each channel of a device whose SDK calls back from threads of its
 * own. A publisher is used by one thread at a time, so there are two ways:
 *
 *     cc -o channels_publish channels_publish.c $(pkg-config --cflags --libs ringweir) -lpthread
 *     ./channels_publish daq own 100000     eight streams, daq0 to daq7, one for each thread
 *     ./channels_publish daq lock 100000    one stream, whose publisher the threads share by a lock
 *
 * It prints what a datagram cost each thread. A stream for each thread is faster, and one stream
 * keeps the datagrams of all channels in one order.
 */
#include <ringweir.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHANNELS 8

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int share;
static unsigned long long count;

struct channel {
    pthread_t thread;
    rw_publisher *publisher;
    unsigned number;
    int rc;
};

/* What the SDK calls in the thread of a channel: fills the ring's own memory, copies nothing. */
static int on_sample(struct channel *channel, unsigned long long sample) {
    rw_arrival arrival;
    void *memory;
    int rc;
    memset(&arrival, 0, sizeof arrival);
    arrival.channel = channel->number;
    if (share) pthread_mutex_lock(&lock);
    rc = rw_publisher_claim(channel->publisher, 64, &memory);
    if (rc == RW_OK) {
        memset(memory, (int)channel->number, 64);
        memcpy(memory, &sample, sizeof sample);
        rc = rw_publisher_commit(channel->publisher, 64, &arrival);
    }
    /* Shown together with what the other channels have committed meanwhile. */
    if (rc == RW_OK && sample % 16 == 15) rc = rw_publisher_flush(channel->publisher);
    if (share) pthread_mutex_unlock(&lock);
    return rc;
}

static void *run(void *argument) {
    struct channel *channel = (struct channel *)argument;
    for (unsigned long long n = 0; n < count && channel->rc == 0; n++)
        channel->rc = on_sample(channel, n);
    if (channel->rc) fprintf(stderr, "channel %u: %s\n", channel->number, rw_error_message());
    return NULL;
}

static rw_publisher *create(const char *name) {
    rw_publisher_options options;
    rw_publisher *publisher;
    memset(&options, 0, sizeof options);
    options.max_datagram = 4096;
    options.capacity = 64 << 20;
    options.usual_datagram = 64;
    if (rw_publisher_create(name, &options, &publisher)) {
        fprintf(stderr, "%s\n", rw_error_message());
        exit(1);
    }
    return publisher;
}

int main(int argc, char **argv) {
    struct channel channels[CHANNELS];
    char name[128];
    struct timespec from, to;
    int failed = 0;

    if (argc != 4 || (strcmp(argv[2], "own") && strcmp(argv[2], "lock"))) {
        fprintf(stderr, "usage: %s STREAM own|lock COUNT\n", argv[0]);
        return 2;
    }
    share = strcmp(argv[2], "lock") == 0;
    count = strtoull(argv[3], NULL, 10);
    memset(channels, 0, sizeof channels);
    for (unsigned i = 0; i < CHANNELS; i++) {
        channels[i].number = i;
        snprintf(name, sizeof name, share ? "%s" : "%s%u", argv[1], i);
        channels[i].publisher = share && i ? channels[0].publisher : create(name);
    }
    fprintf(stderr, "ready\n");
    getchar(); /* start when readers are there: press Return */
    timespec_get(&from, TIME_UTC);
    for (unsigned i = 0; i < CHANNELS; i++)
        if (pthread_create(&channels[i].thread, NULL, run, &channels[i])) return 1;
    for (unsigned i = 0; i < CHANNELS; i++) {
        pthread_join(channels[i].thread, NULL);
        failed |= channels[i].rc != 0;
    }
    timespec_get(&to, TIME_UTC);
    for (unsigned i = 0; i < CHANNELS; i++)
        if (!share || i == 0) rw_publisher_destroy(channels[i].publisher);
    printf("%s: %.0f ns for each datagram, all threads together\n", argv[2],
           ((double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec)) /
               (double)(count * CHANNELS));
    return failed;
}
