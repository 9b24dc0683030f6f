//! What may be mapped: the window, shared, and not a byte beyond it.

#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Result, ensure};
use libc::{MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE};

use crate::check::check;
use crate::device::{Device, PAGE};

const BOTH: i32 = PROT_READ | PROT_WRITE;

pub fn run(node: &Path) -> Result<()> {
    let device = Device::wait_open(node)?;
    let whole = (device.info()?.window_bytes as usize).next_multiple_of(PAGE);
    let refused = [
        ("private", whole, PROT_READ, MAP_PRIVATE, 0),
        ("private, writable", whole, BOTH, MAP_PRIVATE, 0),
        ("executable", whole, PROT_READ | PROT_EXEC, MAP_SHARED, 0),
        ("a page too long", whole + PAGE, BOTH, MAP_SHARED, 0),
        ("from the second page, and past the end", whole, BOTH, MAP_SHARED, PAGE),
        ("behind the end", PAGE, BOTH, MAP_SHARED, whole),
        ("far behind the end", PAGE, BOTH, MAP_SHARED, 1 << 40),
        (
            "at the last page there can be",
            PAGE,
            BOTH,
            MAP_SHARED,
            (i64::MAX as usize) & !(PAGE - 1),
        ),
    ];
    for (what, length, protection, flags, offset) in refused {
        let got = device.map(length, protection, flags, offset).map(|_| ());
        let so = matches!(got, Err(libc::EINVAL | libc::EOVERFLOW | libc::EPERM));
        check(&format!("mmap {what}: refused"), so, got)?;
    }
    let window = device.map(whole, BOTH, MAP_SHARED, 0).ok();
    let Some(window) = window else { anyhow::bail!("FAILED the whole window cannot be mapped") };
    check("the whole window: magic", window.get(0) == 0x4f46_4952, window.get(0))?;
    check("to its last word", true, window.get(whole - 4))?;

    // SAFETY: grows a mapping of ours, in place or not at all.
    let grown =
        unsafe { libc::mremap(window.at.cast(), whole, whole + PAGE, libc::MREMAP_MAYMOVE) };
    check("mremap does not grow it", grown == libc::MAP_FAILED, grown)?;
    // SAFETY: asks for more rights to a mapping of ours.
    let executable = unsafe { libc::mprotect(window.at.cast(), PAGE, PROT_READ | PROT_EXEC) };
    check("mprotect does not make it executable", executable == -1, executable)?;

    let last = device.map(PAGE, PROT_READ, MAP_SHARED, whole - PAGE).ok();
    check(
        "the last page alone is the same",
        last.is_some_and(|page| page.get(PAGE - 4) == window.get(whole - 4)),
        whole,
    )?;

    // A page that no fault has brought in yet, as the buffer of read(2): it is in the unused part
    // of the registers.
    let fresh = device.map(PAGE, BOTH, MAP_SHARED, 0).ok();
    let Some(fresh) = fresh else { anyhow::bail!("FAILED a second mapping") };
    ensure!(
        device.poll(std::time::Duration::from_secs(20)) == libc::POLLIN,
        "nothing has come for 20 s"
    );
    let got = device.read_to(fresh.at as usize + 0x200, 0xc00);
    check(
        "read into the window itself does not hang",
        got.is_ok() || got == Err(libc::EMSGSIZE),
        got,
    )?;

    drop((device, fresh));
    let busy = Device::open(node, libc::O_RDWR).err();
    check("it is busy as long as it is mapped", busy == Some(libc::EBUSY), busy)?;
    drop(window);

    let reader = Device::open(node, libc::O_RDONLY);
    let Ok(reader) = reader else { anyhow::bail!("FAILED to open it again: {:?}", reader.err()) };
    let got = reader.map(whole, BOTH, MAP_SHARED, 0).map(|_| ());
    check("opened for reading, it is not mapped for writing", got == Err(libc::EACCES), got)?;
    let got = reader.map(whole, PROT_READ, MAP_SHARED, 0).map(|window| window.get(0));
    check("but for reading", got == Ok(0x4f46_4952), got)
}

/// Dies of SIGBUS: the control that `revoke` would notice one.
pub fn sigbus() -> Result<()> {
    let memory = rustix::fs::memfd_create("empty", rustix::fs::MemfdFlags::empty())?;
    let (anywhere, fd) = (std::ptr::null_mut(), memory.as_raw_fd());
    // SAFETY: at an address of the kernel's choice.
    let at = unsafe { libc::mmap(anywhere, PAGE, PROT_READ, MAP_SHARED, fd, 0) };
    ensure!(at != libc::MAP_FAILED, "mmap");
    // SAFETY: within the mapping. The SIGBUS is the purpose.
    let word = unsafe { at.cast::<u32>().read_volatile() };
    anyhow::bail!("no SIGBUS: {word}")
}
