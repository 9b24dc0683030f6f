//! The calls of the header with arguments made from the input: pointers that are valid, NULL or
//! misaligned, any number, any string.
//!
//! Structs that the library fills in are arrays of words with guard words behind them: it must not
//! write past the size that the header gives.

use super::broker::{Broker, STREAM};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

// Links the library.
use ringweir_c as _;

type Handle = *mut c_void;

unsafe extern "C" {
    safe fn rw_strerror(code: c_int) -> *const c_char;
    safe fn rw_error_message() -> *const c_char;
    fn rw_attach(name: *const c_char, options: *const u64, reader: *mut Handle) -> c_int;
    fn rw_detach(reader: Handle) -> c_int;
    fn rw_next(reader: Handle, datagram: *mut u64, gap: *mut u64) -> c_int;
    fn rw_release(reader: Handle) -> c_int;
    fn rw_read(
        reader: Handle,
        buffer: *mut u8,
        size: usize,
        datagram: *mut u64,
        gap: *mut u64,
    ) -> c_int;
    fn rw_wait(reader: Handle, timeout_ms: c_int) -> c_int;
    fn rw_fd(reader: Handle) -> c_int;
    fn rw_arm(reader: Handle) -> c_int;
    fn rw_reader_name(reader: Handle) -> *const c_char;
    fn rw_reader_generation(reader: Handle) -> u64;
    fn rw_reader_metadata(reader: Handle) -> Handle;
    fn rw_reader_geometry(reader: Handle, geometry: *mut u64) -> c_int;
    fn rw_reader_account(reader: Handle, account: *mut u64) -> c_int;
    fn rw_reader_last_gap(reader: Handle, gap: *mut u64) -> c_int;
    fn rw_reader_date(reader: Handle, time: u64) -> u64;
    fn rw_reader_detached_by(reader: Handle, by: *mut u64) -> c_int;
    fn rw_detach_reader(name: *const c_char, index: u32, attached: u64) -> c_int;
    fn rw_streams(pairs: *mut Handle) -> c_int;
    fn rw_describe(name: *const c_char, pairs: *mut Handle) -> c_int;
    fn rw_pairs_count(pairs: Handle) -> usize;
    fn rw_pairs_key(pairs: Handle, i: usize) -> *const c_char;
    fn rw_pairs_value(pairs: Handle, i: usize) -> *const c_char;
    fn rw_pairs_find(pairs: Handle, key: *const c_char) -> *const c_char;
    fn rw_pairs_free(pairs: Handle);
    fn rw_latency_ask(name: *const c_char, index: u32, latency: *mut Handle) -> c_int;
    fn rw_latency_since(latency: Handle, before: Handle, since: *mut Handle) -> c_int;
    fn rw_latency_all(latency: Handle, total: *mut u64) -> c_int;
    fn rw_latency_quantile(latency: Handle, share: f64, ns: *mut u64) -> c_int;
    fn rw_latency_bucket(latency: Handle, i: usize, bucket: *mut u64) -> c_int;
    fn rw_latency_free(latency: Handle);
    fn rw_watch_attach(name: *const c_char, watch: *mut Handle) -> c_int;
    fn rw_watch_detach(watch: Handle) -> c_int;
    fn rw_watch_refresh(watch: Handle) -> c_int;
    fn rw_watch_hung_up(watch: Handle) -> c_int;
    fn rw_watch_readers(watch: Handle) -> c_int;
    fn rw_watch_figure(watch: Handle, reader: c_int, i: usize, figure: *mut u64) -> c_int;
    fn rw_watch_get(watch: Handle, reader: c_int, name: *const c_char, value: *mut u64) -> c_int;
    fn rw_watch_text(watch: Handle, which: c_int) -> *const c_char;
    fn rw_watch_label(watch: Handle, reader: c_int) -> *const c_char;
}

const OK: c_int = 0;
const DATAGRAM: c_int = 1;
const GAP: c_int = 2;
const TOO_SMALL: c_int = -2;
const BUSY: c_int = -3;
const CORRUPT: c_int = -13;
const PANIC: c_int = -16;

/// Number of words of each struct, as in the header.
const GAP_WORDS: usize = 9;
const DATAGRAM_WORDS: usize = 9;
const ACCOUNT_WORDS: usize = 16;
const GUARD: u64 = 0x5afe_5afe_5afe_5afe;

