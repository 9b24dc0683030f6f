//! Lists of keys and values as C strings: metadata, the list of streams, a stream's description.

#![allow(unsafe_code)]

use crate::border::{live, quietly};
use crate::{Fault, border, rw_code, text, write};
use std::ffi::{CString, c_char, c_int};
use std::ptr::null;

/// A list of keys and values, all C strings. Constant, so any number of threads may use it.
#[derive(PartialEq)]
pub struct rw_pairs(Vec<(CString, CString)>);

impl rw_pairs {
    pub(crate) fn of(pairs: &[(String, String)]) -> Self {
        let c = |s: &str| CString::new(s.replace('\0', " ")).expect("NULs were replaced");
        Self(pairs.iter().map(|(key, value)| (c(key), c(value))).collect())
    }
}

/// Makes a list for the caller, who frees it.
///
/// # Safety
/// `out` is NULL or room for a pointer.
unsafe fn lend(out: *mut *mut rw_pairs, make: impl FnOnce() -> Result<rw_pairs, Fault>) -> c_int {
    border(|| {
        // SAFETY: by the caller's promise `out` is NULL or room for a pointer.
        unsafe { write(out, "pairs", std::ptr::null_mut()) }?;
        let list = Box::into_raw(Box::new(make()?));
        // SAFETY: the first `write` succeeded, so `out` is not NULL, aligned, and room for a
        // pointer.
        unsafe { write(out, "pairs", list) }?;
        Ok(rw_code::RW_OK)
    })
}

/// Lists the streams whose sockets are in the run directories: the key is the name, the value the
/// path of the control socket. Does not check whether their brokers are running. On RW_OK free
/// *pairs with rw_pairs_free(). Errors: RW_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_streams(pairs: *mut *mut rw_pairs) -> c_int {
    let make = || {
        let text = |(name, path): (String, std::path::PathBuf)| {
            (name, path.to_string_lossy().into_owned())
        };
        Ok(rw_pairs::of(&ringweir::view::streams().into_iter().map(text).collect::<Vec<_>>()))
    };
    // SAFETY: header, Pointers: `pairs` is NULL or room for a pointer.
    unsafe { lend(pairs, make) }
}

/// Describes a stream: "name", "source", "summary" (what the broker reported at its start),
/// "broker_version", and its metadata with "meta." before each key. On RW_OK free *pairs with
/// rw_pairs_free(). Errors: those of rw_attach().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_describe(name: *const c_char, pairs: *mut *mut rw_pairs) -> c_int {
    let make = || {
        // SAFETY: header, Pointers: `name` is NULL or a string that ends with a NUL.
        let said = ringweir::view::describe(unsafe { text(name, "name") }?)?;
        let mut list = vec![
            ("name".to_string(), said.name),
            ("source".into(), said.source),
            ("summary".into(), said.summary),
            ("broker_version".into(), said.broker_version),
        ];
        list.extend(said.metadata.into_iter().map(|(key, value)| (format!("meta.{key}"), value)));
        Ok(rw_pairs::of(&list))
    };
    // SAFETY: header, Pointers: `pairs` is NULL or room for a pointer.
    unsafe { lend(pairs, make) }
}

/// Number of pairs; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_pairs_count(pairs: *const rw_pairs) -> usize {
    // SAFETY: header, Pointers: `pairs` is NULL, or handed out by this library and not freed.
    unsafe { live(pairs) }.map_or(0, |list| list.0.len())
}

/// Key of pair i (from 0); NULL past the end. Valid as long as the list.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_pairs_key(pairs: *const rw_pairs, i: usize) -> *const c_char {
    // SAFETY: header, Pointers: `pairs` is NULL, or handed out by this library and not freed.
    unsafe { live(pairs) }.and_then(|list| list.0.get(i)).map_or(null(), |(key, _)| key.as_ptr())
}

/// Value of pair i (from 0); NULL past the end. Valid as long as the list.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_pairs_value(pairs: *const rw_pairs, i: usize) -> *const c_char {
    // SAFETY: header, Pointers: `pairs` is NULL, or handed out by this library and not freed.
    unsafe { live(pairs) }
        .and_then(|list| list.0.get(i))
        .map_or(null(), |(_, value)| value.as_ptr())
}

/// Value of the first pair with this key; NULL if there is none. Valid as long as the list.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_pairs_find(
    pairs: *const rw_pairs,
    key: *const c_char,
) -> *const c_char {
    quietly(null(), || {
        // SAFETY: header, Pointers: `pairs` is NULL, or handed out by this library and not freed.
        let list = unsafe { live(pairs) };
        // SAFETY: header, Pointers: `key` is NULL or a string that ends with a NUL.
        let (Some(list), Ok(key)) = (list, unsafe { text(key, "key") }) else { return null() };
        list.0
            .iter()
            .find(|(k, _)| k.as_bytes() == key.as_bytes())
            .map_or(null(), |(_, value)| value.as_ptr())
    })
}

/// Frees a list of rw_streams() or rw_describe() and everything in it. NULL is fine. Not for
/// rw_reader_metadata().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_pairs_free(pairs: *mut rw_pairs) {
    quietly((), || {
        if !pairs.is_null() && pairs.is_aligned() {
            // SAFETY: header, Pointers: not NULL, so handed out by this library (`lend` made it
            // with Box::into_raw), and not used again.
            drop(unsafe { Box::from_raw(pairs) });
        }
    });
}
