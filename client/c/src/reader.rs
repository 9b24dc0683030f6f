//! The reader as C sees it: attach, read, wait, detach.
//!
//! Contract: at most one datagram is in hand, until the next call that reads or releases. A torn
//! datagram is reported as torn once, and the next read returns its gap, so that losses are
//! reported in order and in full.

#![allow(unsafe_code)]

use crate::border::{Handle, live};
use crate::pairs::rw_pairs;
use crate::types::{rw_datagram, rw_gap};
use crate::{Fault, border, options, rw_code, text, write};
use ringweir::{CopyError, Datagram, DetachedBy, End, Item, Reader, Waited};
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// The reading end of a stream. Made by rw_attach(), ended by rw_detach(). Used by one thread at a
/// time, which need not be the one that attached. It stays with the process that attached: in a
/// child of fork() calls return RW_FORKED; only rw_detach() works there, and the parent does not
/// notice it.
pub struct rw_reader(Handle<Reading>);

pub(crate) struct Reading {
    pub reader: Reader,
    pub name: CString,
    /// The metadata as C strings: one list for each time it changed, the newest last. Programs may
    /// hold any of them until they detach, so none is dropped or moved before.
    #[allow(clippy::vec_box, reason = "the lists' addresses are with the program")]
    metadata: Vec<Box<rw_pairs>>,
    /// Who detached this reader, once RW_DETACHED was returned.
    pub detached_by: Option<DetachedBy>,
    in_hand: bool,
}

impl rw_reader {
    /// Runs one call on a reader.
    ///
    /// # Safety
    /// `reader` is NULL, or from rw_attach() and not detached, and used by one thread at a time.
    #[inline]
    pub(crate) unsafe fn enter(
        reader: *const rw_reader,
        act: impl FnOnce(&mut Reading) -> Result<rw_code, Fault>,
    ) -> c_int {
        // SAFETY: by the caller's promise `reader` is NULL, or from rw_attach() and not detached.
        let handle = unsafe { live(reader) }.map(|reader| &reader.0);
        // SAFETY: by the caller's promise one thread at a time uses the reader.
        unsafe { Handle::enter(handle, act) }
    }
}

/// What [`Reading::next`] found.
enum Found {
    Code(rw_code),
    Gap(rw_gap),
    Restarted(rw_gap),
}

impl Reading {
    fn new(reader: Reader, name: CString) -> Self {
        let metadata = vec![Box::new(rw_pairs::of(reader.metadata()))];
        Self { reader, name, metadata, detached_by: None, in_hand: false }
    }

    /// The metadata of the generation it reads.
    pub fn metadata(&self) -> *const rw_pairs {
        self.metadata.last().map_or(std::ptr::null(), |list| &raw const **list)
    }

    /// Adds a list if the metadata differs from the newest list.
    fn note_metadata(&mut self) {
        let now = rw_pairs::of(self.reader.metadata());
        if self.metadata.last().is_none_or(|newest| **newest != now) {
            self.metadata.push(Box::new(now));
        }
    }

