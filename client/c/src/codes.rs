//! The one table of return codes, and what each one means.

#![allow(unsafe_code, reason = "an exported symbol")]

use crate::border::quietly;
use std::ffi::{CStr, c_char, c_int};

/// What a call returns, as an int. Zero: done. Above zero: an outcome that is not an error. Below
/// zero: an error; rw_strerror() says what it means and what to do, rw_error_message() says which
/// value was wrong.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum rw_code {
    /// Done.
    RW_OK = 0,
    /// The next datagram.
    RW_DATAGRAM = 1,
    /// Datagrams this reader will never see: the rw_gap says which and why. Reported once, in
    /// order.
    RW_GAP = 2,
    /// Nothing new: wait with rw_wait(), or with rw_arm() and poll().
    RW_EMPTY = 3,
    /// The broker was restarted; what follows belongs to the new generation. The rw_gap says with
    /// which seq it begins, whether the account continues or begins anew (adopted), and what the
    /// restart cost.
    RW_RESTARTED = 4,
    /// Nothing new, and there never will be: the stream has ended.
    RW_ENDED = 5,
    /// Nothing new: the broker died, and this reader was attached with RW_NO_REATTACH.
    RW_BROKER_GONE = 6,
    /// The datagram was overwritten while it was being read: undo what you did with it. The next
    /// call returns the gap that begins with it.
    RW_TORN = 7,
    /// rw_arm(): there is something to read already, do not sleep.
    RW_READY = 8,
    /// rw_wait(): the time has passed.
    RW_TIMEOUT = 9,
    /// rw_wait(): a signal arrived.
    RW_INTERRUPTED = 10,
    /// An administrator detached this reader (ringctl detach): it gets nothing more. It does not
    /// attach again by itself.
    RW_DETACHED = 11,
    /// This reader was attached with RW_LOSSLESS and has used up its budget: the stream does not
    /// wait for it any more, and what it misses from now on is reported as gaps. Reported once,
    /// before the first of them.
    RW_DEMOTED = 12,
    /// rw_try_publish(): a lossless reader has not read yet what would be overwritten. Nothing was
    /// published.
    RW_WOULD_WAIT = 13,
    /// An argument is invalid: NULL, not UTF-8, an unknown flag, a reserved field that is not zero.
    RW_INVALID = -1,
    /// rw_read(): the buffer is too small; the datagram stays unread and its length is in the
    /// rw_datagram.
    RW_TOO_SMALL = -2,
    /// Another call is using this reader or watch at this moment. Each serves one thread at a time.
    RW_BUSY = -3,
    /// No stream of that name is running.
    RW_NOT_FOUND = -4,
    /// The stream's socket is there but no broker answers.
    RW_NOT_RUNNING = -5,
    /// This user may not connect to the stream's socket, or is not on the stream's list.
    RW_NO_ACCESS = -6,
    /// All reader indices are taken.
    RW_FULL = -7,
    /// The broker is there but does not answer.
    RW_NO_ANSWER = -8,
    /// The broker closed the connection without an answer.
    RW_HUNG_UP = -9,
    /// Broker and library are of different releases.
    RW_VERSION = -10,
    /// The broker's answer makes no sense.
    RW_PROTOCOL = -11,
    /// No stream can have this name.
    RW_BAD_NAME = -12,
    /// The ring contradicts itself: its memory was damaged.
    RW_CORRUPT = -13,
    /// The broker, or this process, has run out of a resource.
    RW_RESOURCES = -14,
    /// A call to the kernel failed.
    RW_SYSTEM = -15,
    /// A defect of this library: the reader or watch can only be detached.
    RW_PANIC = -16,
    /// This process is a child of the one that attached; after fork() the reader stays with the
    /// parent. Call rw_detach() here, which the parent does not notice, and attach again.
    RW_FORKED = -17,
    /// A stream cannot be served: the name is served already, a value is out of range, or there is
    /// no room.
    RW_NOT_STARTED = -18,
}

use rw_code::*;

impl rw_code {
    const ALL: [rw_code; 32] = [
        RW_OK,
        RW_DATAGRAM,
        RW_GAP,
        RW_EMPTY,
        RW_RESTARTED,
        RW_ENDED,
        RW_BROKER_GONE,
        RW_TORN,
        RW_READY,
        RW_TIMEOUT,
        RW_INTERRUPTED,
        RW_DETACHED,
        RW_DEMOTED,
        RW_WOULD_WAIT,
        RW_INVALID,
        RW_TOO_SMALL,
        RW_BUSY,
        RW_NOT_FOUND,
        RW_NOT_RUNNING,
        RW_NO_ACCESS,
        RW_FULL,
        RW_NO_ANSWER,
        RW_HUNG_UP,
        RW_VERSION,
        RW_PROTOCOL,
        RW_BAD_NAME,
        RW_CORRUPT,
        RW_RESOURCES,
        RW_SYSTEM,
        RW_PANIC,
        RW_FORKED,
        RW_NOT_STARTED,
    ];

