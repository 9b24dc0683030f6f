//! How a C program attaches: [`rw_options`], read once and checked field by field.

use crate::Fault;
use crate::args::{In, Text};
use ringweir::{Options, Resume, Start};
use std::ffi::c_ulonglong;
use std::time::Duration;

/// rw_options.start: with what is published from now on.
pub const RW_LATEST: u32 = 0;
/// rw_options.start: with the oldest datagram still there.
pub const RW_OLDEST: u32 = 1;
/// rw_options.start: with the seq in start_seq. If that has been overwritten, the loss is reported
/// as a gap; if it is still to come, reading begins at the write cursor.
pub const RW_SEQ: u32 = 2;

/// rw_options.resume: after a lap continue near the oldest datagram still there.
pub const RW_RESUME_OLDEST: u32 = 0;
/// rw_options.resume: after a lap continue with the newest datagram.
pub const RW_RESUME_NEWEST: u32 = 1;

/// rw_options.flags: rw_wait() never sleeps but polls until there is something to read. It notices
/// no signals: give it a timeout.
pub const RW_ALWAYS_SPIN: u32 = 1;
/// rw_options.flags: rw_wait() sleeps at once, without polling first.
pub const RW_NO_SPIN: u32 = 2;
/// rw_options.flags: do not fill this process's page tables now: attaching is quicker, reading
/// takes page faults.
pub const RW_NO_PREFAULT: u32 = 4;
/// rw_options.flags: when the broker dies return RW_BROKER_GONE, instead of attaching to its
/// successor.
pub const RW_NO_REATTACH: u32 = 8;
/// rw_options.flags: make the stream wait for this reader, so that it loses nothing as long as its
/// budget lasts (--lossless of ringd; without it attaching is refused). After that comes
/// RW_DEMOTED.
pub const RW_LOSSLESS: u32 = 16;

/// How to attach. All zero is a good choice; fields you do not know must be zero, so set it to zero
/// first, or use a designated initialiser.
#[repr(C)]
pub struct rw_options<'a> {
    /// What ringstat calls this reader, UTF-8, at most 32 bytes are kept; NULL: the name of the
    /// program.
    pub label: Text<'a>,
    /// Where to begin: RW_LATEST, RW_OLDEST or RW_SEQ.
    pub start: u32,
    /// Where to continue after a lap: RW_RESUME_OLDEST or RW_RESUME_NEWEST.
    pub resume: u32,
    /// With RW_SEQ: the seq to begin at; otherwise 0.
    pub start_seq: c_ulonglong,
    /// How long rw_wait() polls before it sleeps, in ns; 0: 5000. The longer, the lower the latency
    /// and the more processor time.
    pub spin_ns: c_ulonglong,
    /// Any of RW_ALWAYS_SPIN, RW_NO_SPIN, RW_NO_PREFAULT, RW_NO_REATTACH, RW_LOSSLESS, or'ed.
    pub flags: u32,
    /// Zero.
    pub reserved0: u32,
    /// Zero.
    pub reserved: [c_ulonglong; 6],
}

/// Reads and checks `options`; NULL means the defaults.
pub(crate) fn read(options: In<'_, rw_options<'_>>) -> Result<Options, Fault> {
    if options.is_null() {
        return Ok(Options::new(&program()));
    }
    let given = options.get().ok_or_else(|| Fault::invalid("options are misaligned"))?;
    let mut chosen = if given.label.is_null() {
        Options::new(&program())
    } else {
        Options::new(given.label.read("label")?)
    };
    chosen = chosen.start(match (given.start, given.start_seq) {
        (RW_SEQ, seq) => Start::Seq(seq),
        (_, seq) if seq != 0 => {
            return Err(Fault::invalid(format!("start_seq {seq} goes with start RW_SEQ only")));
        }
        (RW_LATEST, _) => Start::Latest,
        (RW_OLDEST, _) => Start::Oldest,
        (other, _) => {
            return Err(Fault::invalid(format!(
                "start {other}: use RW_LATEST, RW_OLDEST or RW_SEQ"
            )));
        }
    });
    chosen = chosen.resume(match given.resume {
        RW_RESUME_OLDEST => Resume::Oldest,
        RW_RESUME_NEWEST => Resume::Newest,
        other => {
            return Err(Fault::invalid(format!(
                "resume {other}: use RW_RESUME_OLDEST or RW_RESUME_NEWEST"
            )));
        }
    });
    let has = |flag| given.flags & flag != 0;
    let unknown = given.flags
        & !(RW_ALWAYS_SPIN | RW_NO_SPIN | RW_NO_PREFAULT | RW_NO_REATTACH | RW_LOSSLESS);
    if unknown != 0 {
        return Err(Fault::invalid(format!("flags {unknown:#x} are unknown to this release")));
    }
    if has(RW_NO_SPIN) && (has(RW_ALWAYS_SPIN) || given.spin_ns != 0) {
        return Err(Fault::invalid("RW_NO_SPIN contradicts RW_ALWAYS_SPIN and a spin_ns"));
    }
    if given.reserved0 != 0 || given.reserved != [0; 6] {
        return Err(Fault::invalid(
            "a reserved field of the options is not zero: set the struct to zero first",
        ));
    }
    if has(RW_LOSSLESS) {
        chosen = chosen.lossless();
    }
    if has(RW_ALWAYS_SPIN) {
        chosen = chosen.always_spin();
    }
    if has(RW_NO_SPIN) || given.spin_ns != 0 {
        chosen = chosen.spin(Duration::from_nanos(given.spin_ns));
    }
    Ok(chosen.prefault(!has(RW_NO_PREFAULT)).reattach(!has(RW_NO_REATTACH)))
}

/// The program's name without its directories.
fn program() -> String {
    let first = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&first).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
