//! Receiving in batches: what `udp:`, `unix:` and `netlink:` share.
//!
//! Contract: the kernel's copy is the only one. A batch is one `recvmmsg` into one claim, which is
//! divided into places of equal length. A place is as long as the longest of the recent datagrams,
//! so a stream whose datagrams all have one size wastes nothing, and none of them is copied again.
//! If sizes differ, a datagram that is shorter than the hole before it is moved down into the
//! hole, so that at least half of the ring is payload. A datagram that is longer than its place is
//! put together with its rest from a private buffer. Both are counted as moved. A datagram longer
//! than the stream's largest is published cut, with its original length. Nothing is allocated after
//! [`Batch::new`].

#![allow(unsafe_code)]

use super::contract::{Fill, SourceError};
use super::socket::{CONTROL_WORDS, Control, parse_control};
use crate::intake::for_sources::{Arrival, Intake};
use ringweir_proto::layout::align8;
use ringweir_proto::stats::PumpCounter;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most datagrams in a batch.
const BATCH: usize = 64;
/// Datagrams after which the length of a place is computed again.
const WINDOW: usize = 64;
/// Size in bytes of the private buffer, unless one datagram needs more. It is divided into rooms,
/// one for each datagram: if datagrams may be long, fewer rooms fit, and batches are smaller.
const SPILL: usize = 4 << 20;

/// Receives from sockets whose datagrams have at most `max` bytes.
pub(super) struct Batch {
    /// Longest datagram that is received whole.
    max: usize,
    /// Most datagrams in a batch of this socket.
    rooms: usize,
    /// Bytes of control messages requested for each datagram.
    control_len: usize,
    /// Length of a place in the claim, a multiple of 8. Invariant: at most `align8(max)`.
    stride: usize,
    /// The longest datagram of this window, and of the window before.
    longest: [usize; 2],
    window_left: usize,
    /// `rooms` private rooms of `align8(max)` bytes. The part of a datagram that exceeds its place
    /// is received into its room, at the offset that it has in the datagram.
    spill: Box<[u8]>,
    control: Box<[[u64; CONTROL_WORDS]; BATCH]>,
}

/// One received datagram: its original length, and the length of its control messages.
#[derive(Clone, Copy, Default)]
struct Received {
    len: usize,
    control_len: usize,
}

/// Why no batch was received.
pub(super) enum BatchError {
    /// The call failed.
    Receive(Errno),
    /// The ring has no room for it.
    Source(SourceError),
}

impl BatchError {
    /// What the error means for a round of the source `name`. Most errors are faults, which the
    /// failed call has cleared at the socket. The others end the source.
    pub(super) fn outcome(self, name: &str, intake: &mut Intake) -> Result<Fill, SourceError> {
        match self {
            Self::Receive(Errno::AGAIN) => Ok(Fill::Idle),
            Self::Receive(Errno::INTR) => Ok(Fill::Took),
            Self::Receive(e @ (Errno::BADF | Errno::FAULT | Errno::INVAL | Errno::NOTSOCK)) => {
                Err(SourceError(format!("{name}: receiving: {e}")))
            }
            Self::Receive(e) => {
                // ICMP or the other end has reported something, or memory is short.
                intake.fault(format_args!("{name}: receiving: {e}"));
                Ok(Fill::Took)
            }
            Self::Source(e) => Err(e),
        }
    }
}

/// How many datagrams a batch had, and how many it could have had.
pub(super) struct Count {
    pub got: usize,
    pub most: usize,
}

impl Batch {
    /// A receiver of datagrams of at most `max` bytes, each with `control_len` bytes of control
    /// messages (at most `8 * CONTROL_WORDS`).
    pub(super) fn new(max: usize, control_len: usize) -> Self {
        let place = align8(max as u64) as usize;
        let rooms = (SPILL / place.max(1)).clamp(1, BATCH);
        Self {
            max,
            rooms,
            control_len: control_len.min(CONTROL_WORDS * 8),
            stride: place.min(2048),
            longest: [0; 2],
            window_left: WINDOW,
            // Filled, not merely reserved, so that no page fault happens later.
            spill: vec![0xFF; rooms * place].into(),
            control: Box::new([[0; CONTROL_WORDS]; BATCH]),
        }
    }

