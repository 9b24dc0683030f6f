//! One datagram in a reader's hand: borrowed in place, or copied out.
//!
//! Contract: the stream may overwrite a datagram while it is being read. Everything here either
//! validates before it hands bytes out (copying) or discards its result if validation at the end
//! fails (viewing); torn bytes never reach safe code as anything that counts.

use ringweir_proto::ring::{Descriptor, RingReader, Torn};
use std::marker::PhantomData;

/// A datagram, held until the next one is read.
pub struct Datagram<'r> {
    pub(crate) ring: &'r mut RingReader,
}

/// Why a datagram was not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// It was overwritten: the next read is a gap that begins with it.
    #[error(transparent)]
    Torn(#[from] Torn),
    /// The buffer is too small; the datagram stays unread: it can be copied into a larger one, and
    /// if it is not, the next read finds it again (or, if it was overwritten by then, the gap that
    /// begins with it).
    #[error("datagram of {needed} bytes does not fit the buffer of {given}")]
    TooSmall {
        /// Bytes it takes.
        needed: usize,
        /// Bytes there were.
        given: usize,
    },
}

impl Datagram<'_> {
    #[inline(always)]
    fn what(&self) -> &Descriptor {
        self.ring.current()
    }

    /// Number in the stream, from 0.
    #[inline]
    pub fn seq(&self) -> u64 {
        self.what().seq
    }
    /// Length in bytes.
    #[allow(
        clippy::len_without_is_empty,
        reason = "an empty datagram is a datagram; nobody asks whether it is empty"
    )]
    #[inline]
    pub fn len(&self) -> usize {
        self.what().len
    }
    /// Length before it was cut, in bytes; equals [`Self::len`] if it was not.
    #[inline]
    pub fn original_len(&self) -> usize {
        self.what().original_len
    }
    /// Whether it was cut on its way into the ring.
    #[inline]
    pub fn is_truncated(&self) -> bool {
        self.what().original_len > self.what().len
    }
    /// Channel, 0 where there is one only.
    #[inline]
    pub fn channel(&self) -> u16 {
        self.what().channel
    }
    /// When the source saw it: ns since 1970; `None` if the source does not say.
    #[inline]
    pub fn source_time(&self) -> Option<u64> {
        (self.what().source_time != 0).then_some(self.what().source_time)
    }
    /// When the broker took it in: CLOCK_MONOTONIC ns.
    #[inline]
    pub fn publish_time(&self) -> u64 {
        self.what().publish_time
    }

    /// Address of its first byte, 8-aligned, for code that reads in place on its own
    /// responsibility. The [`Self::len`] bytes there stay readable until the next call on the
    /// reader, and the publisher may overwrite them at any moment: so no `&[u8]` may be made of
    /// them, and what is read counts only after [`Reader::settle`](crate::Reader::settle) said that
    /// the datagram stayed whole.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.ring.payload_ptr(self.what())
    }

    /// Copies it into the first [`Self::len`] bytes of `buffer` and validates.
    ///
    /// # Errors
    /// [`CopyError::TooSmall`] leaves it unread; [`CopyError::Torn`] voids it.
    #[inline]
    pub fn copy_to(&mut self, buffer: &mut [u8]) -> Result<usize, CopyError> {
        let needed = self.what().len;
        let given = buffer.len();
        let Some(room) = buffer.get_mut(..needed) else {
            self.ring.leave_unread();
            return Err(CopyError::TooSmall { needed, given });
        };
        self.ring.copy_out(self.what(), 0, room);
        self.ring.validate()?;
        Ok(needed)
    }

    /// Copies it into a new vector and validates.
    ///
    /// # Errors
    /// [`Torn`] if it was overwritten meanwhile.
    pub fn to_vec(&mut self) -> Result<Vec<u8>, Torn> {
        let mut bytes = vec![0; self.what().len];
        self.ring.copy_out(self.what(), 0, &mut bytes);
        self.ring.validate()?;
        Ok(bytes)
    }

    /// Reads it in place: `look` computes something from the payload, and what it computed is
    /// handed out only if the datagram was still whole at the end. `look` may see torn bytes and
    /// must bear them: any values, never out of bounds.
    ///
    /// # Errors
    /// [`Torn`] if it was overwritten meanwhile.
    #[inline]
    pub fn view<R>(&mut self, look: impl FnOnce(Payload<'_>) -> R) -> Result<R, Torn> {
        let result = look(Payload { ring: self.ring, _borrow: PhantomData });
        self.ring.validate()?;
        Ok(result)
    }
}

impl std::fmt::Debug for Datagram<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.what().fmt(f)
    }
}

/// The payload in place, inside [`Datagram::view`].
#[derive(Clone, Copy)]
pub struct Payload<'v> {
    ring: &'v RingReader,
    _borrow: PhantomData<&'v [u8]>,
}

impl Payload<'_> {
    #[inline(always)]
    fn what(&self) -> &Descriptor {
        self.ring.current()
    }

    /// Length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "as for Datagram")]
    #[inline]
    pub fn len(&self) -> usize {
        self.what().len
    }

    /// Address of the first byte, 8-aligned, for code that reads in place on its own
    /// responsibility: the bytes may change at any moment, so no `&[u8]` may be made of them.
    pub fn as_ptr(&self) -> *const u8 {
        self.ring.payload_ptr(self.what())
    }

    /// Copies `buffer.len()` bytes from `at`, not validated yet.
    ///
    /// # Panics
    /// If the range is not inside the payload.
    #[inline]
    pub fn copy_to(&self, at: usize, buffer: &mut [u8]) {
        self.ring.copy_out(self.what(), at, buffer);
    }

    /// Passes the payload through `step` in pieces of at most 4 KiB, each a private copy that stays
    /// in the first-level cache: the speed of reading in place for code that wants slices
    /// (checksums, parsers, writers).
    #[inline]
    pub fn fold<A>(&self, start: A, mut step: impl FnMut(A, &[u8]) -> A) -> A {
        #[repr(align(64))]
        struct Piece<const N: usize>([u8; N]);
        // Room is cleared first: as little as will do.
        if self.len() <= 256 {
            let mut piece = Piece([0; 256]);
            let bytes = &mut piece.0[..self.len()];
            self.copy_to(0, bytes);
            return step(start, bytes);
        }
        let mut piece = Piece([0; 4096]);
        let mut folded = start;
        let mut at = 0;
        while at < self.len() {
            let n = (self.len() - at).min(piece.0.len());
            self.copy_to(at, &mut piece.0[..n]);
            folded = step(folded, &piece.0[..n]);
            at += n;
        }
        folded
    }
}
