/*
 * Mistakes that memory checkers must find, or else they check nothing.
 * argv: the stream; none, leak, library or program.
 */
#include "check.h"

int main(int argc, char **argv) {
    rw_options o = from(RW_SEQ);
    rw_reader *r;
    rw_datagram d;
    rw_gap g;
    uint8_t *buffer;
    int sum;
    CHECK(argc == 3);
    r = attach(argv[1], &o);
    CHECK(rw_read(r, NULL, 0, &d, &g) == RW_TOO_SMALL);
    /* The library gets a size larger than the room that there is. */
    buffer = (uint8_t *)malloc(d.len - (strcmp(argv[2], "library") == 0));
    CHECK(rw_read(r, buffer, d.len, &d, &g) == RW_DATAGRAM);
    sum = buffer[strcmp(argv[2], "program") == 0 ? d.len : d.len - 1];
    free(buffer);
    if (strcmp(argv[2], "leak") != 0) CHECK(rw_detach(r) == RW_OK);
    r = NULL;
    printf("%d\n", sum);
    return 0;
}