    /// Reads the next item. A datagram is passed to `take`; if that returns `None`, the datagram
    /// was torn meanwhile, and this reads on.
    #[inline(always)]
    fn next(
        &mut self,
        mut take: impl FnMut(&mut Datagram<'_>) -> Result<Option<rw_code>, Fault>,
    ) -> Result<Found, Fault> {
        self.in_hand = false;
        loop {
            return Ok(match self.reader.next()? {
                Item::Datagram(mut datagram) => match take(&mut datagram)? {
                    Some(code) => Found::Code(code),
                    None => continue,
                },
                Item::Gap(gap) => Found::Gap(gap.into()),
                Item::Demoted(_) => Found::Code(rw_code::RW_DEMOTED),
                Item::Empty => Found::Code(rw_code::RW_EMPTY),
                Item::Restarted(restart) => {
                    self.note_metadata();
                    Found::Restarted(restart.into())
                }
                Item::Ended(End::BrokerGone) => Found::Code(rw_code::RW_BROKER_GONE),
                Item::Ended(End::Detached(by)) => {
                    self.detached_by = Some(by);
                    Found::Code(rw_code::RW_DETACHED)
                }
                Item::Ended(_) => Found::Code(rw_code::RW_ENDED),
            });
        }
    }
}

/// Writes what was found to the caller's `gap`, and gives the code.
///
/// # Safety
/// `gap` is NULL or room for one.
#[inline(always)]
unsafe fn hand_out(found: Found, gap: *mut rw_gap) -> Result<rw_code, Fault> {
    match found {
        Found::Code(code) => Ok(code),
        Found::Gap(told) => {
            // SAFETY: by the caller's promise `gap` is NULL or room for one.
            unsafe { write(gap, "gap", told) }?;
            Ok(rw_code::RW_GAP)
        }
        Found::Restarted(told) => {
            // SAFETY: by the caller's promise `gap` is NULL or room for one.
            unsafe { write(gap, "gap", told) }?;
            Ok(rw_code::RW_RESTARTED)
        }
    }
}

/// Checks both outputs before anything is read, so that nothing is read and then lost.
#[inline(always)]
fn have_room(datagram: *mut rw_datagram, gap: *mut rw_gap) -> Result<(), Fault> {
    if datagram.is_null() || !datagram.is_aligned() || gap.is_null() || !gap.is_aligned() {
        return Err(Fault::invalid(
            "datagram or gap is NULL or misaligned: a call that reads needs room for either",
        ));
    }
    Ok(())
}

/// Attaches to the stream name, or to the control socket at a path (anything with a '/'). options
/// may be NULL. On RW_OK end *reader with rw_detach(), otherwise it is NULL. Blocks until the
/// broker answers, for at most 10 s. Errors: RW_INVALID, RW_NOT_FOUND, RW_NOT_RUNNING,
/// RW_NO_ACCESS, RW_FULL, RW_NO_ANSWER, RW_HUNG_UP, RW_VERSION, RW_PROTOCOL, RW_BAD_NAME,
/// RW_RESOURCES, RW_SYSTEM, RW_PANIC.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_attach(
    name: *const c_char,
    options: *const options::rw_options,
    reader: *mut *mut rw_reader,
) -> c_int {
    border(|| {
        // SAFETY: header, Pointers: `reader` is NULL or room for one, which `write` checks.
        unsafe { write(reader, "reader", std::ptr::null_mut()) }?;
        // SAFETY: header, Pointers: `name` is NULL or a string that ends with a NUL.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: header, Pointers: `options` is NULL or a struct, whose label is NULL or ends with
        // a NUL.
        let options = unsafe { options::read(options) }?;
        let attached = options.attach(name)?;
        let name = CString::new(name).expect("it came as a C string");
        let reading = Reading::new(attached, name);
        let handle = Box::into_raw(Box::new(rw_reader(Handle::new(reading))));
        // SAFETY: the first `write` succeeded, so `reader` is not NULL, aligned, and room for a
        // pointer.
        unsafe { write(reader, "reader", handle) }?;
        Ok(rw_code::RW_OK)
    })
}

/// Ends a reader: frees its reader index and everything it handed out. NULL is fine. RW_BUSY:
/// another call is using it, and nothing was done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_detach(reader: *mut rw_reader) -> c_int {
    // SAFETY: header, Pointers: `reader` is NULL, or from rw_attach() and not used again once it is
    // detached.
    unsafe { Handle::discard(reader, |reader| &reader.0) }
}

/// Reads the next item. Never blocks, and makes no system call while datagrams come. After a
/// restart of the broker each call only takes the next step of attaching to it. A datagram still in
/// hand is released first; if it turns out to be torn, the gap that begins with it comes now.
///
/// RW_DATAGRAM: *datagram describes it, in place; it is in hand until the next call that reads.
/// Call rw_release() when done: unless it returns RW_OK, the bytes that were read may be a mixture.
/// RW_GAP: *gap says what is lost. RW_RESTARTED: *gap describes the restart. RW_EMPTY, RW_DEMOTED,
/// RW_ENDED, RW_BROKER_GONE, RW_DETACHED: neither is touched. Errors: RW_INVALID, RW_BUSY,
/// RW_FORKED; RW_CORRUPT, and those of rw_attach() if attaching to a restarted broker fails for a
/// permanent reason.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_next(
    reader: *mut rw_reader,
    datagram: *mut rw_datagram,
    gap: *mut rw_gap,
) -> c_int {
    let act = |reading: &mut Reading| {
        have_room(datagram, gap)?;
        let found = reading.next(|found| {
            let shown = rw_datagram::of(found, found.as_ptr());
            // SAFETY: header, Pointers: `datagram` is NULL or room for one, which `write` checks.
            unsafe { write(datagram, "datagram", shown) }?;
            Ok(Some(rw_code::RW_DATAGRAM))
        })?;
        reading.in_hand = matches!(found, Found::Code(rw_code::RW_DATAGRAM));
        // SAFETY: header, Pointers: `gap` is NULL or room for one.
        unsafe { hand_out(found, gap) }
    };
    // SAFETY: header, rw_reader: NULL or from rw_attach(), not detached, used by one thread.
    unsafe { rw_reader::enter(reader, act) }
}

