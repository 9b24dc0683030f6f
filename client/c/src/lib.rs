//! The C library of ringweir: everything that `include/ringweir.h` declares, which is generated
//! from these files. `make -C client/c install` builds and installs it.
//!
//! Contract: nothing unwinds into C (every entry goes through `border` or `Handle::enter`); every
//! pointer is checked for NULL and alignment and every number for its range before it is used; a
//! handle serves one call at a time and refuses a second one. No callbacks: a C++ exception would
//! unwind through this library. The comments of the entries become the header, so they are written
//! for C programmers.

// A library prints nothing.
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![allow(
    non_camel_case_types,
    reason = "the names are those of the header, so that one search finds both"
)]

mod args;
mod border;
mod codes;
mod detach;
mod gap;
mod handle;
mod latencies;
mod options;
mod pairs;
mod properties;
mod publisher;
mod reader;
mod types;
mod viewer;

use border::{Fault, border};
use codes::rw_code;

/// Version of this header. Upper 16 bits: the number in the library's SONAME. Lower 16 bits: the
/// number of additions since then. Compare it with rw_abi_version() if the program may run with
/// another library than it was compiled with.
pub const RW_ABI_VERSION: u32 = 7;

/// RW_ABI_VERSION of the library that is loaded. It fits the program if its upper 16 bits equal
/// those of RW_ABI_VERSION and its lower 16 bits are not smaller.
#[allow(unsafe_code, reason = "an exported symbol")]
#[unsafe(no_mangle)]
pub extern "C" fn rw_abi_version() -> u32 {
    RW_ABI_VERSION
}
