//! Plain UIO, as a program without a module of ours would use it: `uio_pci_generic` on QEMU's
//! e1000.
//!
//! The card raises its interrupt when its register ICS is written. `uio_pci_generic` turns the line
//! off in the device's PCI command register at each interrupt, and a test that wants another one
//! turns it on again.

#![allow(unsafe_code)]

use super::bus::{E1000, driver, hand_over, wait_for_devices};
use super::kernel;
use super::scenario::{Scenario, print};
use anyhow::{Context, Result, ensure};
use ringweir_harness::wait_for;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::{File, read_dir};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The list.
pub const SCENARIOS: &[Scenario] =
    &[Scenario { name: "uio", run: |rounds| interrupts(rounds.parse()?) }];

/// Registers of an e1000, as offsets of its BAR 0.
const CAUSE_READ: usize = 0xc0;
const CAUSE_SET: usize = 0xc8;
const MASK_SET: usize = 0xd0;
const MASK_CLEAR: usize = 0xd8;
const BAR: usize = 128 << 10;
/// Cause "MDIO access complete": nothing but the test raises it, while the link may change by
/// itself.
const ACCESS: u32 = 1 << 9;
/// PCI command register, and its bit "interrupt disable".
const COMMAND: u64 = 4;
const INTX_OFF: u16 = 1 << 10;
const SOON: Duration = Duration::from_secs(5);

/// Registers, mapped.
struct Bar(*mut u32);

impl Bar {
    fn map(device: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(device.join("resource0"))?;
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let at = unsafe { mmap(std::ptr::null_mut(), BAR, rights, flags, &file, 0) }
            .context("mmap of BAR 0")?;
        Ok(Self(at.cast()))
    }

    fn read(&self, register: usize) -> u32 {
        // SAFETY: within the mapping, aligned.
        let at = unsafe { self.0.byte_add(register) };
        // SAFETY: as above: within the mapping, aligned.
        unsafe { at.read_volatile() }
    }

    fn write(&self, register: usize, value: u32) {
        // SAFETY: within the mapping, aligned.
        let at = unsafe { self.0.byte_add(register) };
        // SAFETY: as above: within the mapping, aligned. The card does no DMA, because it has no
        // descriptor ring.
        unsafe { at.write_volatile(value) }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nothing of it is used from here on.
        let _unmapped = unsafe { munmap(self.0.cast(), BAR) };
    }
}

/// The card under UIO.
struct Card {
    bar: Bar,
    config: File,
    events: File,
    /// Count of all interrupts. Looking here does not count as a look at the interrupts.
    ever: PathBuf,
}

impl Card {
    fn open(device: &Path) -> Result<Self> {
        let at = read_dir(device.join("uio"))?.flatten().next().context("no uio device")?.path();
        let node = Path::new("/dev").join(at.file_name().context("no name")?);
        let open = |at: &Path| File::options().read(true).write(true).open(at);
        let config = open(&device.join("config"))?;
        Ok(Self { bar: Bar::map(device)?, config, events: open(&node)?, ever: at.join("event") })
    }

    /// Clears the cause, and then lets the line interrupt again. In the other order, a line that is
    /// still up would interrupt at once.
    fn enable(&self) -> Result<()> {
        self.bar.read(CAUSE_READ);
        let mut command = [0; 2];
        self.config.read_exact_at(&mut command, COMMAND)?;
        let command = u16::from_le_bytes(command) & !INTX_OFF;
        Ok(self.config.write_all_at(&command.to_le_bytes(), COMMAND)?)
    }

    /// Makes the card interrupt. The cause stays until [`Card::enable`], because the handler looks
    /// for it.
    fn raise(&self) {
        self.bar.write(CAUSE_SET, ACCESS);
    }

    /// Whether there have been `count` interrupts, within a while.
    fn comes_to(&self, count: u32, limit: Duration) -> bool {
        let ever = || std::fs::read_to_string(&self.ever).ok()?.trim().parse::<u32>().ok();
        wait_for(limit, || (ever() == Some(count)).then_some(())).is_some()
    }

    /// Waits for an interrupt, and returns the count of all interrupts that the device reports.
    fn count(&self) -> Result<u32> {
        let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.events, PollFlags::IN)], Some(&limit))?;
        ensure!(ready == 1, "no interrupt to read");
        let mut count = [0; 4];
        rustix::io::read(&self.events, &mut count)?;
        Ok(u32::from_ne_bytes(count))
    }
}

/// Every interrupt is counted, one that was not read shows as a jump of the count, and none comes
/// while the line is off.
fn interrupts(rounds: u32) -> Result<()> {
    for module in ["uio", "uio_pci_generic"] {
        kernel::load(module, "")?;
    }
    let [device] = &wait_for_devices(E1000, 1)?[..] else { unreachable!("one was waited for") };
    hand_over(device, "uio_pci_generic")?;
    let card = Card::open(&Path::new("/sys/bus/pci/devices").join(device))?;
    card.bar.write(MASK_CLEAR, u32::MAX);
    card.bar.write(MASK_SET, ACCESS);
    let (mut raised, mut seen, mut jumps) = (0, 0, 0);
    for round in 1..=rounds {
        card.enable()?;
        card.raise();
        raised += 1;
        ensure!(card.comes_to(raised, SOON), "round {round}: the interrupt did not come");
        // Every tenth is not read: the next read finds two.
        if round % 10 != 0 || round == rounds {
            let count = card.count()?;
            ensure!(count == raised, "round {round}: {raised} raised, {count} counted");
            jumps += u32::from(count - seen > 1);
            seen = count;
        }
    }
    ensure!(jumps == (rounds - 1) / 10, "{jumps} jumps in {rounds} rounds");
    // Negative control: no interrupt comes through a line that has not been turned on again.
    card.bar.read(CAUSE_READ);
    card.raise();
    ensure!(
        !card.comes_to(raised + 1, Duration::from_millis(200)),
        "an interrupt came through a line that was off"
    );
    card.enable()?;
    card.raise();
    ensure!(card.comes_to(raised + 1, SOON), "the line was not turned on");
    card.bar.write(MASK_CLEAR, u32::MAX);
    print(format!("{rounds} interrupts by UIO, {jumps} jumps of the count seen"))?;
    drop(card);
    driver("uio_pci_generic", "unbind", device)?;
    kernel::unload("uio_pci_generic")?;
    kernel::unload("uio")
}
