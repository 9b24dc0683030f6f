//! A valid attachment: what the broker handed to this reader, without the client library.

use anyhow::{bail, ensure};
use ringweir_proto::control::{AttachRequest, Mode, Reply, Request};
use ringweir_proto::os::object::{self, AttachedRing};
use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::os::socket;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Sends one request; returns the connection, the reply and its fds.
pub fn ask(path: &Path, request: &Request) -> anyhow::Result<(OwnedFd, Reply, Vec<OwnedFd>)> {
    let connection = socket::connect(path)?;
    socket::send(&connection, &request.encode(), &[])?;
    let packet = socket::receive(&connection)?;
    ensure!(!packet.bytes.is_empty(), "the broker hung up");
    match Reply::decode(&packet.bytes)? {
        Reply::Refused(refusal) => bail!("{}", refusal.text),
        reply => Ok((connection, reply, packet.fds)),
    }
}

pub struct Attachment {
    pub connection: OwnedFd,
    pub page: ReaderPage,
    pub seen: AttachedRing,
    pub ring: OwnedFd,
    pub page_fd: OwnedFd,
    pub wake: OwnedFd,
    pub sleep_request: OwnedFd,
}

impl Attachment {
    pub fn new(path: &Path, label: &str) -> anyhow::Result<Self> {
        let request =
            Request::Attach(AttachRequest { label: label.into(), mode: Mode::Lossy, parks: true });
        let (connection, reply, fds) = ask(path, &request)?;
        let Reply::Attached(attached) = reply else { bail!("{reply:?}") };
        let Ok([ring, page_fd, wake, sleep_request]) = <[OwnedFd; 4]>::try_from(fds) else {
            bail!("not four fds")
        };
        let page = ReaderPage::attach(&page_fd, attached.block_offset)?;
        let seen = object::attach(&ring, false)?;
        Ok(Self { connection, page, seen, ring, page_fd, wake, sleep_request })
    }

    /// Whether the broker has hung up.
    pub fn lost(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.connection, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
    }

    pub fn fds(&self) -> [&OwnedFd; 4] {
        [&self.ring, &self.page_fd, &self.wake, &self.sleep_request]
    }

    pub fn written(&self) -> u64 {
        self.seen.memory.write_cursor()
    }

    /// Empties the sleep request, so that it can be written again.
    pub fn drain_event(&self) {
        let _never_blocks =
            rustix::fs::fcntl_setfl(&self.sleep_request, rustix::fs::OFlags::NONBLOCK);
        let _none = rustix::io::read(self.sleep_request.as_fd(), &mut [0; 8]);
    }
}
