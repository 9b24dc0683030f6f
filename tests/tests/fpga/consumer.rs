//! A consumer of the device with its own account: it does what a broker's source does, and nothing
//! more.

#![allow(unsafe_code)]

use memmap2::{MmapOptions, MmapRaw};
use ringweir_device::ivshmem;
use ringweir_device::{
    DO_RESET, DO_RUN, DeviceMemory, Drain, Garbage, IS_RESETTING, IS_RUNNING, arm, disarm,
};
use ringweir_device_model::Digest;
use ringweir_device_model::account::ChannelAccount;
use ringweir_harness::wait_for;
use ringweir_pattern::verify::Verifier;
use ringweir_proto::os::event;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The datagrams of one channel.
#[derive(Clone, Default)]
pub struct Account {
    pub delivered: u64,
    pub lost: u64,
    pub discarded: u64,
    pub renumbered: u64,
    pub garbage: Vec<Garbage>,
    pub verifier: Verifier,
    pub digest: Digest,
    /// Device time of the last one.
    pub time: Option<u64>,
}

impl Account {
    /// Takes all datagrams in `channel`, and counts what was lost after them.
    pub fn drain(&mut self, window: &DeviceMemory, channel: u32, drain: &mut Drain) {
        let (fifo, mut payload) = (window.fifo(channel), Vec::new());
        loop {
            match drain.look(fifo) {
                Ok(Some(entry)) => {
                    payload.resize(entry.len, 0);
                    drain.copy(fifo, &entry, &mut payload);
                    drain.take(fifo, &entry);
                    self.delivered += 1;
                    self.lost += u64::from(entry.lost);
                    self.discarded += u64::from(entry.discarded);
                    self.renumbered += u64::from(entry.renumbered);
                    self.time = entry.time;
                    let header = self.verifier.accept(&payload).expect("a datagram as it was made");
                    assert_eq!(u32::from(header.channel), channel, "a datagram of another channel");
                    self.digest.add(&payload);
                }
                Ok(None) => break,
                Err(garbage) => self.garbage.push(garbage),
            }
        }
        self.lost += drain.tail(fifo).map_or(0, |tail| u64::from(tail.lost));
    }

    /// Whether the two accounts close against each other.
    pub fn check(&self, device: &ChannelAccount) -> Result<(), String> {
        if device.produced != self.delivered + self.lost + self.discarded {
            let Self { delivered, lost, discarded, .. } = self;
            return Err(format!(
                "{delivered} delivered + {lost} lost + {discarded} discarded: {device:?}"
            ));
        }
        if self.lost != device.lost {
            return Err(format!("{} reported as lost: {device:?}", self.lost));
        }
        if self.discarded == 0 && self.digest.hex() != device.crc32 {
            return Err(format!(
                "hash {} is not that of the device: {device:?}",
                self.digest.hex()
            ));
        }
        Ok(())
    }
}

/// How the consumer is connected.
enum Line {
    Peer(ivshmem::Client),
    Memory,
}

/// How far a consumer with empty FIFOs is on its way to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has looked; interrupts are forbidden.
    Checked,
    /// It has allowed interrupts, and looks again next.
    Unmasked,
    /// It has looked again, and sleeps next.
    GoesToSleep,
}

/// How its rest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The second look found data.
    FoundAfterAll,
    /// An interrupt came.
    Woken,
    /// Nothing came in time, or the device hung up.
    Nothing,
}

/// A consumer of all channels.
pub struct Consumer {
    line: Line,
    pub window: DeviceMemory,
    drains: Vec<Drain>,
    pub accounts: Vec<Account>,
    /// Interrupts that came.
    pub interrupts: u64,
    /// Sleeps without the second look, which breaks the handshake.
    pub forgetful: bool,
}

const SOON: Duration = Duration::from_secs(10);

impl Consumer {
    /// Becomes the consumer of the device at a socket, and starts the device.
    pub fn connect(socket: &Path) -> Result<Self, ivshmem::JoinError> {
        let peer = ivshmem::Client::join(socket)?;
        let window = mapped(&peer.memory, peer.bytes);
        Ok(Self::over(Line::Peer(peer), window))
    }

    /// Becomes the consumer of the device in a file.
    pub fn open(file: &Path) -> Self {
        let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
        let bytes = file.metadata().unwrap().len();
        let window = mapped(&file.into(), bytes);
        Self::over(Line::Memory, window)
    }

