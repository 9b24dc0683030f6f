//! Lists of keys and values as C strings: metadata, the list of streams, a stream's description.

#![allow(unsafe_code, reason = "exported symbols")]

use crate::args::{Back, In, Out, Text};
use crate::border::quietly;
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

/// Lists the streams whose sockets are in the run directories: the key is the name, the value the
/// path of the control socket. Does not check whether their brokers are running. On RW_OK free
/// *pairs with rw_pairs_free(). Errors: RW_INVALID.
#[unsafe(no_mangle)]
pub extern "C" fn rw_streams(pairs: Out<'_, *mut rw_pairs>) -> c_int {
    let make = || {
        let text = |(name, path): (String, std::path::PathBuf)| {
            (name, path.to_string_lossy().into_owned())
        };
        Ok(rw_pairs::of(&ringweir::view::streams().into_iter().map(text).collect::<Vec<_>>()))
    };
    pairs.lend("pairs", make)
}

/// Describes a stream: "name", "source", "summary" (what the broker reported at its start),
/// "broker_version", and its metadata with "meta." before each key. On RW_OK free *pairs with
/// rw_pairs_free(). Errors: those of rw_attach().
#[unsafe(no_mangle)]
pub extern "C" fn rw_describe(name: Text<'_>, pairs: Out<'_, *mut rw_pairs>) -> c_int {
    let make = || {
        let stream = ringweir::view::describe(name.read("name")?)?;
        let mut list = vec![
            ("name".to_string(), stream.name),
            ("source".into(), stream.source),
            ("summary".into(), stream.summary),
            ("broker_version".into(), stream.broker_version),
        ];
        list.extend(stream.metadata.into_iter().map(|(key, value)| (format!("meta.{key}"), value)));
        Ok(rw_pairs::of(&list))
    };
    pairs.lend("pairs", make)
}

/// Number of pairs; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn rw_pairs_count(pairs: In<'_, rw_pairs>) -> usize {
    pairs.get().map_or(0, |list| list.0.len())
}

/// Key of pair i (from 0); NULL past the end. Valid as long as the list.
#[unsafe(no_mangle)]
pub extern "C" fn rw_pairs_key(pairs: In<'_, rw_pairs>, i: usize) -> *const c_char {
    pairs.get().and_then(|list| list.0.get(i)).map_or(null(), |(key, _)| key.as_ptr())
}

/// Value of pair i (from 0); NULL past the end. Valid as long as the list.
#[unsafe(no_mangle)]
pub extern "C" fn rw_pairs_value(pairs: In<'_, rw_pairs>, i: usize) -> *const c_char {
    pairs.get().and_then(|list| list.0.get(i)).map_or(null(), |(_, value)| value.as_ptr())
}

/// Value of the first pair with this key; NULL if there is none. Valid as long as the list.
#[unsafe(no_mangle)]
pub extern "C" fn rw_pairs_find(pairs: In<'_, rw_pairs>, key: Text<'_>) -> *const c_char {
    quietly(null(), || {
        let (Some(list), Ok(key)) = (pairs.get(), key.read("key")) else { return null() };
        list.0
            .iter()
            .find(|(k, _)| k.as_bytes() == key.as_bytes())
            .map_or(null(), |(_, value)| value.as_ptr())
    })
}

/// Frees a list of rw_streams() or rw_describe() and everything in it. NULL is fine. Not for
/// rw_reader_metadata().
#[unsafe(no_mangle)]
pub extern "C" fn rw_pairs_free(pairs: Back<rw_pairs>) {
    quietly((), || drop(pairs.take(|_| Ok(()))));
}
