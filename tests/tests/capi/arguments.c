/*
 * Every function with every wrong argument, on a live stream; prints the table of codes.
 * argv: the stream.
 */
#include "check.h"

static rw_options with(void (*change)(rw_options *)) {
    rw_options o = from(RW_LATEST);
    change(&o);
    return o;
}
static void bad_start(rw_options *o) { o->start = 3; }
static void bad_seq(rw_options *o) { o->start_seq = 1; }
static void bad_resume(rw_options *o) { o->resume = 2; }
static void bad_flags(rw_options *o) { o->flags = 32; }
static void bad_spin(rw_options *o) { o->flags = RW_NO_SPIN; o->spin_ns = 1; }
static void bad_both(rw_options *o) { o->flags = RW_NO_SPIN | RW_ALWAYS_SPIN; }
static void bad_reserved0(rw_options *o) { o->reserved0 = 1; }
static void bad_reserved(rw_options *o) { o->reserved[5] = 1; }
static void bad_label(rw_options *o) { o->label = "\xff\xfe"; }

static int refused(const char *name, const rw_options *o) {
    rw_reader *r = (rw_reader *)&r;
    int rc = rw_attach(name, o, &r);
    CHECK(r == NULL);
    return rc;
}

int main(int argc, char **argv) {
    static void (*const bad[])(rw_options *) = {bad_start, bad_seq,  bad_resume,
                                                bad_flags, bad_spin, bad_both,
                                                bad_reserved0, bad_reserved, bad_label};
    rw_reader *r, *odd;
    rw_watch *w;
    rw_pairs *p;
    rw_datagram d;
    rw_gap g;
    rw_account a;
    rw_geometry geometry;
    rw_figure f;
    rw_options o;
    unsigned long long value;
    char buffer[8];
    const char *program;
    size_t i;
    int code, row;

    CHECK(argc == 2);
    program = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    CHECK(rw_abi_version() >> 16 == RW_ABI_VERSION >> 16 && rw_abi_version() >= RW_ABI_VERSION);
    CHECK(strcmp(rw_error_message(), "") == 0);
    for (code = -64; code < 64; code++) printf("%d %s\n", code, rw_strerror(code));

    /* Attaching. */
    CHECK(refused(NULL, NULL) == RW_INVALID && strstr(rw_error_message(), "name is NULL"));
    CHECK(refused("\xff", NULL) == RW_INVALID && strstr(rw_error_message(), "UTF-8"));
    CHECK(refused("capi-none", NULL) == RW_NOT_FOUND &&
          strstr(rw_error_message(), "no stream \"capi-none\"; running: "));
    CHECK(refused("", NULL) == RW_BAD_NAME && refused("a b", NULL) == RW_BAD_NAME);
    CHECK(refused("/nowhere/x.sock", NULL) == RW_NOT_RUNNING &&
          strstr(rw_error_message(), "/nowhere/x.sock"));
    CHECK(rw_attach(argv[1], NULL, NULL) == RW_INVALID);
    odd = NULL;
    CHECK(rw_attach(argv[1], NULL, (rw_reader **)((char *)&odd + 1)) == RW_INVALID && odd == NULL);
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        o = with(bad[i]);
        CHECK(refused(argv[1], &o) == RW_INVALID);
    }
    /* Control: each of them is accepted when it is right. */
    o = from(RW_SEQ);
    o.start_seq = 0;
    o.resume = RW_RESUME_NEWEST;
    o.flags = RW_NO_SPIN | RW_NO_PREFAULT | RW_NO_REATTACH;
    o.label = "arguments";
    r = attach(argv[1], &o);
    CHECK(rw_detach(r) == RW_OK);
    r = attach(argv[1], NULL);

    /* A reader that is NULL, and room that is NULL. */
    CHECK(rw_next(NULL, &d, &g) == RW_INVALID && rw_next(r, NULL, &g) == RW_INVALID &&
          rw_next(r, &d, NULL) == RW_INVALID);
    CHECK(rw_read(NULL, buffer, 8, &d, &g) == RW_INVALID &&
          rw_read(r, NULL, 8, &d, &g) == RW_INVALID);
    CHECK(rw_read(r, buffer, 8, NULL, &g) == RW_INVALID &&
          rw_read(r, buffer, 8, &d, NULL) == RW_INVALID);
    CHECK(rw_release(NULL) == RW_INVALID && rw_wait(NULL, 0) == RW_INVALID &&
          rw_wait(r, -2) == RW_INVALID);
    CHECK(rw_fd(NULL) == RW_INVALID && rw_arm(NULL) == RW_INVALID);
    CHECK(rw_reader_account(NULL, &a) == RW_INVALID && rw_reader_account(r, NULL) == RW_INVALID);
    CHECK(rw_reader_geometry(NULL, &geometry) == RW_INVALID &&
          rw_reader_geometry(r, NULL) == RW_INVALID);
    CHECK(rw_reader_last_gap(NULL, &g) == RW_INVALID && rw_reader_last_gap(r, &g) == RW_EMPTY);
    CHECK(rw_reader_name(NULL) == NULL && rw_reader_generation(NULL) == 0 &&
          rw_reader_metadata(NULL) == NULL);
    CHECK(rw_reader_date(NULL, 1) == 0 && rw_detach(NULL) == RW_OK);

    /* Control: the same with everything there. */
    CHECK(rw_release(r) == RW_OK && rw_wait(r, 0) >= 0 && rw_fd(r) >= 0 && rw_fd(r) == rw_fd(r));
    CHECK(rw_reader_account(r, &a) == RW_OK && a.start + a.delivered + a.lost == a.read_cursor);
    CHECK(rw_reader_geometry(r, &geometry) == RW_OK && geometry.depth &&
          geometry.max_datagram <= geometry.capacity);
    CHECK(strcmp(rw_reader_name(r), argv[1]) == 0 && rw_reader_generation(r) == 1);
    CHECK(rw_reader_date(r, 1) - rw_reader_date(r, 0) == 1 && rw_reader_date(r, 0) != 0);
    CHECK(rw_pairs_count(rw_reader_metadata(r)) == 2);
    CHECK(strcmp(rw_pairs_key(rw_reader_metadata(r), 1), "dtype") == 0 &&
          strcmp(rw_pairs_value(rw_reader_metadata(r), 1), "<i2") == 0);
    CHECK(strcmp(rw_pairs_find(rw_reader_metadata(r), "channels"), "3") == 0);

    /* Lists. */
    CHECK(rw_streams(NULL) == RW_INVALID && rw_streams(&p) == RW_OK &&
          rw_pairs_find(p, argv[1]) != NULL);
    CHECK(rw_pairs_find(p, NULL) == NULL && rw_pairs_find(NULL, "x") == NULL &&
          rw_pairs_count(NULL) == 0);
    CHECK(rw_pairs_key(p, rw_pairs_count(p)) == NULL && rw_pairs_value(NULL, 0) == NULL);
    rw_pairs_free(p);
    rw_pairs_free(NULL);
    CHECK(rw_describe(NULL, &p) == RW_INVALID && p == NULL &&
          rw_describe("capi-none", &p) == RW_NOT_FOUND);
    CHECK(rw_describe(argv[1], &p) == RW_OK && strcmp(rw_pairs_find(p, "meta.channels"), "3") == 0);
    CHECK(strncmp(rw_pairs_find(p, "source"), "gen:", 4) == 0 &&
          rw_pairs_find(p, "meta.x") == NULL);
    rw_pairs_free(p);

    /* Statistics. */
    CHECK(rw_watch_attach(NULL, &w) == RW_INVALID &&
          rw_watch_attach("capi-none", &w) == RW_NOT_FOUND && w == NULL);
    CHECK(rw_watch_attach(argv[1], NULL) == RW_INVALID && rw_watch_attach(argv[1], &w) == RW_OK);
    CHECK(rw_watch_get(w, RW_STREAM, "depth", &value) == RW_INVALID &&
          strstr(rw_error_message(), "no snapshot yet"));
    CHECK(rw_watch_readers(w) == RW_INVALID && rw_watch_text(w, RW_TEXT_NAME) == NULL &&
          rw_watch_label(w, 0) == NULL);
    for (row = 0; row < 1000; row++) {
        if (rw_watch_refresh(w) == RW_OK && rw_watch_readers(w) == 1) break;
        sleep_ms(10);
    }
    CHECK(rw_watch_readers(w) == 1 && strcmp(rw_watch_label(w, 0), program) == 0 &&
          rw_watch_label(w, 1) == NULL);
    CHECK(strcmp(rw_watch_text(w, RW_TEXT_NAME), argv[1]) == 0 && rw_watch_text(w, 3) == NULL);
    CHECK(rw_watch_text(w, RW_TEXT_SOURCE) && strcmp(rw_watch_text(w, RW_TEXT_NOTE), "") == 0);
    for (row = RW_STREAM; row < 1; row++) {
        for (i = 0; (code = rw_watch_figure(w, row, i, &f)) == RW_OK; i++) {
            CHECK(rw_watch_get(w, row, f.name, &value) == RW_OK && value == f.value &&
                  f.kind <= RW_REALTIME && *f.help);
        }
        CHECK(code == RW_EMPTY && i > 15);
    }
    CHECK(rw_watch_get(w, RW_STREAM, "depth", &value) == RW_OK && value == geometry.depth);
    CHECK(rw_watch_get(w, 0, "depth", &value) == RW_INVALID &&
          rw_watch_get(w, 1, "lost", &value) == RW_INVALID);
    CHECK(rw_watch_get(w, 0, NULL, &value) == RW_INVALID &&
          rw_watch_get(w, 0, "lost", NULL) == RW_INVALID);
    CHECK(rw_watch_figure(w, 0, 0, NULL) == RW_INVALID &&
          rw_watch_figure(w, -2, 0, &f) == RW_INVALID);
    CHECK(rw_watch_figure(NULL, 0, 0, &f) == RW_INVALID && rw_watch_refresh(NULL) == RW_INVALID);
    CHECK(rw_watch_hung_up(NULL) == RW_INVALID && rw_watch_hung_up(w) == 0 &&
          rw_watch_detach(NULL) == RW_OK);
    CHECK(rw_watch_detach(w) == RW_OK && rw_detach(r) == RW_OK);
    return 0;
}