/// Makes arguments from bytes of input.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn some(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    fn one_in(&mut self, n: u8) -> bool {
        self.some() % n == n - 1
    }

    /// A number that is small, near a power of two or the maximum, or anything.
    fn number(&mut self) -> u64 {
        match self.some() {
            n @ 0..=199 => u64::from(n % 20),
            n @ 200..=229 => (1u64 << (n % 64)).wrapping_sub(u64::from(n & 1)),
            n @ 230..=239 => u64::MAX - u64::from(n % 4),
            _ => self.anything(),
        }
    }

    fn anything(&mut self) -> u64 {
        (0..8).fold(0, |n, _| n << 8 | u64::from(self.some()))
    }

    /// A string, or `None` for NULL. Random names have no slash, so that none leads to the socket
    /// of another broker.
    fn text(&mut self, broker: &Broker) -> Option<CString> {
        let bytes = match self.some() {
            0..=159 => STREAM.as_bytes().to_vec(),
            160..=179 => broker.socket.as_os_str().as_encoded_bytes().to_vec(),
            180..=189 => return None,
            190..=194 => b"".to_vec(),
            195..=199 => vec![b'x'; 5000],
            200..=204 => b"/ringweir-fuzz-nowhere/x.sock".to_vec(),
            205..=214 => b"read_cursor".to_vec(),
            215..=224 => b"channels".to_vec(),
            _ => {
                let n = usize::from(self.some() % 40);
                (0..n)
                    .map(|_| self.some())
                    .map(|b| if b == 0 || b == b'/' { b'.' } else { b })
                    .collect()
            }
        };
        Some(CString::new(bytes).expect("no NUL"))
    }

    /// How a pointer is wrong, if it is.
    fn wrong(&mut self) -> Wrong {
        match self.some() {
            0..=239 => Wrong::Not,
            240..=247 => Wrong::Null,
            _ => Wrong::Misaligned,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    Not,
    Null,
    Misaligned,
}

impl Wrong {
    fn applied<T>(self, to: *mut T) -> *mut T {
        match self {
            Wrong::Not => to,
            Wrong::Null => null_mut(),
            Wrong::Misaligned => to.cast::<u8>().wrapping_add(1).cast(),
        }
    }
}

/// Room for a struct of `WORDS`, with guards behind it.
#[repr(C)]
struct Room<const WORDS: usize> {
    words: [u64; WORDS],
    guards: [u64; 4],
}

impl<const WORDS: usize> Room<WORDS> {
    fn new() -> Self {
        Self { words: [GUARD; WORDS], guards: [GUARD; 4] }
    }

    fn at(&mut self, wrong: Wrong) -> *mut u64 {
        // A pointer to the whole, so that a write into the guards stays inside this object.
        wrong.applied((&raw mut *self).cast())
    }

    fn checked(self) -> [u64; WORDS] {
        assert_eq!(self.guards, [GUARD; 4], "written past a struct of {WORDS} words");
        self.words
    }

    /// A call that failed, or had nothing to report, must leave it untouched.
    fn filled(self, rc: c_int) -> Option<[u64; WORDS]> {
        let words = self.checked();
        if rc == OK {
            return Some(words);
        }
        assert_eq!(words, [GUARD; WORDS], "written by a call that answered {rc}");
        None
    }
}

/// Every code is in the table, none says that the library is broken, and every error has a message.
fn known(rc: c_int) -> c_int {
    assert!(
        (PANIC + 1..=11).contains(&rc) && rc != BUSY && rc != CORRUPT,
        "code {rc}: {:?}",
        message()
    );
    // SAFETY: by the header the result is never NULL, and the text is constant.
    let words = unsafe { CStr::from_ptr(rw_strerror(rc)) };
    assert!(!words.to_bytes().starts_with(b"not a return code"));
    assert!(rc >= 0 || !message().is_empty());
    rc
}

fn message<'a>() -> &'a [u8] {
    // SAFETY: the result is never NULL; the text is this thread's, and it is read before the next
    // call.
    unsafe { CStr::from_ptr(rw_error_message()) }.to_bytes()
}

/// Reads a string of the library to its end, and returns its length.
fn read(text: *const c_char) -> usize {
    // SAFETY: not NULL (checked here), so by the header it is a string that is valid now.
    if text.is_null() { 0 } else { unsafe { CStr::from_ptr(text) }.to_bytes().len() }
}

fn pointer(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(null(), |t| t.as_ptr())
}

pub struct Session<'b> {
    broker: &'b Broker,
    readers: [Handle; 5],
    watches: [Handle; 2],
    lists: [Handle; 2],
    histograms: [Handle; 3],
    buffer: Vec<u8>,
}