    /// Length of a place.
    #[cfg(test)]
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Receives one batch from `fd` and publishes it. `accept` is called for each datagram, in
    /// order and before it is published, with its control messages and its length. It returns the
    /// datagram's channel and time, or `None` to leave the datagram out.
    pub(super) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        intake: &mut Intake,
        mut accept: impl FnMut(&mut Intake, Control, usize) -> Option<Arrival>,
    ) -> Result<Count, BatchError> {
        let (stride, place) = (self.stride, align8(self.max as u64) as usize);
        // At most a quarter of the longest claim: a claim overwrites history even if the batch then
        // stays small, as in a slow stream.
        let most = (intake.max_span() / 4 / stride.max(1)).clamp(1, self.rooms);
        let most = intake.how_many_fit(self.max, most);
        let mut claim =
            intake.claim(most * stride).map_err(|e| BatchError::Source(SourceError::new(e)))?;
        let mut room = claim.bytes();
        let mut received = [Received::default(); BATCH];
        let got = receive(
            fd,
            &mut room,
            stride,
            self.max,
            &mut self.spill,
            (&mut self.control, self.control_len),
            &mut received[..most],
        )
        .map_err(BatchError::Receive)?;

        // Make all moves within the claim first: a commit must not release memory that still holds
        // another datagram.
        let (mut places, mut used, mut moved, mut settled) = ([0; BATCH], 0, 0, got);
        for (i, datagram) in received[..got].iter().enumerate() {
            let (at, len) = (i * stride, datagram.len.min(self.max));
            if len <= stride && at - used < len {
                places[i] = at;
            } else if used + len <= at + stride {
                let (head, from) = (len.min(stride), i * place);
                room.copy_within(at..at + head, used);
                room[used + head..used + len].copy_from_slice(&self.spill[from + head..from + len]);
                places[i] = used;
                moved += u64::from(len > 0);
            } else {
                settled = i;
                break;
            }
            used = places[i] + align8(len as u64) as usize;
        }
        // All datagrams from the first one that does not fit anywhere are copied to the spill
        // buffer: claiming room for one overwrites those after it.
        for (i, datagram) in received[..got].iter().enumerate().skip(settled) {
            let head = datagram.len.min(self.max).min(stride);
            self.spill[i * place..][..head].copy_from_slice(&room[i * stride..][..head]);
            moved += u64::from(head > 0);
        }
        drop(room);
        if moved > 0 {
            intake.count(PumpCounter::Moved, moved);
        }

        for (i, datagram) in received[..got].iter().enumerate() {
            let control = parse_control(&self.control[i], datagram.control_len);
            let Some(mut arrival) = accept(intake, control, datagram.len) else { continue };
            let len = datagram.len.min(self.max);
            if datagram.len > len {
                arrival.original_len = u32::try_from(datagram.len).unwrap_or(u32::MAX);
            }
            if i < settled {
                intake.commit(places[i], len, arrival);
            } else {
                let mut claim =
                    intake.claim(len).map_err(|e| BatchError::Source(SourceError::new(e)))?;
                claim.write(0, &self.spill[i * place..][..len]);
                intake.commit(0, len, arrival);
            }
            self.longest[0] = self.longest[0].max(len);
        }
        self.window_left = self.window_left.saturating_sub(got);
        if self.window_left == 0 {
            self.stride =
                align8(self.longest[0].max(self.longest[1]).max(1).min(place) as u64) as usize;
            self.longest = [0, self.longest[0]];
            self.window_left = WINDOW;
        }
        Ok(Count { got, most })
    }
}

/// Receives up to `received.len()` datagrams. The first `stride` bytes of each go to its place in
/// `room`. The bytes after that, up to `max` in all, go to its room in `spill`, at the offset that
/// they have in the datagram.
fn receive(
    fd: BorrowedFd<'_>,
    room: &mut [u8],
    stride: usize,
    max: usize,
    spill: &mut [u8],
    (control, control_len): (&mut [[u64; CONTROL_WORDS]; BATCH], usize),
    received: &mut [Received],
) -> Result<usize, Errno> {
    const NONE: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    const EMPTY: libc::mmsghdr = libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: std::ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    };
    let place = align8(max as u64) as usize;
    let (mut vectors, mut headers) = ([[NONE; 2]; BATCH], [EMPTY; BATCH]);
    let rooms =
        room.chunks_exact_mut(stride.max(1)).map(Some).chain(std::iter::repeat_with(|| None));
    let spills =
        spill.chunks_exact_mut(place.max(1)).map(Some).chain(std::iter::repeat_with(|| None));
    let count = received.len().min(BATCH);
    for ((((header, vector), control), first), second) in
        headers[..count].iter_mut().zip(&mut vectors).zip(control.iter_mut()).zip(rooms).zip(spills)
    {
        let first = first.map(|room| &mut room[..stride.min(max)]).unwrap_or_default();
        let second = second.map(|room| &mut room[stride.min(max)..max]).unwrap_or_default();
        *vector = [first, second]
            .map(|bytes| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
        header.msg_hdr.msg_iov = vector.as_mut_ptr();
        header.msg_hdr.msg_iovlen = 2;
        header.msg_hdr.msg_control = control.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = control_len.min(size_of_val(control));
    }
    let (flags, at) =
        (libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC, headers.as_mut_ptr());
    // SAFETY: the first `count` of `headers` are filled in above. Each points to its own two
    // `vectors`, which point to disjoint chunks of `room` and `spill`, and to its own words of
    // `control`; all lengths are those of the chunks and words. Everything is borrowed exclusively
    // until this function returns. Names and timeout are null, which the call allows.
    let outcome = unsafe {
        libc::recvmmsg(fd.as_raw_fd(), at, count as u32, flags as _, std::ptr::null_mut())
    };
    let Ok(got) = usize::try_from(outcome) else {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    };
    for (to, header) in received.iter_mut().zip(&headers[..got.min(count)]) {
        *to = Received { len: header.msg_len as usize, control_len: header.msg_hdr.msg_controllen };
    }
    Ok(got.min(count))
}
