//! Reader pages and the statistics area: small memfds that cannot be shortened while they are
//! mapped.
//!
//! Contract: the broker creates both, with mode 0600, and seals them against shrinking and growing.
//! A reader's page object (one page for its account, one for its latencies) is writable by its one
//! reader and read by the broker. The statistics area is sealed against every writer except the
//! broker's own mapping.

#![allow(unsafe_code)]

use super::{OsError, sealed};
use crate::layout::{LatencyBlock, PAGE, READER_OBJECT, ReaderBlock, reader_block_offset};
use crate::stats::area_bytes;
use crate::sync::{AtomicU64, Ordering};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};
use std::os::fd::{AsFd, OwnedFd};

/// Checks the seals and the size of a received object, and returns its size.
fn received(fd: impl AsFd, what: &str, least: usize, seals: SealFlags) -> Result<usize, OsError> {
    sealed::check(&fd, what, seals)?;
    let stat = rustix::fs::fstat(&fd).map_err(OsError::at(format_args!("fstat {what}")))?;
    let size = usize::try_from(stat.st_size).unwrap_or(0);
    if size < least {
        return Err(OsError {
            what: format!("{what} has {size} bytes, expected {least}"),
            errno: rustix::io::Errno::INVAL,
        });
    }
    Ok(size)
}

/// One reader's page, mapped by the reader or by the broker.
#[derive(Debug)]
pub struct ReaderPage {
    map: MmapRaw,
    offset: usize,
}

impl ReaderPage {
    /// A fresh page for reader `index`, and the fd to hand over.
    pub fn create(index: u32) -> Result<(Self, OwnedFd), OsError> {
        let (fd, map) = sealed::create(
            "ringweir-reader",
            READER_OBJECT,
            SealFlags::empty(),
            MemfdFlags::empty(),
        )?;
        Ok((Self { map, offset: reader_block_offset(index) }, fd))
    }

    /// Maps a received page.
    pub fn attach(fd: impl AsFd, block_offset: u32) -> Result<Self, OsError> {
        let offset = block_offset as usize;
        received(&fd, "reader page", READER_OBJECT, SealFlags::empty())?;
        if !offset.is_multiple_of(align_of::<ReaderBlock>())
            || offset > PAGE - size_of::<ReaderBlock>()
        {
            let what = format!("reader page: block offset {offset} is outside the page");
            return Err(OsError { what, errno: rustix::io::Errno::INVAL });
        }
        let map = MmapOptions::new()
            .len(READER_OBJECT)
            .populate()
            .map_raw(rustix::fd::AsRawFd::as_raw_fd(&fd.as_fd()))
            .map_err(OsError::io("mmap reader page"))?;
        Ok(Self { map, offset })
    }

    /// The broker, before it gives the page to another reader, with this index: as if it were new.
    pub fn clear(&mut self, index: u32) {
        let words = self.map.as_ptr().cast::<AtomicU64>();
        for at in 0..READER_OBJECT / 8 {
            // SAFETY: `at` is below the length of the mapping in words.
            let word = unsafe { words.add(at) };
            // SAFETY: page-aligned, and mapped writable as long as `self` lives, from a file that is
            // sealed against shrinking; the words are atomics.
            unsafe { &*word }.store(0, Ordering::Relaxed);
        }
        self.offset = reader_block_offset(index);
    }

    /// Where the block lies in the page.
    pub fn block_offset(&self) -> u32 {
        self.offset as u32
    }

    /// The block. Shared with one other process, which may write anything at any time.
    #[inline(always)]
    pub fn block(&self) -> &ReaderBlock {
        // SAFETY: inside the page (checked in attach; by construction in create).
        let block = unsafe { self.map.as_ptr().add(self.offset) }.cast::<ReaderBlock>();
        // SAFETY: aligned, and mapped as long as `self` lives, from a file that is sealed against
        // shrinking. The block consists of atomics, and of reserved words that are never read, so
        // any content is valid.
        unsafe { &*block }
    }

    /// The latency block. Shared like [`Self::block`].
    pub fn latency(&self) -> &LatencyBlock {
        // SAFETY: the mapping has two pages (checked in attach; by construction in create).
        let block = unsafe { self.map.as_ptr().add(PAGE) }.cast::<LatencyBlock>();
        // SAFETY: page-aligned, shorter than a page, and mapped as long as `self` lives, from a
        // file that is sealed against shrinking. Any content is valid, as in `block`.
        unsafe { &*block }
    }
}

/// The statistics area, mapped by the broker (writable) or by a viewer (read-only).
#[derive(Debug)]
pub struct StatsArea {
    map: MmapRaw,
}

impl StatsArea {
    /// A fresh area, and the fd to hand over. A process that receives the fd cannot write the area,
    /// whatever its user.
    pub fn create(readers_max: u32) -> Result<(Self, OwnedFd), OsError> {
        let bytes = area_bytes(readers_max).next_multiple_of(PAGE);
        let (fd, map) =
            sealed::create("ringweir-stats", bytes, SealFlags::FUTURE_WRITE, MemfdFlags::empty())?;
        Ok((Self { map }, fd))
    }

    /// Maps a received area, read-only.
    pub fn attach(fd: impl AsFd) -> Result<Self, OsError> {
        let size = received(&fd, "statistics area", PAGE, SealFlags::FUTURE_WRITE)?;
        let map = MmapOptions::new()
            .len(size)
            .map_raw_read_only(rustix::fd::AsRawFd::as_raw_fd(&fd.as_fd()))
            .map_err(OsError::io("mmap statistics area"))?;
        Ok(Self { map })
    }

    /// Its words, for [`crate::stats::StatsWriter`] (in the creator) or
    /// [`crate::stats::StatsView`].
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: page-aligned, and mapped as long as `self` lives, from a file that is sealed
        // against shrinking. The words are atomics, and a viewer only loads them.
        unsafe {
            std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), self.map.len() / 8)
        }
    }
}
