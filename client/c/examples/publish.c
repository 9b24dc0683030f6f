/*
 * Publishes what a call-back is called with: here each line of standard input is one datagram.
 *
 *     cc -o publish publish.c $(pkg-config --cflags --libs ringweir)
 *     ./publish lines < /var/log/syslog
 */
#include <ringweir.h>

#include <stdio.h>
#include <string.h>

/* What your SDK calls with data. */
static int on_data(void *context, const void *data, size_t len) {
    int rc = rw_publish((rw_publisher *)context, data, len, NULL);
    if (rc) fprintf(stderr, "publish: %s\n%s\n", rw_error_message(), rw_strerror(rc));
    return rc;
}

/* Stands for the SDK: calls on_data() until it has no more, or on_data() fails. */
static int sdk_run(int (*call)(void *, const void *, size_t), void *context) {
    char line[4096];
    int rc = 0;
    while (rc == 0 && fgets(line, sizeof line, stdin)) rc = call(context, line, strlen(line));
    return rc;
}

int main(int argc, char **argv) {
    rw_publisher_options options;
    rw_publisher *publisher;
    rw_published figures;
    int rc;

    if (argc != 2) {
        fprintf(stderr, "usage: %s STREAM < LINES\n", argv[0]);
        return 2;
    }
    memset(&options, 0, sizeof options); /* all zero is a good choice */
    options.max_datagram = 4096;
    rc = rw_publisher_create(argv[1], &options, &publisher);
    if (rc) {
        fprintf(stderr, "%s: %s\n%s\n", argv[0], rw_error_message(), rw_strerror(rc));
        return 1;
    }
    rc = sdk_run(on_data, publisher);
    if (rw_publisher_stats(publisher, &figures) == RW_OK)
        fprintf(stderr, "%llu published\n", figures.next_seq);
    rw_publisher_destroy(publisher);
    return rc ? 1 : 0;
}
