//! Probes whether a device has the register map: the only place where a node is opened.
//!
//! Contract: done only on request, and only for a device that no process is seen to have open. It
//! reads the first words through a read-only mapping and writes nothing. A driver may still act
//! when a node is opened or closed (ringshim masks the interrupt, uio_pci_generic disables DMA),
//! and another kind of device may react to being read.

#![allow(unsafe_code)]

use ringweir_device::{Identity, Shape};
use ringweir_proto::layout::PAGE;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::path::Path;
use std::ptr::NonNull;

/// Why a device could not be probed.
#[derive(Debug)]
pub(super) enum ProbeError {
    /// Another process has it open, which was not visible.
    Busy,
    /// It cannot be read, or is not a FIFO device: the reason.
    No(String),
}

fn no(what: &str, why: Errno) -> ProbeError {
    ProbeError::No(format!("cannot {what} it: {}", std::io::Error::from(why)))
}

/// The first page of a mapping of a node.
struct Page(NonNull<c_void>);

impl Page {
    fn map(node: &Path, offset: u64) -> Result<Self, ProbeError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = rustix::fs::open(node, flags, Mode::empty()).map_err(|why| match why {
            Errno::BUSY => ProbeError::Busy,
            why => no("open", why),
        })?;
        let (anywhere, rights, flags) = (std::ptr::null_mut(), ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: this asks for a new mapping at an address that the kernel chooses, so no existing
        // memory is affected.
        let at = unsafe { rustix::mm::mmap(anywhere, PAGE, rights, flags, &fd, offset) };
        NonNull::new(at.map_err(|why| no("map", why))?).map(Self).ok_or(no("map", Errno::NOMEM))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: `self.0` and PAGE are those of the mapping made in `map`, which only `self` owns.
        // No reference to it outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.0.as_ptr(), PAGE) };
        debug_assert!(unmapped.is_ok());
    }
}

/// The shape that the device reports; it begins `within` bytes after `offset` in the mapping of its
/// node and has `window` bytes.
///
/// # Errors
/// If it cannot be read, or is not a FIFO device.
pub(super) fn look(
    node: &Path,
    offset: u64,
    within: u64,
    window: u64,
) -> Result<Shape, ProbeError> {
    let fits = |at: &usize| {
        at.is_multiple_of(align_of::<Identity>()) && at + size_of::<Identity>() <= PAGE
    };
    let within = usize::try_from(within).ok().filter(fits).ok_or_else(|| {
        ProbeError::No(format!(
            "not a FIFO device: its memory begins {within:#x} bytes into a page"
        ))
    })?;
    let page = Page::map(node, offset)?;
    // SAFETY: `within` and the identity after it lie inside the mapped page, as checked by `fits`.
    let at = unsafe { page.0.byte_add(within) }.cast::<Identity>();
    // SAFETY: the address is aligned and inside the page (see `fits`), which stays mapped until the
    // end of this function. The identity consists of atomics, which are only loaded, and of words
    // that nothing writes.
    let identity = unsafe { at.as_ref() };
    Shape::of(identity, window).map_err(|e| ProbeError::No(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};

    const IDENTITY: [u32; 9] = [0x4f46_4952, 0x0001_0000, 7, 1, 0x2000, 2048, 512, 1, 125_000];

    /// A memory file with a device at `at`.
    fn device(at: u64, words: [u32; 9]) -> std::fs::File {
        let fd = rustix::fs::memfd_create("device", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = std::fs::File::from(fd);
        file.set_len(3 * PAGE as u64).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        words.iter().for_each(|w| file.write_all(&w.to_le_bytes()).unwrap());
        file
    }

    fn said(blind: ProbeError) -> String {
        match blind {
            ProbeError::Busy => "busy".into(),
            ProbeError::No(why) => why,
        }
    }

    fn looked(file: &std::fs::File, offset: u64, within: u64) -> Result<Shape, String> {
        use std::os::fd::AsRawFd;
        let node = format!("/proc/self/fd/{}", file.as_raw_fd());
        look(Path::new(&node), offset, within, 0x2800).map_err(said)
    }

    #[test]
    fn the_map_is_found_where_it_is_and_nowhere_else() {
        let page = PAGE as u64;
        let file = device(page + 0x40, IDENTITY);
        let shape = looked(&file, page, 0x40).unwrap();
        assert_eq!((shape.device_id, shape.fifo_bytes, shape.rate), (7, 2048, 125_000));
        for (offset, within) in [(0, 0x40), (page, 0), (page, 0x44)] {
            let error = looked(&file, offset, within).unwrap_err();
            assert!(error.contains("first register"), "{offset} {within}: {error}");
        }
        let mut other = IDENTITY;
        other[1] = 0x0002_0000;
        assert!(looked(&device(0, other), 0, 0).unwrap_err().contains("version 2.0"));
    }

    #[test]
    fn failed_probe_gives_the_reason() {
        let file = device(0, IDENTITY);
        assert!(looked(&file, 1, 0).unwrap_err().starts_with("cannot map it: "));
        assert!(looked(&file, 0, 2).unwrap_err().contains("0x2 bytes into a page"));
        let missing = said(look(Path::new("/nonexistent"), 0, 0, 0).unwrap_err());
        assert!(missing.starts_with("cannot open it: No such file"), "{missing}");
    }
}
