//! The error table: open, read, poll and ioctl, each error provoked, and shown to have changed
//! nothing.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, IntoRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::check::check;
use crate::device::{
    CONSUMER, CONTROL, DOORBELL, Device, DeviceMemory, INFO, INTERRUPT_MASK, LOST, NEXT_SEQUENCE,
    PRODUCER, START, STATUS, STOP,
};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);
/// No address of a process.
const NOWHERE: usize = 0xffff_8880_0000_1000;

pub fn run(node: &Path) -> Result<()> {
    let device = Device::wait_open(node)?;
    let info = device.info()?;
    let mut buffer = vec![0u8; info.max_datagram as usize + 8];
    opening(node, &device)?;
    asking(&device)?;
    let window = device.window()?;
    sizes(&device, &window, &mut buffer)?;
    emptiness(&device, &window, &mut buffer)?;
    signals(&device, &window, &mut buffer)?;
    garbage(&device, &window, &mut buffer)
}

fn opening(node: &Path, device: &Device) -> Result<()> {
    for flags in [libc::O_RDWR, libc::O_RDONLY, libc::O_RDONLY | libc::O_NONBLOCK] {
        check(
            "a second open is EBUSY",
            Device::open(node, flags).err() == Some(libc::EBUSY),
            flags,
        )?;
    }
    let sought = rustix::fs::seek(device, rustix::fs::SeekFrom::Start(0));
    check("no seeking", sought.is_err(), sought)?;
    let wrote = rustix::io::write(device, b"x");
    check("no writing", wrote.is_err(), wrote)
}

fn asking(device: &Device) -> Result<()> {
    let info = device.info()?;
    let reserve = (info.reserved0, info.reserved1, info.reserved2);
    check(
        "INFO: abi, kind, nothing in reserve",
        info.abi == 1 && reserve == (0, [0; 7], [0; 6]),
        info,
    )?;
    check("INFO: what sits on the bus", info.bus_id().len() == 12, info.bus_id())?;
    for address in [0, 1, NOWHERE] {
        check(
            "INFO to no address is EFAULT",
            device.ioctl(INFO, address) == Err(libc::EFAULT),
            address,
        )?;
    }
    for command in
        [0, 0x7784, INFO + 1, INFO ^ 1 << 20, libc::TCGETS, libc::FIOASYNC + 1, u64::from(u32::MAX)]
    {
        check("any other ioctl is ENOTTY", device.ioctl(command, 0) == Err(libc::ENOTTY), command)?;
    }
    check("DOORBELL", device.ioctl(DOORBELL, 0).is_ok(), 0)?;
    check("START", device.ioctl(START, 0).is_ok(), 0)?;
    check("POLLIN when it has come", device.poll(LONG) == libc::POLLIN, libc::POLLIN)?;
    check(
        "FIONREAD to no address is EFAULT",
        device.ioctl(libc::FIONREAD, NOWHERE) == Err(libc::EFAULT),
        0,
    )
}

/// What can be read, without taking it.
fn state(window: &DeviceMemory) -> [u32; 3] {
    [window.get(CONSUMER), window.get(NEXT_SEQUENCE), window.get(CONSUMER + 8)]
}

fn sizes(device: &Device, window: &DeviceMemory, buffer: &mut [u8]) -> Result<()> {
    let (mut shorter, mut longer) = (0, 0);
    for _ in 0..200 {
        ensure!(device.poll(LONG) == libc::POLLIN, "nothing has come for 20 s");
        let length =
            device.pending().map_err(std::io::Error::from_raw_os_error).context("FIONREAD")?;
        let before = state(window);
        if length == 0 {
            ensure!(device.read(&mut buffer[..1]) == Ok(0), "an empty datagram reads as 0");
            continue;
        }
        for room in [length - 1, length / 2, 0] {
            ensure!(
                device.read(&mut buffer[..room]) == Err(libc::EMSGSIZE),
                "{room} of {length} bytes is EMSGSIZE"
            );
            shorter += 1;
        }
        ensure!(device.read_to(NOWHERE, length) == Err(libc::EFAULT), "EFAULT");
        ensure!(
            device.pending() == Ok(length) && state(window) == before,
            "an error took something away"
        );
        let room = length + longer % 2;
        ensure!(
            device.read(&mut buffer[..room]) == Ok(length),
            "{length} bytes into room for {room}"
        );
        longer += 1;
        let after = state(window);
        let (gone, lost) = (after[1].wrapping_sub(before[1]), after[2].wrapping_sub(before[2]));
        ensure!(gone == lost + 1, "{gone} numbers on, {lost} lost: {before:?}, {after:?}");
        ensure!(
            after[0].wrapping_sub(before[0]).is_multiple_of(8) && after[0] != before[0],
            "{before:?}, {after:?}"
        );
    }
    check("read of less is EMSGSIZE and takes nothing; so is EFAULT", shorter > 0, shorter)?;
    check("read of as much or more gives all of it, in sequence", longer > 0, longer)
}

/// Stops the device, and reads what is left.
fn drain(device: &Device, window: &DeviceMemory, buffer: &mut [u8]) -> Result<()> {
    ensure!(device.ioctl(STOP, 0).is_ok(), "STOP");
    window.until(STATUS, 1, false)?;
    std::thread::sleep(SHORT);
    device.nonblocking(true);
    let last = loop {
        match device.read(buffer) {
            Ok(_) | Err(libc::EBADMSG) => {}
            Err(error) => break error,
        }
    };
    check("read of nothing with O_NONBLOCK is EAGAIN", last == libc::EAGAIN, last)?;
    device.nonblocking(false);
    Ok(())
}