/// Releases the datagram of rw_next(). RW_OK: it was not overwritten, what you read is valid, and
/// it counts as delivered (RW_OK also if nothing was in hand). RW_TORN: the publisher overwrote it
/// meanwhile; undo what you did with it. The next call returns the gap that begins with it. Errors:
/// RW_INVALID, RW_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_release(reader: *mut rw_reader) -> c_int {
    let act = |reading: &mut Reading| {
        if std::mem::take(&mut reading.in_hand) && reading.reader.settle().is_err() {
            return Ok(rw_code::RW_TORN);
        }
        Ok(rw_code::RW_OK)
    };
    // SAFETY: header, rw_reader: NULL or from rw_attach(), not detached, used by one thread.
    unsafe { rw_reader::enter(reader, act) }
}

/// As rw_next(), but copies the datagram into the size bytes at buffer and validates the copy. It
/// counts as delivered at once: there is no rw_release(), and never RW_TORN. A buffer of
/// rw_geometry.max_datagram bytes is never too small; align it to 64.
///
/// RW_TOO_SMALL: datagram->len is the size it needs (data is NULL, buffer untouched), and it stays
/// unread: the next rw_read() or rw_next() returns it again or, if it has been overwritten by then,
/// the gap that begins with it. buffer may be NULL if size is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_read(
    reader: *mut rw_reader,
    buffer: *mut c_void,
    size: usize,
    datagram: *mut rw_datagram,
    gap: *mut rw_gap,
) -> c_int {
    let act = |reading: &mut Reading| {
        have_room(datagram, gap)?;
        if buffer.is_null() && size != 0 {
            return Err(Fault::invalid(format!("buffer is NULL, its size {size}")));
        }
        let found = reading.next(|found| {
            let room = match found.len().min(size) {
                0 => &mut [],
                // SAFETY: header, Pointers: `buffer` has `size` bytes, which only this call uses
                // while it runs. It is not NULL, because size is not 0 (checked above); n is at
                // most size, and not more than a datagram, so below isize::MAX.
                n => unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), n) },
            };
            let (code, data) = match found.copy_to(room) {
                Ok(_) => (rw_code::RW_DATAGRAM, buffer.cast_const().cast()),
                Err(CopyError::TooSmall { .. }) => (rw_code::RW_TOO_SMALL, std::ptr::null()),
                Err(CopyError::Torn(_)) => return Ok(None),
            };
            let shown = rw_datagram::of(found, data);
            // SAFETY: header, Pointers: `datagram` is NULL or room for one, which `write` checks.
            unsafe { write(datagram, "datagram", shown) }?;
            Ok(Some(code))
        })?;
        if let Found::Code(rw_code::RW_TOO_SMALL) = found {
            let text = format!("a buffer of {size} bytes is too small for the next datagram");
            return Err(Fault { code: rw_code::RW_TOO_SMALL, text });
        }
        if let Found::Code(rw_code::RW_DATAGRAM) = found {
            // The copy was validated: it cannot be torn any more.
            let _whole = reading.reader.settle();
        }
        // SAFETY: header, Pointers: `gap` is NULL or room for one.
        unsafe { hand_out(found, gap) }
    };
    // SAFETY: header, rw_reader: NULL or from rw_attach(), not detached, used by one thread.
    unsafe { rw_reader::enter(reader, act) }
}

/// Sleeps until there is something to read, a signal arrives, or timeout_ms milliseconds have
/// passed (-1: for ever, 0: only looks). Polls for rw_options.spin_ns first. RW_OK: call rw_next();
/// sometimes there is nothing after all. RW_TIMEOUT: the time has passed. RW_INTERRUPTED: a signal
/// arrived. A signal that arrives just before this call does not end it; where that matters, block
/// the signal and use rw_arm(), rw_fd() and ppoll(), which also takes finer timeouts. Errors:
/// RW_INVALID, RW_BUSY, RW_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_wait(reader: *mut rw_reader, timeout_ms: c_int) -> c_int {
    let act = |reading: &mut Reading| {
        let timeout = match timeout_ms {
            -1 => None,
            0.. => Some(Duration::from_millis(timeout_ms.unsigned_abs().into())),
            _ => {
                return Err(Fault::invalid(format!(
                    "timeout_ms {timeout_ms}: use -1 for ever, 0, or more"
                )));
            }
        };
        Ok(match reading.reader.wait(timeout)? {
            Waited::Woken => rw_code::RW_OK,
            Waited::TimedOut => rw_code::RW_TIMEOUT,
            Waited::Interrupted => rw_code::RW_INTERRUPTED,
        })
    };
    // SAFETY: header, rw_reader: NULL or from rw_attach(), not detached, used by one thread.
    unsafe { rw_reader::enter(reader, act) }
}

