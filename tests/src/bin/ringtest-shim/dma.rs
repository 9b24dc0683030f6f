//! The DMA device: datagrams taken out of the mapped buffer, as the broker does, each compared with the pattern of `dma.c`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::check;
use crate::device::{CONSUMER, CONTROL, DOORBELL, Device, MARK, NEXT_SEQUENCE, PRODUCER, START, STATUS, STOP};

const FIFO: u32 = 0x4000;
const PATTERN: u32 = 4088;
/// In the FIFO, each with its header: they divide it, so that the card never has to write round its end.
const ENTRY: u32 = 1024;
const HEAD: u32 = 24;

/// Length and place in the card's memory of datagram `sequence`.
fn piece(sequence: u32) -> (u32, u32) {
    let length = ENTRY - HEAD - sequence % 8;
    (length, 4 * (sequence.wrapping_mul(13) % ((PATTERN - length) / 4 + 1)))
}

/// The low `count` bytes of a word, four at most.
fn low(word: u32, count: u32) -> u32 {
    if count < 4 { word & ((1 << (8 * count)) - 1) } else { word }
}

pub fn run(node: &Path, datagrams: u32, other: bool) -> Result<()> {
    let device = Device::wait_open(node)?;
    let info = device.info()?;
    check("a DMA device", info.kind == 2 && info.fifo_bytes == FIFO, info)?;
    let window = device.window()?;
    for (control, status) in [(2, 2), (1, 1)] {
        window.put(CONTROL, control);
        ensure!(device.ioctl(DOORBELL, 0).is_ok(), "DOORBELL");
        window.until(STATUS, status, true)?;
    }
    for sequence in 0..datagrams {
        while window.get(PRODUCER) == window.get(CONSUMER) {
            ensure!(device.poll(Duration::from_secs(20)) == libc::POLLIN, "no DMA has ended for 20 s");
        }
        let consumer = window.get(CONSUMER);
        let at = |offset: u32| window.get(0x2000 + (consumer.wrapping_add(offset) % FIFO) as usize);
        let (length, offset) = piece(sequence);
        let head = [at(0), at(4), at(8), at(12)];
        ensure!(head == [MARK, length, sequence, 0], "datagram {sequence} of {length} bytes has {head:x?}");
        for word in (0..length).step_by(4) {
            let right = low((offset + word) / 4 + u32::from(other), length - word);
            let got = low(at(HEAD + word), length - word);
            ensure!(got == right, "FAILED datagram {sequence}, byte {word}: {got:#x}, not {right:#x}");
        }
        window.put(NEXT_SEQUENCE, sequence + 1);
        window.put(CONSUMER, consumer.wrapping_add(ENTRY));
    }
    check("datagrams moved by DMA, each as the pattern", true, datagrams)?;
    check("times round the FIFO", true, datagrams * ENTRY / FIFO)?;
    overflow(&device)
}

/// Nobody drains: what it loses is counted, and the account closes.
fn overflow(device: &Device) -> Result<()> {
    let window = device.window()?;
    let lost = || window.get(PRODUCER + 8);
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while lost() < 3 {
        ensure!(std::time::Instant::now() < end, "a full FIFO loses nothing");
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(device.ioctl(STOP, 0).is_ok() && window.get(STATUS) == 0, "STOP");
    let produced = window.get(PRODUCER + 4);
    let before = window.get(NEXT_SEQUENCE);
    let mut buffer = vec![0u8; 2048];
    device.nonblocking(true);
    let mut read = 0;
    while let Ok(got) = device.read(&mut buffer) {
        ensure!(got as u32 == piece(window.get(NEXT_SEQUENCE) - 1).0, "the wrong length: {got}");
        read += 1;
    }
    check("produced = read + lost", produced - before == read + lost(), (produced, before, read, lost()))?;
    ensure!(device.ioctl(START, 0).is_ok(), "START");
    Ok(())
}