fn emptiness(device: &Device, window: &DeviceMemory, buffer: &mut [u8]) -> Result<()> {
    drain(device, window, buffer)?;
    check("FIONREAD of nothing is 0", device.pending() == Ok(0), device.pending())?;
    window.put(INTERRUPT_MASK, 0);
    check("poll of nothing says nothing", device.poll(SHORT) == 0, 0)?;
    check("and has unmasked", window.get(INTERRUPT_MASK) == 1, window.get(INTERRUPT_MASK))?;
    check("a read leaves it stopped", window.get(STATUS) & 1 == 0, window.get(CONTROL))
}

static RANG: AtomicBool = AtomicBool::new(false);

extern "C" fn ring(_signal: i32) {
    RANG.store(true, Ordering::SeqCst);
}

fn signals(device: &Device, window: &DeviceMemory, buffer: &mut [u8]) -> Result<()> {
    for restart in [false, true] {
        // SAFETY: integers and pointers, for which all zeroes are valid.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = ring as *const () as usize;
        action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
        // SAFETY: the handler does nothing but store an atomic.
        unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) };
        RANG.store(false, Ordering::SeqCst);
        // SAFETY: no pointers. The signal goes to this thread: there is no other yet.
        unsafe { libc::alarm(1) };
        let got = std::thread::scope(|scope| {
            // This thread blocks the signal, so that the reader gets it.
            let starter = restart.then(|| {
                scope.spawn(|| {
                    blocked();
                    std::thread::sleep(Duration::from_secs(2));
                    device.ioctl(START, 0)
                })
            });
            let got = device.read(buffer);
            starter.map(|thread| thread.join());
            got
        });
        ensure!(RANG.load(Ordering::SeqCst), "no signal has come");
        if restart {
            check("a signal with SA_RESTART: reads on", got.is_ok(), got)?;
        } else {
            check("a signal in a blocked read is EINTR", got == Err(libc::EINTR), got)?;
        }
    }
    window.until(STATUS, 1, true)
}

fn blocked() {
    // SAFETY: a set of signals is plain data.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours.
    unsafe { libc::sigfillset(&raw mut set) };
    // SAFETY: `set` was filled.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

fn garbage(device: &Device, window: &DeviceMemory, buffer: &mut [u8]) -> Result<()> {
    let fifo = device.info()?.fifo_bytes;
    // What a broken device would look like: the level is too high, or the index is between entries,
    // or the mark is missing.
    let level = || window.put(CONSUMER, window.get(PRODUCER).wrapping_sub(fifo + 8));
    let between = || window.put(CONSUMER, window.get(PRODUCER).wrapping_sub(20));
    let mark = || window.put(0x2000 + (window.get(CONSUMER) & (fifo - 1)) as usize, 0x1234_5678);
    let damage: [(&str, &dyn Fn()); 3] = [
        ("a level over the FIFO", &level),
        ("an index between places", &between),
        ("no mark", &mark),
    ];
    for (what, harm) in damage {
        ensure!(
            device.ioctl(START, 0).is_ok() && device.poll(LONG) == libc::POLLIN,
            "nothing has come"
        );
        ensure!(device.ioctl(STOP, 0).is_ok(), "STOP");
        window.until(STATUS, 1, false)?;
        std::thread::sleep(SHORT);
        let before = (device.counter("garbage")?, state(window), window.get(LOST));
        harm();
        ensure!(device.poll(SHORT) == libc::POLLIN, "poll does not show {what}");
        let got = device.read(buffer);
        check(&format!("garbage, {what}: EBADMSG"), got == Err(libc::EBADMSG), got)?;
        ensure!(device.counter("garbage")? == before.0 + 1, "not counted");
        check("it is emptied", window.get(CONSUMER) == window.get(PRODUCER), window.get(CONSUMER))?;
        ensure!(device.ioctl(START, 0).is_ok(), "START");
        let got = device.read(buffer);
        check("and the next is read", got.is_ok(), got)?;
        let after = state(window);
        let thrown = after[1]
            .wrapping_sub(before.1[1])
            .wrapping_sub(1)
            .wrapping_sub(after[2].wrapping_sub(before.1[2]));
        check(
            "its sequence says how many went with the garbage",
            (1..fifo / 16).contains(&thrown),
            thrown,
        )?;
    }
    Ok(())
}

/// FIONREAD gives the length of the next datagram; a read with room for many must give just that
/// one.
pub fn boundaries(node: &Path, through_stdio: bool) -> Result<()> {
    let device = Device::wait_open(node)?;
    let mut buffer = vec![0u8; 4 * device.info()?.max_datagram as usize];
    let duplicate = device.as_fd().try_clone_to_owned()?.into_raw_fd();
    // SAFETY: nothing else uses the duplicate, and the mode is a literal.
    let stream = unsafe { libc::fdopen(duplicate, c"r".as_ptr()) };
    ensure!(!stream.is_null(), "fdopen");
    for _ in 0..50 {
        ensure!(device.poll(LONG) == libc::POLLIN, "nothing has come for 20 s");
        let length = device.pending().map_err(std::io::Error::from_raw_os_error)?;
        let got = if through_stdio {
            // SAFETY: `buffer` has that much room, and the stream is open.
            unsafe { libc::fread(buffer.as_mut_ptr().cast(), 1, buffer.len(), stream) }
        } else {
            device.read(&mut buffer).map_err(std::io::Error::from_raw_os_error)?
        };
        ensure!(got == length, "FAILED: a datagram of {length} bytes, and a read gave {got}");
    }
    // SAFETY: open, and not used afterwards.
    unsafe { libc::fclose(stream) };
    check("one read is one datagram", true, 50)
}
