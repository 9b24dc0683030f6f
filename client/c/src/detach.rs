//! Detaching: another reader by this program, and this reader by another program.

#![allow(unsafe_code, reason = "exported symbols")]

use crate::args::{In, Out, Text};
use crate::reader::{Reading, rw_reader};
use crate::{border, rw_code};
use std::ffi::{c_int, c_ulonglong};

/// Who detached a reader.
#[repr(C)]
pub struct rw_detached_by {
    /// Process that asked for it; 0 if it has no number in the broker's PID namespace.
    pub pid: u32,
    /// User of that process.
    pub uid: u32,
    /// Zero.
    pub reserved: [c_ulonglong; 3],
}

/// Detaches a reader of the stream name; allowed for root and the broker's own user. The reader
/// gets RW_DETACHED. index and attached_realtime are its figures in rw_watch_get(). Both are
/// needed, so that a reader that got the same index meanwhile is not detached instead.
/// RW_NOT_FOUND: no such stream, or the reader is not attached any more. Errors: those of
/// rw_attach().
#[unsafe(no_mangle)]
pub extern "C" fn rw_detach_reader(
    name: Text<'_>,
    index: u32,
    attached_realtime: c_ulonglong,
) -> c_int {
    border(|| {
        ringweir::admin::detach(name.read("name")?, index, attached_realtime)?;
        Ok(rw_code::RW_OK)
    })
}

/// After RW_DETACHED: who detached this reader. RW_EMPTY: it has not got RW_DETACHED, and *by is
/// untouched. Errors: RW_INVALID, RW_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn rw_reader_detached_by(
    reader: In<'_, rw_reader>,
    by: Out<'_, rw_detached_by>,
) -> c_int {
    let act = |reading: &mut Reading| {
        let Some(found) = reading.detached_by else { return Ok(rw_code::RW_EMPTY) };
        let who = rw_detached_by { pid: found.pid, uid: found.uid, reserved: [0; 3] };
        by.write("by", who)?;
        Ok(rw_code::RW_OK)
    };
    rw_reader::enter(reader, act)
}
