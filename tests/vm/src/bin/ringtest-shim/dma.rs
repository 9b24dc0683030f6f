//! The DMA device: datagrams taken out of the mapped buffer, as the broker does, each compared with
//! the pattern of `shim.c`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::check::check;
use crate::device::{
    CONSUMER, CONTROL, DOORBELL, Device, DeviceMemory, MARK, NEXT_SEQUENCE, PRODUCER, START,
    STATUS, STOP,
};

const PATTERN: u32 = 4088;
/// Bytes of an entry in the FIFO, with its header; there is room for just one.
const ENTRY: u32 = 1024;
const HEAD: u32 = 16;
const LENGTH: u32 = ENTRY - HEAD;

/// Offset of datagram `sequence` in the card's memory.
fn offset(sequence: u32) -> u32 {
    8 * (sequence.wrapping_mul(13) % ((PATTERN - LENGTH) / 8 + 1))
}

pub fn run(node: &Path, datagrams: u32, other: bool) -> Result<()> {
    let device = Device::wait_open(node)?;
    let info = device.info()?;
    check("a DMA device", info.kind == 2 && info.fifo_bytes == ENTRY, info)?;
    let window = device.window()?;
    for (control, status) in [(2, 2), (1, 1)] {
        window.put(CONTROL, control);
        ensure!(device.ioctl(DOORBELL, 0).is_ok(), "DOORBELL");
        window.until(STATUS, status, true)?;
    }
    for sequence in 0..datagrams {
        while window.get(PRODUCER) == window.get(CONSUMER) {
            ensure!(
                device.poll(Duration::from_secs(20)) == libc::POLLIN,
                "no DMA has ended for 20 s"
            );
        }
        let consumer = window.get(CONSUMER);
        let at =
            |offset: u32| window.get(0x2000 + (consumer.wrapping_add(offset) % ENTRY) as usize);
        let head = [at(0), at(4), at(8), at(12)];
        ensure!(head == [MARK, LENGTH, sequence, 0], "datagram {sequence} has {head:x?}");
        for word in (0..LENGTH).step_by(4) {
            let right = (offset(sequence) + word) / 4 + u32::from(other);
            let got = at(HEAD + word);
            ensure!(
                got == right,
                "FAILED datagram {sequence}, byte {word}: {got:#x}, not {right:#x}"
            );
        }
        window.put(NEXT_SEQUENCE, sequence + 1);
        window.put(CONSUMER, consumer.wrapping_add(ENTRY));
    }
    check("datagrams moved by DMA, each as the pattern", true, datagrams)?;
    stopped(&device, &window)
}

/// After STOP, what is in the FIFO can be read, and nothing new comes; START continues where it
/// stopped.
fn stopped(device: &Device, window: &DeviceMemory) -> Result<()> {
    let mut buffer = vec![0u8; LENGTH as usize];
    ensure!(device.poll(Duration::from_secs(20)) == libc::POLLIN, "no DMA has ended for 20 s");
    ensure!(device.ioctl(STOP, 0).is_ok() && window.get(STATUS) == 0, "STOP");
    let next = window.get(NEXT_SEQUENCE);
    check("read after STOP", device.read(&mut buffer) == Ok(buffer.len()), next)?;
    check("then nothing", device.poll(Duration::from_millis(500)) == 0, window.get(PRODUCER))?;
    ensure!(device.ioctl(START, 0).is_ok(), "START");
    let read =
        device.read(&mut buffer) == Ok(buffer.len()) && window.get(NEXT_SEQUENCE) == next + 2;
    let first = buffer.first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
    check("and after START the next", read && first == offset(next + 1) / 4, first)
}