    fn says(self) -> &'static CStr {
        match self {
            RW_OK => c"done",
            RW_DATAGRAM => c"a datagram: use it, then rw_release() it",
            RW_GAP => c"datagrams were lost: the rw_gap says which and why; read on",
            RW_EMPTY => c"nothing new: wait with rw_wait(), or with rw_arm() and poll()",
            RW_RESTARTED => {
                c"the broker was restarted; the reader is attached to the new \
                generation: read on"
            }
            RW_ENDED => c"the stream has ended: detach",
            RW_BROKER_GONE => {
                c"the broker died and this reader does not wait for the next: detach, or attach \
                    without RW_NO_REATTACH"
            }
            RW_TORN => {
                c"overwritten while it was being read: undo what you did with it; the next call \
                returns the gap"
            }
            RW_READY => c"there is something to read already: do not sleep, call rw_next()",
            RW_TIMEOUT => c"the time has passed: look again, or wait again",
            RW_INTERRUPTED => c"a signal arrived: look at what it asks for, then wait again",
            RW_DETACHED => {
                c"an administrator detached this reader (ringctl detach): call rw_detach(); attach \
                again only if that is wanted"
            }
            RW_DEMOTED => {
                c"the stream waited for this reader for as long as its budget allowed, \
                and does not any more: read on, faster"
            }
            RW_WOULD_WAIT => {
                c"a lossless reader is not ready for more, and nothing was published: try again, \
                or call rw_publish(), which waits"
            }
            RW_INVALID => c"an argument is invalid: rw_error_message() names it",
            RW_TOO_SMALL => {
                c"the buffer is too small; the datagram stays unread: call again with \
                room for the length in the rw_datagram"
            }
            RW_BUSY => {
                c"another call is using this reader or watch: use each from one thread at a \
                time, and not from signal handlers"
            }
            RW_NOT_FOUND => {
                c"no stream of that name: `ringctl ls` shows what is running; start it \
                with `ringd run --name NAME ...`, or set RINGWEIR_DIR to its run directory"
            }
            RW_NOT_RUNNING => {
                c"no broker answers at the stream's socket (it died, or was stopped): start ringd \
                    again"
            }
            RW_NO_ACCESS => {
                c"this user may not read the stream: join the socket's group, or ask \
                for --socket-mode, --group or --allow-uid on ringd"
            }
            RW_FULL => {
                c"all reader indices are taken: detach a reader, or start ringd with a larger \
                    --readers-max"
            }
            RW_NO_ANSWER => {
                c"the broker does not answer: it is stopped, or still busy starting; \
                try again"
            }
            RW_HUNG_UP => {
                c"the broker closed the connection without an answer: it is ending; try \
                again when it is back"
            }
            RW_VERSION => {
                c"broker and library are of different releases: install programs and \
                library of one release"
            }
            RW_PROTOCOL => c"the broker's answer makes no sense: is that socket ringd's?",
            RW_BAD_NAME => {
                c"no stream can have this name: use A-Z a-z 0-9 . _ - and begin with a \
                letter or digit, or give the path of a control socket"
            }
            RW_CORRUPT => {
                c"the ring contradicts itself: detach and restart the broker; somebody \
                wrote to its memory"
            }
            RW_RESOURCES => {
                c"out of memory, file descriptors or room in /dev/shm: \
                rw_error_message() says of what"
            }
            RW_SYSTEM => c"a call to the kernel failed: rw_error_message() says which",
            RW_PANIC => c"a defect of this library: detach, and report the message on stderr",
            RW_FORKED => {
                c"this reader or publisher belongs to the process that forked this one: end it \
                here, which the parent does not notice, and make another"
            }
            RW_NOT_STARTED => c"the stream cannot be served: rw_error_message() says why",
        }
    }
}

/// What a return code means and what to do about it, in English. Never NULL; the text is constant.
#[unsafe(no_mangle)]
pub extern "C" fn rw_strerror(code: c_int) -> *const c_char {
    let known = quietly(None, || rw_code::ALL.into_iter().find(|c| *c as c_int == code));
    known
        .map_or(
            c"not a return code of this library: are header and library of one release?",
            rw_code::says,
        )
        .as_ptr()
}