    fn over(line: Line, window: DeviceMemory) -> Self {
        let mut consumer = Self {
            line,
            window,
            drains: Vec::new(),
            accounts: Vec::new(),
            interrupts: 0,
            forgetful: false,
        };
        if consumer.status() & IS_RUNNING == 0 {
            consumer.command(DO_RESET, IS_RESETTING);
            consumer.command(DO_RUN, IS_RUNNING);
        }
        let shape = *consumer.window.shape();
        consumer.drains =
            (0..shape.channels).map(|n| Drain::new(&shape, consumer.window.fifo(n))).collect();
        consumer.accounts = vec![Account::default(); shape.channels as usize];
        consumer
    }

    pub fn status(&self) -> u32 {
        self.window.registers().status.status.load(Ordering::Acquire)
    }

    /// Writes the control register and waits for what follows.
    pub fn command(&self, control: u32, status: u32) {
        self.window.registers().control.control.store(control, Ordering::Release);
        if let Line::Peer(peer) = &self.line {
            event::ring(&peer.doorbell).unwrap();
        }
        assert!(
            wait_for(SOON, || (self.status() == status).then_some(())).is_some(),
            "status {}",
            self.status()
        );
    }

    /// Takes all datagrams; returns how many.
    pub fn drain(&mut self) -> u64 {
        let mut taken = 0;
        for (n, (drain, account)) in self.drains.iter_mut().zip(&mut self.accounts).enumerate() {
            let before = account.delivered;
            account.drain(&self.window, n as u32, drain);
            taken += account.delivered - before;
        }
        taken
    }

    /// Whether the device has stored nothing more.
    pub fn is_empty(&self) -> bool {
        (0..).zip(&self.drains).all(|(n, drain)| drain.is_empty(self.window.fifo(n)))
    }

    /// Waits for an interrupt according to the handshake; returns whether there was one, or data
    /// after all.
    pub fn wait(&mut self, limit: Duration) -> bool {
        self.rest(limit, |_| ()) != Rest::Nothing
    }

    /// The same, but returns how it ended, and tells `at` how far it is.
    pub fn rest(&mut self, limit: Duration, mut at: impl FnMut(Place)) -> Rest {
        let mask = &self.window.registers().control.interrupt_mask;
        let Line::Peer(peer) = &self.line else { panic!("no interrupts from a file") };
        at(Place::Checked);
        let empty = || {
            at(Place::Unmasked);
            self.forgetful || self.is_empty()
        };
        if !arm(mask, empty) {
            return Rest::FoundAfterAll;
        }
        at(Place::GoesToSleep);
        let ready = event::wait(peer.interrupt.as_fd(), peer.socket(), Some(limit)).unwrap();
        // After an interrupt, the first step is to forbid the next one.
        disarm(mask);
        if ready.first && rustix::io::read(&peer.interrupt, &mut [0; 8]).is_ok() {
            self.interrupts += 1;
        }
        if ready.first { Rest::Woken } else { Rest::Nothing }
    }

    /// Whether the interrupt's eventfd has fired, without the handshake.
    pub fn is_interrupted(&self) -> bool {
        let Line::Peer(peer) = &self.line else { return false };
        rustix::io::read(&peer.interrupt, &mut [0; 8]).is_ok()
    }

    /// Drains until the device is gone, pausing for `dawdle` in between.
    pub fn drain_to_the_end(&mut self, dawdle: Duration) {
        loop {
            self.drain();
            if self.is_gone() {
                break;
            }
            self.wait(Duration::from_secs(1));
            std::thread::sleep(dawdle);
        }
        // The device hung up after its last datagram.
        self.drain();
    }

    pub fn is_gone(&self) -> bool {
        match &self.line {
            Line::Peer(peer) => peer.is_gone(),
            Line::Memory => {
                self.window.registers().identity.magic.load(Ordering::Acquire)
                    != ringweir_device::MAGIC
            }
        }
    }
}

fn mapped(memory: &OwnedFd, bytes: u64) -> DeviceMemory {
    let map: MmapRaw = MmapOptions::new().len(bytes as usize).map_raw(memory).unwrap();
    let (start, len) = (NonNull::new(map.as_mut_ptr()).unwrap(), map.len());
    // SAFETY: a page-aligned mapping of `len` bytes that moves into the window as its backing; the
    // device does not cut the file under it, and only the window makes references to it.
    unsafe { DeviceMemory::over(start, len, Box::new(map)) }.unwrap()
}