impl<'b> Session<'b> {
    pub fn new(broker: &'b Broker) -> Self {
        let none = null_mut();
        let (readers, watches, lists, histograms) = ([none; 5], [none; 2], [none; 2], [none; 3]);
        Self { broker, readers, watches, lists, histograms, buffer: vec![0; 512] }
    }

    /// A reader; NULL where there is none.
    fn reader(&self, input: &mut Input<'_>) -> Handle {
        self.readers[usize::from(input.some()) % self.readers.len()]
    }

    /// Makes an object by a call that fills in a pointer, and stores it in `place`, which is empty.
    fn made(place: &mut Handle, wrong: Wrong, call: impl FnOnce(*mut Handle) -> c_int) {
        let mut made = [null_mut::<u8>().wrapping_add(1).cast::<c_void>(); 2];
        let rc = known(call(wrong.applied(made.as_mut_ptr())));
        assert_eq!(rc == OK, wrong == Wrong::Not && !made[0].is_null());
        if rc == OK {
            *place = made[0];
        }
    }

    pub fn attach(&mut self, input: &mut Input<'_>) {
        let place = usize::from(input.some()) % self.readers.len();
        if !self.readers[place].is_null() {
            return;
        }
        let (name, label) = (input.text(self.broker), input.text(self.broker));
        let mut options = [0u64; 11];
        options[0] = pointer(&label) as u64;
        let small = |input: &mut Input<'_>, most: u64| {
            if input.one_in(16) {
                input.anything() & 0xffff_ffff
            } else {
                u64::from(input.some()) % most
            }
        };
        options[1] = small(input, 3) | small(input, 2) << 32;
        options[2] = if options[1] as u32 == 2 || input.one_in(16) { input.number() } else { 0 };
        options[4] = small(input, 16);
        options[3] = if options[4] & 2 == 0 || input.one_in(16) { input.number() } else { 0 };
        if input.one_in(32) {
            options[4] |= input.anything() << 32;
            options[5 + usize::from(input.some()) % 6] = input.anything();
        }
        let given = if input.one_in(8) { null() } else { options.as_ptr() };
        let given = if input.one_in(32) {
            Wrong::Misaligned.applied(given.cast_mut()).cast_const()
        } else {
            given
        };
        let wrong = input.wrong();
        // SAFETY: the strings are NULL or end with a NUL; the options are NULL, misaligned
        // (refused) or live; `out` is room for a pointer, or refused.
        Self::made(&mut self.readers[place], wrong, |out| unsafe {
            rw_attach(pointer(&name), given, out)
        });
    }

    pub fn detach(&mut self, input: &mut Input<'_>) {
        let place = usize::from(input.some()) % self.readers.len();
        let reader = std::mem::replace(&mut self.readers[place], null_mut());
        // SAFETY: each handle is NULL or live, and not used again.
        assert_eq!(unsafe { rw_detach(reader) }, OK);
    }

    pub fn next(&mut self, input: &mut Input<'_>) {
        let (reader, wrong, other) = (self.reader(input), input.wrong(), input.wrong());
        for _ in 0..=input.some() % 40 {
            let (mut datagram, mut gap) = (Room::<DATAGRAM_WORDS>::new(), Room::<GAP_WORDS>::new());
            // SAFETY: `reader` is NULL or live; the outputs are room, or pointers that are refused.
            let rc = known(unsafe { rw_next(reader, datagram.at(wrong), gap.at(other)) });
            let [data, len, ..] = datagram.checked();
            gap.checked();
            if rc == DATAGRAM {
                let (data, mut sum) = (data as *const u8, 0u64);
                assert!(len <= 256 && data.cast::<u64>().is_aligned());
                for i in 0..len as usize {
                    // SAFETY: the datagram is in hand, so its `len` bytes are readable; the read is
                    // volatile, because the publisher may overwrite them.
                    sum += u64::from(unsafe { data.add(i).read_volatile() });
                }
                std::hint::black_box(sum);
            } else if rc != GAP {
                break;
            }
            self.account(reader);
        }
    }

    pub fn read(&mut self, input: &mut Input<'_>) {
        let (reader, wrong, other) = (self.reader(input), input.wrong(), input.wrong());
        let size = usize::from(input.some()) * 2;
        let buffer = if input.one_in(16) { null_mut() } else { self.buffer.as_mut_ptr() };
        let (mut datagram, mut gap) = (Room::<DATAGRAM_WORDS>::new(), Room::<GAP_WORDS>::new());
        // A stated size of 256 or more may exceed the buffer: no datagram is longer than 256 bytes.
        let said =
            if size >= 256 && input.one_in(4) { input.anything() as usize | 256 } else { size };
        self.buffer.fill(0xa5);
        // SAFETY: `reader` is NULL or live; the outputs are room, or pointers that are refused; no
        // datagram is longer than the buffer.
        let rc = known(unsafe { rw_read(reader, buffer, said, datagram.at(wrong), gap.at(other)) });
        let [_, len, ..] = datagram.checked();
        gap.checked();
        let written = self.buffer.iter().rposition(|b| *b != 0xa5).map_or(0, |at| at + 1);
        match rc {
            DATAGRAM => assert!(written <= len as usize && len as usize <= said),
            TOO_SMALL => assert!(len as usize > said && written == 0),
            _ => assert!(written <= size.min(256)),
        }
        self.account(reader);
    }

    /// `start + delivered + lost = read cursor`, whatever happened.
    fn account(&self, reader: Handle) {
        let mut account = Room::<ACCOUNT_WORDS>::new();
        // SAFETY: `reader` is NULL or live; `account` is room.
        let rc = known(unsafe { rw_reader_account(reader, account.at(Wrong::Not)) });
        if let Some([start, delivered, lost, cursor, ..]) = account.filled(rc) {
            assert_eq!(start + delivered + lost, cursor);
        }
    }

    pub fn release(&mut self, input: &mut Input<'_>) {
        let reader = self.reader(input);
        // SAFETY: `reader` is NULL or live.
        known(unsafe { rw_release(reader) });
        self.account(reader);
    }

    pub fn wait(&mut self, input: &mut Input<'_>) {
        let reader = self.reader(input);
        let ms = match input.some() {
            0..=199 => 0,
            200..=209 => 1,
            210..=219 => {
                // Without a timeout, but with something to read.
                self.broker.publish(1, 0);
                -1
            }
            220..=229 => c_int::MIN,
            _ => -2 - c_int::from(input.some()),
        };
        // SAFETY: `reader` is NULL or live.
        known(unsafe { rw_wait(reader, ms) });
    }

    pub fn poll(&mut self, input: &mut Input<'_>) {
        let reader = self.reader(input);
        // SAFETY: `reader` is NULL or live.
        known(unsafe { rw_arm(reader) });
        // SAFETY: `reader` is NULL or live.
        let fds = [unsafe { rw_fd(reader) }, unsafe { rw_fd(reader) }];
        assert!(fds[0] == fds[1] && (fds[0] > 2 || known(fds[0]) < 0));
    }

    pub fn properties(&mut self, input: &mut Input<'_>) {
        let (reader, wrong, time) = (self.reader(input), input.wrong(), input.number());
        let (mut geometry, mut gap, mut by) =
            (Room::<8>::new(), Room::<GAP_WORDS>::new(), Room::<4>::new());
        // SAFETY: `reader` is NULL or live; the outputs are room, or pointers that are refused.
        unsafe {
            read(rw_reader_name(reader));
            std::hint::black_box((rw_reader_generation(reader), rw_reader_date(reader, time)));
            self.look_through(rw_reader_metadata(reader), time as usize);
            let rc = known(rw_reader_geometry(reader, geometry.at(wrong)));
            geometry.filled(rc);
            let rc = known(rw_reader_last_gap(reader, gap.at(wrong)));
            gap.filled(rc);
            let rc = known(rw_reader_detached_by(reader, by.at(wrong)));
            by.filled(rc);
        }
    }

    /// Detaches a reader: one that is attached, or any.
    pub fn send_away(&mut self, input: &mut Input<'_>) {
        let (name, some) = (input.text(self.broker), input.some());
        let known_one = self.broker.some_reader(some).filter(|_| some < 200);
        let (index, attached) =
            known_one.unwrap_or_else(|| (input.number() as u32, input.number()));
        // SAFETY: the name is NULL or ends with a NUL.
        known(unsafe { rw_detach_reader(pointer(&name), index, attached) });
    }

    pub fn watch(&mut self, input: &mut Input<'_>) {
        let place = usize::from(input.some()) % self.watches.len();
        let watch = self.watches[place];
        let (wrong, row, i) =
            (input.wrong(), (input.number() as c_int).wrapping_sub(2), input.number() as usize);
        let name = input.text(self.broker);
        // SAFETY: in all of these calls the handle is NULL or live, strings end with a NUL, and
        // outputs are room, or pointers that are refused.
        unsafe {
            match input.some() % 8 {
                0 if !watch.is_null() => {
                    assert_eq!(rw_watch_detach(watch), OK);
                    self.watches[place] = null_mut();
                }
                0..=2 if watch.is_null() => {
                    Self::made(&mut self.watches[place], wrong, |out| {
                        rw_watch_attach(pointer(&name), out)
                    });
                }
                1 | 2 => drop(known(rw_watch_refresh(watch))),
                3 => drop(known(rw_watch_hung_up(watch))),
                4 => assert!(rw_watch_readers(watch) <= 4),
                5 => {
                    let mut figure = Room::<6>::new();
                    let rc = known(rw_watch_figure(watch, row, i, figure.at(wrong)));
                    if let Some([name, help, ..]) = figure.filled(rc) {
                        assert!(read(name as *const c_char) > 0 && read(help as *const c_char) > 0);
                    }
                }
                6 => {
                    let mut value = Room::<1>::new();
                    let rc = known(rw_watch_get(watch, row, pointer(&name), value.at(wrong)));
                    value.filled(rc);
                }
                _ => drop((read(rw_watch_text(watch, row)), read(rw_watch_label(watch, row)))),
            }
        }
    }

    /// # Safety
    /// `list` is NULL or live.
    unsafe fn look_through(&self, list: Handle, i: usize) {
        // SAFETY: by the caller's promise `list` is NULL or live.
        unsafe {
            for i in (0..rw_pairs_count(list)).chain([i]) {
                read(rw_pairs_value(list, i));
                let key = rw_pairs_key(list, i);
                assert!(read(key) == 0 || !rw_pairs_find(list, key).is_null());
            }
            assert!(rw_pairs_find(list, null()).is_null());
        }
    }

    pub fn lists(&mut self, input: &mut Input<'_>) {
        let place = usize::from(input.some()) % self.lists.len();
        let (list, name, wrong, kind) =
            (self.lists[place], input.text(self.broker), input.wrong(), input.some());
        // SAFETY: in all of these calls the handle is NULL or live, strings end with a NUL, and
        // outputs are room, or pointers that are refused.
        unsafe {
            if list.is_null() {
                Self::made(&mut self.lists[place], wrong, |out| {
                    if kind % 2 == 0 { rw_streams(out) } else { rw_describe(pointer(&name), out) }
                });
                return;
            }
            self.look_through(list, input.number() as usize);
            read(rw_pairs_find(list, pointer(&name)));
            rw_pairs_free(list);
        }
        self.lists[place] = null_mut();
    }

    pub fn latencies(&mut self, input: &mut Input<'_>) {
        let (place, other) = (usize::from(input.some()) % 3, usize::from(input.some()) % 3);
        let (name, wrong, n) = (input.text(self.broker), input.wrong(), input.number());
        let [latency, before] = [place, other].map(|i| self.histograms[i]);
        // SAFETY: in all of these calls the handle is NULL or live, strings end with a NUL, and
        // outputs are room, or pointers that are refused.
        unsafe {
            match input.some() % 6 {
                0 | 1 if latency.is_null() => {
                    let index = if n < 200 { n as u32 % 5 } else { n as u32 };
                    Self::made(&mut self.histograms[place], wrong, |out| {
                        rw_latency_ask(pointer(&name), index, out)
                    });
                }
                0 => {
                    rw_latency_free(latency);
                    self.histograms[place] = null_mut();
                }
                1 | 2 => {
                    if let Some(free) = self.histograms.iter().position(|h| h.is_null()) {
                        Self::made(&mut self.histograms[free], wrong, |out| {
                            rw_latency_since(latency, before, out)
                        });
                    }
                }
                3 => {
                    let mut total = Room::<8>::new();
                    let rc = known(rw_latency_all(latency, total.at(wrong)));
                    total.filled(rc);
                }
                4 => {
                    let share = if input.one_in(4) {
                        f64::from_bits(input.anything())
                    } else {
                        f64::from(input.some()) / 255.0
                    };
                    let mut ns = Room::<1>::new();
                    let rc = known(rw_latency_quantile(latency, share, ns.at(wrong)));
                    ns.filled(rc);
                }
                _ => {
                    let mut bucket = Room::<4>::new();
                    let rc = known(rw_latency_bucket(latency, n as usize, bucket.at(wrong)));
                    if let Some([from, to, count, _]) = bucket.filled(rc) {
                        assert!(from < to && count > 0);
                    }
                }
            }
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: each handle is NULL or live, and not used again.
        unsafe {
            self.readers.iter().for_each(|reader| assert_eq!(rw_detach(*reader), OK));
            self.watches.iter().for_each(|watch| assert_eq!(rw_watch_detach(*watch), OK));
            self.lists.iter().for_each(|list| rw_pairs_free(*list));
            self.histograms.iter().for_each(|histogram| rw_latency_free(*histogram));
        }
    }
}