/// A file descriptor for poll(), select() or epoll: readable when a reader that was armed with
/// rw_arm() has something to read, or its broker is gone. It stays the same when the broker
/// restarts, and belongs to the reader: never read from it or close it. Errors, below zero:
/// RW_INVALID, RW_BUSY, RW_RESOURCES, RW_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_fd(reader: *mut rw_reader) -> c_int {
    let mut fd = 0;
    let act = |reading: &mut Reading| {
        fd = reading.reader.as_fd().as_raw_fd();
        Ok(rw_code::RW_OK)
    };
    // SAFETY: header, rw_reader: NULL or from rw_attach(), not detached, used by one thread.
    match unsafe { rw_reader::enter(reader, act) } {
        0 => fd,
        error => error,
    }
}

/// Announces that this reader is about to sleep on rw_fd(): call it before each poll(), after
/// rw_next() has returned RW_EMPTY. RW_OK: sleep; the descriptor will become readable (while there
/// is no broker: when the next attempt to attach is due). RW_READY: do not sleep, call rw_next().
/// Errors: RW_INVALID, RW_BUSY, RW_RESOURCES, RW_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_arm(reader: *mut rw_reader) -> c_int {
    let act = |reading: &mut Reading| {
        Ok(if reading.reader.arm()? { rw_code::RW_OK } else { rw_code::RW_READY })
    };
    // SAFETY: header, rw_reader: NULL or from rw_attach(), not detached, used by one thread.
    unsafe { rw_reader::enter(reader, act) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairs::{rw_pairs_count, rw_pairs_find};
    use crate::properties::rw_reader_metadata;
    use ringweir_testing::Stream;
    use std::ffi::CStr;

    /// A list of metadata that a program holds stays as it is when the broker comes back with a
    /// fresh ring, before rw_next() returns RW_RESTARTED and after. Control: the newest list is a
    /// different one. (AddressSanitizer and valgrind would also find a read of a dropped list.)
    #[test]
    fn metadata_stays_until_detach() {
        let stream = Stream::with_metadata("pairs", &[("life", "1")]);
        let mut reader = std::ptr::null_mut();
        // SAFETY: the name is a C string, the options are NULL, and `reader` is room for a pointer.
        assert_eq!(unsafe { rw_attach(c"pairs".as_ptr(), std::ptr::null(), &raw mut reader) }, 0);
        // SAFETY: `reader` came from rw_attach(), is detached only at the end, and only this thread
        // uses it.
        let list = || unsafe { rw_reader_metadata(reader) };
        let life = |list| {
            // SAFETY: the list belongs to the reader, which is not detached, and the key is a C
            // string.
            let found = unsafe { rw_pairs_find(list, c"life".as_ptr()) };
            // SAFETY: the list has the key, so this is the value of a pair: a C string, valid until
            // the reader is detached.
            unsafe { CStr::from_ptr(found) }
        };
        let first = list();
        for generation in 2..5u64 {
            let held = list();
            let before = life(held).to_owned();
            let value = generation.to_string();
            stream.restart(&[("life", &value)]);
            let began = std::time::Instant::now();
            let mut datagram = std::mem::MaybeUninit::<rw_datagram>::uninit();
            let mut gap = rw_gap::default();
            loop {
                // SAFETY: `reader` is attached, and both structs have room.
                match unsafe { rw_next(reader, datagram.as_mut_ptr(), &raw mut gap) } {
                    code if code == rw_code::RW_RESTARTED as c_int => break,
                    code => assert_eq!(code, rw_code::RW_EMPTY as c_int),
                }
                assert!(began.elapsed() < Duration::from_secs(60), "never attached again");
                // SAFETY: `reader` came from rw_attach(), is detached only at the end, and only
                // this thread uses it.
                unsafe { rw_wait(reader, 100) };
            }
            assert_ne!(list(), held, "the old list was overwritten");
            assert_eq!(life(held), &*before);
            assert_eq!(life(list()).to_str(), Ok(&*value));
        }
        assert_eq!(life(first), c"1");
        // A pointer that this library cannot have handed out is refused.
        // SAFETY: the pointer is misaligned, so it is refused and never dereferenced.
        assert_eq!(unsafe { rw_pairs_count(first.wrapping_byte_add(1)) }, 0);
        // SAFETY: the pointer is misaligned, so it is refused and never dereferenced.
        let refused = unsafe { rw_wait(reader.wrapping_byte_add(1), 0) };
        assert_eq!(refused, rw_code::RW_INVALID as c_int);
        // SAFETY: `reader` came from rw_attach() and is not used again.
        assert_eq!(unsafe { rw_detach(reader) }, 0);
    }
}
