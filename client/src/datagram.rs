//! One datagram that a reader holds: borrowed in place, or copied out.
//!
//! Contract: the stream may overwrite a datagram while it is being read. Copying validates before
//! it returns bytes. Viewing validates at the end and discards its result if that fails. So safe
//! code never takes torn bytes for valid ones.

use ringweir_proto::ring::{Descriptor, LinkType, RingReader, Torn};
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
    /// The buffer is too small. The datagram stays unread: it can be copied into a larger buffer.
    /// Otherwise the next read returns it again or, if it has been overwritten by then, the gap
    /// that begins with it.
    #[error("datagram of {needed} bytes does not fit the buffer of {given}")]
    TooSmall {
        /// Length of the datagram in bytes.
        needed: usize,
        /// Length of the buffer in bytes.
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
    /// Channel; 0 if there is only one.
    #[inline]
    pub fn channel(&self) -> u16 {
        self.what().channel
    }
    /// When the source saw it: ns since 1970; `None` if the source does not report it.
    #[inline]
    pub fn source_time(&self) -> Option<u64> {
        (self.what().source_time != 0).then_some(self.what().source_time)
    }
    /// When the broker received it: CLOCK_MONOTONIC ns, of the machine's first time namespace.
    #[inline]
    pub fn publish_time(&self) -> u64 {
        self.what().publish_time
    }

    /// What it is in a capture; see [`Reader::link_type`](crate::Reader::link_type).
    #[inline]
    pub fn link_type(&self) -> LinkType {
        self.ring.memory().link_type()
    }

    /// Address of its first byte, 8-aligned, for code that reads in place on its own
    /// responsibility. The [`Self::len`] bytes there stay readable until the next call on the
    /// reader, but the publisher may overwrite them at any moment. So never make a `&[u8]` of them,
    /// and use what was read only after [`Reader::settle`](crate::Reader::settle) has confirmed
    /// that the datagram was not overwritten.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.ring.payload_ptr(self.what())
    }

    /// Copies it into the first [`Self::len`] bytes of `buffer` and validates.
    ///
    /// # Errors
    /// [`CopyError::TooSmall`]: the datagram stays unread. [`CopyError::Torn`]: it was overwritten,
    /// and the content of `buffer` is void.
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

    /// Reads it in place: `look` computes a result from the payload, which is returned only if the
    /// datagram is still valid at the end. `look` may see torn bytes, which can have any values but
    /// are never out of bounds.
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

    /// Copies `buffer.len()` bytes from offset `at`; they are not validated yet.
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
        // The piece is zeroed first, so a short payload gets a small one.
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
