//! Properties of a reader and of its stream.

#![allow(unsafe_code, reason = "exported symbols")]

use crate::args::{In, Out};
use crate::pairs::rw_pairs;
use crate::reader::{Reading, rw_reader};
use crate::rw_code;
use crate::types::{rw_account, rw_gap, rw_geometry};
use std::ffi::{c_char, c_int, c_ulonglong};
use std::ptr::null;

/// Name by which it was attached. Valid until rw_detach(). NULL if reader is NULL or in use by
/// another call.
#[unsafe(no_mangle)]
pub extern "C" fn rw_reader_name(reader: In<'_, rw_reader>) -> *const c_char {
    let mut name = null();
    rw_reader::enter(reader, |reading| {
        name = reading.name.as_ptr();
        Ok(rw_code::RW_OK)
    });
    name
}

/// Generation of the stream it is attached to, from 1; 0 if reader is NULL or in use by another
/// call.
#[unsafe(no_mangle)]
pub extern "C" fn rw_reader_generation(reader: In<'_, rw_reader>) -> c_ulonglong {
    let mut generation = 0;
    rw_reader::enter(reader, |reading| {
        generation = reading.reader.generation();
        Ok(rw_code::RW_OK)
    });
    generation
}

/// Metadata of the stream, as given to ringd with --meta. Belongs to the reader: constant, and
/// valid until rw_detach(); do not free it. After RW_RESTARTED with adopted 0 this may return
/// another list: that of the new generation. NULL if reader is NULL, misaligned, or in use by
/// another call.
#[unsafe(no_mangle)]
pub extern "C" fn rw_reader_metadata(reader: In<'_, rw_reader>) -> *const rw_pairs {
    let mut metadata = null();
    rw_reader::enter(reader, |reading| {
        metadata = reading.metadata();
        Ok(rw_code::RW_OK)
    });
    metadata
}

/// Sizes of the ring; the same within a generation. Errors: RW_INVALID, RW_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn rw_reader_geometry(
    reader: In<'_, rw_reader>,
    geometry: Out<'_, rw_geometry>,
) -> c_int {
    let act = |reading: &mut Reading| {
        let of = reading.reader.geometry();
        let (depth, capacity, max_datagram) = (of.depth(), of.capacity(), of.max_datagram());
        let sizes = rw_geometry { depth, capacity, max_datagram, reserved: [0; 5] };
        geometry.write("geometry", sizes)?;
        Ok(rw_code::RW_OK)
    };
    rw_reader::enter(reader, act)
}

/// The reader's account. Errors: RW_INVALID, RW_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn rw_reader_account(
    reader: In<'_, rw_reader>,
    account: Out<'_, rw_account>,
) -> c_int {
    let act = |reading: &mut Reading| {
        let ours = rw_account::of(reading.reader.account(), reading.reader.read_cursor());
        account.write("account", ours)?;
        Ok(rw_code::RW_OK)
    };
    rw_reader::enter(reader, act)
}

/// The last lap of this generation. RW_EMPTY: there was none, and *gap is untouched. Errors:
/// RW_INVALID, RW_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn rw_reader_last_gap(reader: In<'_, rw_reader>, gap: Out<'_, rw_gap>) -> c_int {
    let act = |reading: &mut Reading| {
        let Some(last) = reading.reader.account().last_gap else { return Ok(rw_code::RW_EMPTY) };
        gap.write("gap", last.into())?;
        Ok(rw_code::RW_OK)
    };
    rw_reader::enter(reader, act)
}

/// Turns a publish time into a date: ns since 1970, as the clock stands now. 0 if
/// reader is NULL or in use by another call.
#[unsafe(no_mangle)]
pub extern "C" fn rw_reader_date(
    reader: In<'_, rw_reader>,
    publish_time: c_ulonglong,
) -> c_ulonglong {
    let mut date = 0;
    rw_reader::enter(reader, |reading| {
        date = reading.reader.publish_date(publish_time);
        Ok(rw_code::RW_OK)
    });
    date
}
