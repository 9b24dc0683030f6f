//! Hostile arguments: random system calls on the node from several threads, random words into its
//! window. They may harm only the caller, and the device must work for the next one.

#![allow(unsafe_code)]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::check::check;
use crate::device::{DOORBELL, Device, DeviceMemory, INFO, PAGE, START, STOP};

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Small, near a page or a power of two, or anything.
    fn size(&mut self) -> usize {
        let shift = self.below(64);
        match self.below(4) {
            0 => self.below(64) as usize,
            1 => PAGE * self.below(64) as usize,
            2 => ((1u64 << shift).wrapping_add(self.below(3)).wrapping_sub(1)) as usize,
            _ => self.next() as usize,
        }
    }
}

struct Target<'a> {
    device: &'a Device,
    window: &'a DeviceMemory,
}

impl Target<'_> {
    /// An address that is room for 64 KiB, or part of the window, or that the kernel must refuse.
    fn address(&self, random: &mut Random, room: &mut [u8]) -> usize {
        match random.below(6) {
            0 => 0,
            1 => 0xffff_8880_0000_0000 + random.below(1 << 30) as usize,
            2 => 0x7fff_ffff_f000 - 8,
            3 => self.window.at as usize + 0x200,
            _ => room.as_mut_ptr() as usize,
        }
    }

    fn step(&self, random: &mut Random, room: &mut [u8]) -> bool {
        let address = self.address(random, room);
        match random.below(8) {
            0 => {
                let known = [INFO, START, STOP, DOORBELL, libc::FIONREAD];
                self.device.ioctl(known[random.below(5) as usize], address).is_ok()
            }
            // Not the commands that every file has, which change it or the process.
            1 => self.device.ioctl(0x7700 | random.next() & 0xffff_00ff, address).is_ok(),
            2 => {
                let length = random.size().min(if address == room.as_ptr() as usize {
                    room.len()
                } else {
                    0xc00
                });
                self.device.read_to(address, length).is_ok()
            }
            3 => self.device.poll(Duration::ZERO) == libc::POLLIN,
            4 => {
                let flags = if random.below(4) == 0 { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
                let (length, protection) = (random.size(), random.below(8) as i32);
                let got = self.device.map(length, protection, flags, random.size() & !(PAGE - 1));
                let seen = got.as_ref().is_ok_and(|window| {
                    protection & 1 == 0 || window.length < 4 || window.get(0) != 1
                });
                // With different rights for one of its pages, the mapping becomes two or three.
                if let Ok(window) = &got {
                    // SAFETY: a page of a mapping that only this thread uses.
                    unsafe { libc::mprotect(window.at.cast(), PAGE, libc::PROT_READ) };
                }
                seen
            }
            // Not the registers that describe the device: real hardware does not let them be
            // written.
            5 | 6 => {
                let offset =
                    0x40 + 4 * random.below((self.window.length as u64 - 0x40) / 4) as usize;
                let offset =
                    if random.below(2) == 0 { 0x40 + offset % 0x1100 / 4 * 4 } else { offset };
                self.window.put(offset, random.next() as u32);
                true
            }
            _ => Device::open(&self.device.path, libc::O_RDWR).is_ok(),
        }
    }
}

pub fn run(node: &Path, seconds: u64, seed: u64) -> Result<()> {
    println!("seed {seed}");
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut opened = 0u64;
    let (mut done, mut took) = (0u64, 0u64);
    while Instant::now() < end {
        let device = Device::wait_open(node)?;
        device.nonblocking(true);
        let window = device.window()?;
        let target = Target { device: &device, window: &window };
        let until = end.min(Instant::now() + Duration::from_secs(2));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3u64)
                .map(|thread| {
                    let target = &target;
                    scope.spawn(move || {
                        let mut random = Random(
                            seed ^ ((opened << 8) | (thread + 1))
                                .wrapping_mul(0x9e37_79b9_7f4a_7c15),
                        );
                        let mut room = vec![0u8; 65536];
                        let (mut done, mut took) = (0u64, 0u64);
                        while Instant::now() < until {
                            done += 1;
                            took += u64::from(target.step(&mut random, &mut room));
                        }
                        (done, took)
                    })
                })
                .collect();
            for thread in threads {
                let (all, good) =
                    thread.join().map_err(|_| anyhow::anyhow!("FAILED: a thread of the fuzzer"))?;
                done += all;
                took += good;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        opened += 1;
    }
    check("random calls, of which the kernel took", took > 0 && took < done, (done, took, opened))?;
    works(node)
}

/// The device works for the next user, who begins with a reset, as the broker does.
fn works(node: &Path) -> Result<()> {
    let device = Device::wait_open(node)?;
    let window = device.window()?;
    for (control, status) in [(2, 2), (1, 1)] {
        window.put(0x80, control);
        ensure!(device.ioctl(DOORBELL, 0).is_ok(), "DOORBELL");
        window.until(0x40, status, true)?;
    }
    let mut buffer = vec![0u8; device.info()?.max_datagram as usize];
    let mut read = 0;
    let mut refused = 0;
    while read < 20 {
        match device.read(&mut buffer) {
            Ok(_) => read += 1,
            // Left in the FIFO, or in the consumer's registers, by the last user.
            Err(libc::EBADMSG) if refused < 40 => refused += 1,
            Err(error) => anyhow::bail!(
                "FAILED to read afterwards: {}",
                std::io::Error::from_raw_os_error(error)
            ),
        }
    }
    check("and it works for the next one", true, (read, refused))
}
