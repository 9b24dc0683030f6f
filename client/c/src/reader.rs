//! The reader as C sees it: attach, read, wait, detach.
//!
//! Contract: at most one datagram is in hand, until the next call that reads or releases. A torn
//! datagram is reported as torn once, and the next read returns its gap, so that losses are
//! reported in order and in full.

#![allow(unsafe_code)]

use crate::args::{Back, In, InMut, Out, Text};
use crate::handle::Handle;
use crate::pairs::rw_pairs;
use crate::types::{rw_datagram, rw_gap};
use crate::{Fault, options, rw_code};
use ringweir::{CopyError, Datagram, DetachedBy, End, Item, Reader, Waited};
use std::ffi::{CString, c_int, c_void};
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
    #[inline]
    pub(crate) fn enter(
        reader: In<'_, rw_reader>,
        act: impl FnOnce(&mut Reading) -> Result<rw_code, Fault>,
    ) -> c_int {
        Handle::enter(reader.get().map(|reader| &reader.0), act)
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
#[inline(always)]
fn hand_out(found: Found, gap: &Out<'_, rw_gap>) -> Result<rw_code, Fault> {
    match found {
        Found::Code(code) => Ok(code),
        Found::Gap(lost) => {
            gap.write("gap", lost)?;
            Ok(rw_code::RW_GAP)
        }
        Found::Restarted(restart) => {
            gap.write("gap", restart)?;
            Ok(rw_code::RW_RESTARTED)
        }
    }
}

/// Checks both outputs before anything is read, so that nothing is read and then lost.
#[inline(always)]
fn have_room(datagram: &Out<'_, rw_datagram>, gap: &Out<'_, rw_gap>) -> Result<(), Fault> {
    if !datagram.has_room() || !gap.has_room() {
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
pub extern "C" fn rw_attach(
    name: Text<'_>,
    options: In<'_, options::rw_options<'_>>,
    reader: Out<'_, *mut rw_reader>,
) -> c_int {
    reader.lend("reader", || {
        let name = name.read("name")?;
        let attached = options::read(options)?.attach(name)?;
        let name = CString::new(name).expect("it came as a C string");
        Ok(rw_reader(Handle::new(Reading::new(attached, name))))
    })
}

/// Ends a reader: frees its reader index and everything it handed out. NULL is fine. RW_BUSY:
/// another call is using it, and nothing was done.
#[unsafe(no_mangle)]
pub extern "C" fn rw_detach(reader: Back<rw_reader>) -> c_int {
    Handle::discard(reader, |reader| &reader.0)
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
pub extern "C" fn rw_next(
    reader: InMut<'_, rw_reader>,
    datagram: Out<'_, rw_datagram>,
    gap: Out<'_, rw_gap>,
) -> c_int {
    let act = |reading: &mut Reading| {
        have_room(&datagram, &gap)?;
        let found = reading.next(|found| {
            let shown = rw_datagram::of(found, found.as_ptr());
            datagram.write("datagram", shown)?;
            Ok(Some(rw_code::RW_DATAGRAM))
        })?;
        reading.in_hand = matches!(found, Found::Code(rw_code::RW_DATAGRAM));
        hand_out(found, &gap)
    };
    rw_reader::enter(reader, act)
}

/// Releases the datagram of rw_next(). RW_OK: it was not overwritten, what you read is valid, and
/// it counts as delivered (RW_OK also if nothing was in hand). RW_TORN: the publisher overwrote it
/// meanwhile; undo what you did with it. The next call returns the gap that begins with it. Errors:
/// RW_INVALID, RW_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn rw_release(reader: InMut<'_, rw_reader>) -> c_int {
    let act = |reading: &mut Reading| {
        if std::mem::take(&mut reading.in_hand) && reading.reader.settle().is_err() {
            return Ok(rw_code::RW_TORN);
        }
        Ok(rw_code::RW_OK)
    };
    rw_reader::enter(reader, act)
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
    reader: InMut<'_, rw_reader>,
    buffer: *mut c_void,
    size: usize,
    datagram: Out<'_, rw_datagram>,
    gap: Out<'_, rw_gap>,
) -> c_int {
    let act = |reading: &mut Reading| {
        have_room(&datagram, &gap)?;
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
            datagram.write("datagram", shown)?;
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
        hand_out(found, &gap)
    };
    rw_reader::enter(reader, act)
}

/// Sleeps until there is something to read, a signal arrives, or timeout_ms milliseconds have
/// passed (-1: for ever, 0: only looks). Polls for rw_options.spin_ns first. RW_OK: call rw_next();
/// sometimes there is nothing after all. RW_TIMEOUT: the time has passed. RW_INTERRUPTED: a signal
/// arrived. A signal that arrives just before this call does not end it; where that matters, block
/// the signal and use rw_arm(), rw_fd() and ppoll(), which also takes finer timeouts. Errors:
/// RW_INVALID, RW_BUSY, RW_SYSTEM.
#[unsafe(no_mangle)]
pub extern "C" fn rw_wait(reader: InMut<'_, rw_reader>, timeout_ms: c_int) -> c_int {
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
    rw_reader::enter(reader, act)
}

/// A file descriptor for poll(), select() or epoll: readable when a reader that was armed with
/// rw_arm() has something to read, or its broker is gone. It stays the same when the broker
/// restarts, and belongs to the reader: never read from it or close it. Errors, below zero:
/// RW_INVALID, RW_BUSY, RW_RESOURCES, RW_SYSTEM.
#[unsafe(no_mangle)]
pub extern "C" fn rw_fd(reader: InMut<'_, rw_reader>) -> c_int {
    let mut fd = 0;
    let act = |reading: &mut Reading| {
        fd = reading.reader.as_fd().as_raw_fd();
        Ok(rw_code::RW_OK)
    };
    match rw_reader::enter(reader, act) {
        0 => fd,
        error => error,
    }
}

/// Announces that this reader is about to sleep on rw_fd(): call it before each poll(), after
/// rw_next() has returned RW_EMPTY. RW_OK: sleep; the descriptor will become readable (while there
/// is no broker: when the next attempt to attach is due). RW_READY: do not sleep, call rw_next().
/// Errors: RW_INVALID, RW_BUSY, RW_RESOURCES, RW_SYSTEM.
#[unsafe(no_mangle)]
pub extern "C" fn rw_arm(reader: InMut<'_, rw_reader>) -> c_int {
    let act = |reading: &mut Reading| {
        Ok(if reading.reader.arm()? { rw_code::RW_OK } else { rw_code::RW_READY })
    };
    rw_reader::enter(reader, act)
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
        let mut owner = std::ptr::null_mut();
        let name = Text::from(c"pairs");
        assert_eq!(rw_attach(name, In::from(None), Out::from(&mut owner)), 0);
        // SAFETY: rw_attach() made it with Box::into_raw. It is detached only at the end, and used
        // by this thread only.
        let reader = In::from(unsafe { owner.as_ref() });
        // SAFETY: the reader, to which the list belongs, is not detached.
        let list = || unsafe { rw_reader_metadata(reader).as_ref() }.expect("metadata");
        let life = |list: &rw_pairs| {
            let found = rw_pairs_find(In::from(list), Text::from(c"life"));
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
                match rw_next(reader, Out::from(&mut datagram), Out::from(&mut gap)) {
                    code if code == rw_code::RW_RESTARTED as c_int => break,
                    code => assert_eq!(code, rw_code::RW_EMPTY as c_int),
                }
                assert!(began.elapsed() < Duration::from_secs(60), "never attached again");
                rw_wait(reader, 100);
            }
            assert!(!std::ptr::eq(list(), held), "the old list was overwritten");
            assert_eq!(life(held), &*before);
            assert_eq!(life(list()).to_str(), Ok(&*value));
        }
        assert_eq!(life(first), c"1");
        // A pointer that this library cannot have handed out is refused.
        assert_eq!(rw_pairs_count(In::from(first).misaligned()), 0);
        assert_eq!(rw_wait(reader.misaligned(), 0), rw_code::RW_INVALID as c_int);
        // SAFETY: `owner` came from rw_attach() and is not used again.
        assert_eq!(rw_detach(unsafe { Back::new(owner) }), 0);
    }
}
