//! What a gap says, as text: with the right words for each cause.

#![allow(unsafe_code)]

use crate::args::In;
use crate::types::{
    RW_LAPPED, RW_LAYER_DEVICE, RW_LAYER_KERNEL, RW_RESTART, RW_SOURCE_GONE, RW_UPSTREAM, rw_gap,
};
use crate::{Fault, border, rw_code};
use ringweir::{Cause, Gap, Layer};
use std::ffi::{c_char, c_int};

/// A buffer of this size is never too small for rw_gap_text().
pub const RW_GAP_TEXT: usize = 160;

/// Writes what *gap says to text, as one line without a line end and with a NUL, for example "lost
/// 65 datagrams [seq 100..164], reader was lapped" or "lost at least 14 datagrams before seq 10158,
/// in the kernel". RW_TOO_SMALL: it was cut to size bytes. Errors: RW_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_gap_text(gap: In<'_, rw_gap>, text: *mut c_char, size: usize) -> c_int {
    border(|| {
        let gap = gap.get().ok_or_else(|| Fault::invalid("gap is NULL or misaligned"))?;
        if text.is_null() || size == 0 {
            return Err(Fault::invalid("text is NULL, or size is 0"));
        }
        let words = words(gap)?;
        debug_assert!(words.len() < RW_GAP_TEXT, "{words}");
        let cut = words.len().min(size - 1);
        // SAFETY: header, Pointers: `text` has `size` bytes, which no other thread uses during the
        // call; it is not NULL (checked above), and `cut + 1` is at most `size`.
        let out = unsafe { std::slice::from_raw_parts_mut(text.cast::<u8>(), cut + 1) };
        out[..cut].copy_from_slice(&words.as_bytes()[..cut]);
        out[cut] = 0;
        Ok(if cut < words.len() { rw_code::RW_TOO_SMALL } else { rw_code::RW_OK })
    })
}

/// In ASCII, so that it can be cut anywhere.
fn words(gap: &rw_gap) -> Result<String, Fault> {
    let rw_gap { first, count, cause, layer, exact, adopted, .. } = *gap;
    let cause = match cause {
        RW_LAPPED => Cause::Lapped,
        RW_UPSTREAM => Cause::Upstream {
            layer: match layer {
                RW_LAYER_DEVICE => Layer::Device,
                RW_LAYER_KERNEL => Layer::Kernel,
                _ => Layer::Broker,
            },
            exact: exact != 0,
        },
        RW_SOURCE_GONE => Cause::SourceGone,
        RW_RESTART => {
            let cost = match (adopted, exact) {
                (0, _) => "seqs start again".into(),
                (_, 0) => format!("at least {count} datagrams lost by it"),
                _ => format!("{count} datagrams lost by it"),
            };
            return Ok(format!("the broker was restarted: from seq {first}, {cost}"));
        }
        other => {
            return Err(Fault::invalid(format!(
                "gap: no cause has the number {other}: not filled in?"
            )));
        }
    };
    Ok(Gap { first, count, bytes: None, time: 0, cause }.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::RW_LAYER_READER;
    use std::ffi::CStr;

    fn text(gap: &rw_gap, size: usize) -> (c_int, String) {
        let mut buffer = vec![b'x' as c_char; size.max(1)];
        // SAFETY: both pointers are to live objects, and `buffer` has at least `size` bytes.
        let code = unsafe { rw_gap_text(In::from(gap), buffer.as_mut_ptr(), size) };
        let bytes: Vec<u8> = buffer.iter().map(|c| *c as u8).collect();
        let words = CStr::from_bytes_until_nul(&bytes).map_or("", |text| text.to_str().unwrap());
        (code, words.to_owned())
    }

    #[test]
    fn each_cause_has_its_words() {
        let most = rw_gap {
            first: u64::MAX,
            count: u64::MAX,
            cause: RW_LAPPED,
            layer: RW_LAYER_READER,
            exact: 0,
            adopted: 1,
            ..rw_gap::default()
        };
        for (cause, says) in [
            (RW_LAPPED, "[seq 7..9], reader was lapped"),
            (RW_UPSTREAM, "lost at least 3 datagrams before seq 7, in the kernel"),
            (RW_SOURCE_GONE, "the source's device went away; datagrams from seq 7 on"),
            (RW_RESTART, "the broker was restarted: from seq 7, at least 3 datagrams lost"),
        ] {
            let gap = rw_gap { first: 7, count: 3, cause, layer: RW_LAYER_KERNEL, ..most };
            let (code, words) = text(&gap, RW_GAP_TEXT);
            assert!(code == rw_code::RW_OK as c_int && words.contains(says), "{words}");
            assert_eq!(text(&rw_gap { cause, ..most }, RW_GAP_TEXT).0, rw_code::RW_OK as c_int);
            let cut = text(&gap, 10);
            assert_eq!(cut, (rw_code::RW_TOO_SMALL as c_int, words[..9].to_owned()));
        }
        let invalid = rw_code::RW_INVALID as c_int;
        assert_eq!(text(&rw_gap { cause: 99, ..most }, RW_GAP_TEXT).0, invalid);
        assert_eq!(text(&most, 0).0, invalid);
    }
}
