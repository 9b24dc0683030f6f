//! How a consumer reaches the device: by ivshmem, or in a plain file.
//!
//! Contract: there is one consumer at a time; the connection of another one is closed. Every
//! consumer gets new vectors, so no interrupt meant for one reaches the next. Dropping a port
//! closes the connection, removes its file and unmaps the memory; a consumer keeps its own mapping.

#![allow(unsafe_code)]

use anyhow::Context;
use memmap2::{MmapOptions, MmapRaw};
use ringweir_device::ivshmem;
use ringweir_device::{DeviceMemory, Shape};
use ringweir_proto::os::socket_file::SocketFile;
use ringweir_proto::os::{event, socket};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::ptr::NonNull;

/// Where the device is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A unix stream socket that speaks ivshmem.
    Socket {
        /// Its path.
        path: PathBuf,
        /// Vectors of each side.
        vectors: usize,
    },
    /// A file: memory without interrupts.
    File(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Socket { path, .. } | Self::File(path)) = self;
        path.display().fmt(f)
    }
}

/// The connected consumer.
struct Consumer {
    socket: OwnedFd,
    interrupts: Vec<OwnedFd>,
    doorbells: Vec<OwnedFd>,
}

/// An open [`Place`].
pub struct Port {
    listener: Option<SocketFile>,
    file: Option<PathBuf>,
    memory: OwnedFd,
    vectors: usize,
    consumer: Option<Consumer>,
}

/// What happened at a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// A consumer was accepted.
    pub came: bool,
    /// The consumer hung up.
    pub went: bool,
    /// Connections that were refused.
    pub refused: u64,
    /// The doorbell was rung.
    pub rung: bool,
}

impl Port {
    /// Makes memory for a device of `shape`, formats it, and accepts consumers.
    ///
    /// # Errors
    /// If the place cannot be opened or the memory cannot be made.
    pub fn open(place: &Place, shape: &Shape) -> anyhow::Result<(Self, DeviceMemory)> {
        match place {
            Place::Socket { path, vectors } => {
                let (memory, map) = ivshmem::memory(shape.window_bytes())?;
                let window = window(map, shape)?;
                let path = path.to_str().context("the socket's path is not UTF-8")?;
                let listener = SocketFile::bind(path, rustix::net::SocketType::STREAM, 0o600)?;
                rustix::net::listen(&listener.fd, 8)
                    .with_context(|| format!("listen at {path}"))?;
                let port = Self {
                    listener: Some(listener),
                    file: None,
                    memory,
                    vectors: *vectors,
                    consumer: None,
                };
                Ok((port, window))
            }
            Place::File(path) => {
                let shown = path.display();
                // Always a new file: one that others have mapped is never shortened, and never
                // holds two devices.
                let file =
                    File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
                let file = file.with_context(|| {
                    format!("{shown} is made new: remove what is there, if nobody uses it")
                })?;
                let bytes = (shape.window_bytes() as u64).next_multiple_of(4096);
                let map =
                    file.set_len(bytes).and_then(|()| MmapOptions::new().populate().map_raw(&file));
                let window =
                    window(map.with_context(|| format!("{bytes} bytes at {shown}"))?, shape)?;
                let file_path = Some(path.clone());
                Ok((
                    Self {
                        listener: None,
                        file: file_path,
                        memory: file.into(),
                        vectors: 0,
                        consumer: None,
                    },
                    window,
                ))
            }
        }
    }

    /// What to wait for before [`look`](Self::look).
    pub fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(self.listener.as_ref().map(|listener| PollFd::new(&listener.fd, PollFlags::IN)));
        if let Some(consumer) = &self.consumer {
            fds.push(PollFd::new(&consumer.socket, PollFlags::IN));
            fds.extend(consumer.doorbells.iter().map(|event| PollFd::new(event, PollFlags::IN)));
        }
    }

    /// Accepts consumers, and notes whether one hung up or rang the doorbell.
    ///
    /// # Errors
    /// If the kernel has no more fds.
    pub fn look(&mut self) -> anyhow::Result<Events> {
        let mut events = Events::default();
        if let Some(consumer) = &self.consumer {
            for event in &consumer.doorbells {
                events.rung |= rustix::io::read(event, &mut [0; 8]).is_ok();
            }
            // A consumer has nothing to send: its data is ignored, and only end of file counts.
            let end = loop {
                match rustix::net::recv(
                    &consumer.socket,
                    &mut [0; 64],
                    rustix::net::RecvFlags::DONTWAIT,
                ) {
                    Ok((0, _)) => break true,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break false,
                    Err(_) => break true,
                }
            };
            if end {
                self.consumer = None;
                events.went = true;
            }
        }
        while let Some(listener) = &self.listener {
            let Ok(socket) = socket::accept(&listener.fd) else { break };
            if self.consumer.is_some() {
                events.refused += 1;
                continue;
            }
            let (doorbells, interrupts) =
                (ivshmem::vectors(self.vectors)?, ivshmem::vectors(self.vectors)?);
            // One that has hung up meanwhile does not become the consumer.
            if ivshmem::welcome(&socket, ivshmem::SERVER + 1, &self.memory, &doorbells, &interrupts)
                .is_ok()
            {
                self.consumer = Some(Consumer { socket, interrupts, doorbells });
                events.came = true;
            }
        }
        Ok(events)
    }

    /// Raises an interrupt at the consumer; false if there is none.
    pub fn interrupt(&self) -> bool {
        let vector = self.consumer.as_ref().and_then(|consumer| consumer.interrupts.first());
        vector.is_some_and(|vector| event::ring(vector.as_fd()).is_ok())
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(path) = &self.file {
            // The file may be gone already.
            let _gone = std::fs::remove_file(path);
        }
    }
}

/// Formats the device in fresh mapped memory.
fn window(map: MmapRaw, shape: &Shape) -> anyhow::Result<DeviceMemory> {
    let (start, len) = (NonNull::new(map.as_mut_ptr()).context("mapped at 0")?, map.len());
    // SAFETY: a fresh, zeroed, page-aligned mapping of `len` bytes, which moves into the window as
    // its backing; the file under it is sealed or ours alone, and nothing here makes references to
    // it but through the window.
    Ok(unsafe { DeviceMemory::format(start, len, shape, Box::new(map)) }?)
}
