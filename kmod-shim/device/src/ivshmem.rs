//! The ivshmem protocol of QEMU (docs/specs/ivshmem-spec), version 0: how peers get shared memory
//! and each other's eventfds.
//!
//! Contract: one message is a 64-bit little-endian number, with at most one fd, on a unix stream
//! socket. The server sends its version, the client's own id, and -1 with the memory. Then it sends
//! every peer's id, once per vector, each time with an eventfd: the other peers first, the client
//! last. An id without an fd means that this peer left. Hanging up ends the connection. To
//! interrupt a peer, write the eventfd of one of its vectors. Received fds are owned at once, so no
//! path leaks one.
//!
//! Here the server is also the device, and peer 0. So vector 0 of peer 0 is its doorbell, and
//! vector 0 of the client is the device's interrupt. QEMU's `-device ivshmem-doorbell` can be the
//! client as well as [`Client`].

use memmap2::MmapRaw;
use ringweir_proto::os::{OsError, sealed, socket::ANSWER};
use rustix::event::EventfdFlags;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// The only version of the protocol.
pub const VERSION: i64 = 0;
/// The value that comes with the memory, in place of a peer's id.
pub const MEMORY: i64 = -1;
/// The peer id of the device.
pub const SERVER: u16 = 0;
/// Smallest memory that the server offers. Larger ones are powers of two, as a PCI memory region
/// must be.
pub const MEMORY_MIN: usize = 1 << 20;
/// Most messages handled at once, so that a server that never stops sending does not block the
/// client.
const MESSAGES: usize = 64;
/// Most vectors of a peer, the limit of MSI-X.
pub const VECTORS_MAX: usize = 2048;

/// One message.
#[derive(Debug)]
pub struct Message {
    /// A version, an id, or [`MEMORY`].
    pub value: i64,
    /// The fd that came with it.
    pub fd: Option<OwnedFd>,
}

/// Sends one message. Fails with `AGAIN` if the socket does not block and its peer does not read.
pub fn send(socket: impl AsFd, value: i64, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    let bytes = value.to_le_bytes();
    // A stream socket sends eight bytes whole or not at all, since it first allocates memory for
    // the whole message.
    match rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )? {
        8 => Ok(()),
        _ => Err(Errno::MSGSIZE),
    }
}

/// Receives one message; `None` if the other side hung up. Fails with `MSGSIZE` if the message is
/// cut short or carries more than one fd, and with `AGAIN` if there is none and the socket does not
/// block or has a timeout.
pub fn receive(socket: impl AsFd) -> Result<Option<Message>, Errno> {
    let mut bytes = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    match got.bytes {
        0 => Ok(None),
        8 if fds.len() <= 1 && !got.flags.contains(ReturnFlags::CTRUNC) => {
            Ok(Some(Message { value: i64::from_le_bytes(bytes), fd: fds.pop() }))
        }
        _ => Err(Errno::MSGSIZE),
    }
}

/// Server: creates memory that no process can shorten, of `bytes` rounded up to what a PCI device
/// can offer. Returns its fd and its mapping.
///
/// # Errors
/// If there is not enough memory.
pub fn memory(bytes: usize) -> Result<(OwnedFd, MmapRaw), OsError> {
    let bytes = bytes.max(MEMORY_MIN).next_power_of_two();
    sealed::create("ringweir-fifo", bytes, SealFlags::empty(), MemfdFlags::empty())
}

/// Server: eventfds, one for each of `count` vectors of a peer.
///
/// # Errors
/// If there are no more fds.
pub fn vectors(count: usize) -> Result<Vec<OwnedFd>, OsError> {
    let one = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    (0..count).map(|_| one().map_err(OsError::at("eventfd"))).collect()
}

/// Server: sends a client everything: that it is peer `id`, the memory, the server's vectors, and
/// the client's.
pub fn welcome(
    client: impl AsFd,
    id: u16,
    memory: impl AsFd,
    ours: &[OwnedFd],
    theirs: &[OwnedFd],
) -> Result<(), Errno> {
    let client = client.as_fd();
    send(client, VERSION, None)?;
    send(client, id.into(), None)?;
    send(client, MEMORY, Some(memory.as_fd()))?;
    for (peer, vectors) in [(SERVER, ours), (id, theirs)] {
        for vector in vectors {
            send(client, peer.into(), Some(vector.as_fd()))?;
        }
    }
    Ok(())
}

/// Why a client could not become a peer.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A system call failed.
    #[error(transparent)]
    Os(#[from] OsError),
    /// No server answers.
    #[error("{0}: nobody answers within {wait} s", wait = ANSWER.as_secs())]
    Silent(String),
    /// The server hung up.
    #[error(
        "{0}: hung up; a device serves one consumer at a time: attach readers to the broker that \
        drains it"
    )]
    HungUp(String),
    /// The server speaks another protocol.
    #[error("{path}: no ivshmem server of version {VERSION}: {what}")]
    Protocol {
        /// The path of its socket.
        path: String,
        /// What was wrong.
        what: String,
    },
    /// The memory could be shortened while it is used.
    #[error(
        "{0}: its memory can be made shorter while we use it (no F_SEAL_SHRINK): let it be a \
        sealed memfd"
    )]
    NotSealed(String),
}

/// A client that has received everything.
#[derive(Debug)]
pub struct Client {
    /// Its own id.
    pub id: u16,
    /// The memory: sealed against shrinking.
    pub memory: OwnedFd,
    /// Size of it in bytes.
    pub bytes: u64,
    /// Becomes readable when the device interrupts.
    pub interrupt: OwnedFd,
    /// Writing it makes the device read its `control` register.
    pub doorbell: OwnedFd,
    socket: OwnedFd,
}

/// A client that is connecting and receiving. It never blocks.
#[derive(Debug)]
pub struct Joining {
    path: String,
    address: SocketAddrUnix,
    socket: OwnedFd,
    connected: bool,
    version: bool,
    id: Option<u16>,
    memory: Option<OwnedFd>,
    doorbell: Option<OwnedFd>,
    interrupt: Option<OwnedFd>,
}

impl Joining {
    /// A client of the server at `path`.
    ///
    /// # Errors
    /// If the socket cannot be created, or the path cannot be a socket's.
    pub fn new(path: &Path) -> Result<Self, JoinError> {
        let path = path.display().to_string();
        let address = SocketAddrUnix::new(path.as_str())
            .map_err(OsError::at(format_args!("socket path {path} (at most 107 bytes)")))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(OsError::at("socket(AF_UNIX, SOCK_STREAM)"))?;
        let (connected, version, id, memory, doorbell, interrupt) =
            (false, false, None, None, None, None);
        Ok(Self { path, address, socket, connected, version, id, memory, doorbell, interrupt })
    }

    /// Connects if necessary and handles the messages that have arrived. Returns
    /// [`Continue`](ControlFlow::Continue) if more have to come.
    ///
    /// # Errors
    /// The text names the path.
    pub fn advance(mut self) -> Result<ControlFlow<Client, Self>, JoinError> {
        if !self.connected {
            match rustix::net::connect(&self.socket, &self.address) {
                Ok(()) => self.connected = true,
                // The server's backlog is full.
                Err(Errno::AGAIN | Errno::INTR) => return Ok(ControlFlow::Continue(self)),
                Err(e) => return Err(OsError::at(format_args!("connect {}", self.path))(e).into()),
            }
        }
        for _ in 0..MESSAGES {
            match receive(&self.socket) {
                Ok(Some(message)) => self.hear(message)?,
                Ok(None) | Err(Errno::CONNRESET) => return Err(JoinError::HungUp(self.path)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(e) => {
                    return Err(OsError::at(format_args!("receive from {}", self.path))(e).into());
                }
            }
            if self.doorbell.is_some() && self.interrupt.is_some() {
                break;
            }
        }
        self.peer()
    }

    /// Receives everything, or fails after `patience`.
    fn within(mut self, patience: Duration) -> Result<Client, JoinError> {
        let since = Instant::now();
        loop {
            self = match self.advance()? {
                ControlFlow::Break(peer) => return Ok(peer),
                ControlFlow::Continue(joining) if since.elapsed() < patience => joining,
                ControlFlow::Continue(joining) => return Err(JoinError::Silent(joining.path)),
            };
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn hear(&mut self, Message { value, fd }: Message) -> Result<(), JoinError> {
        let wrong = |what: String| Err(JoinError::Protocol { path: self.path.clone(), what });
        if !self.version {
            self.version = value == VERSION && fd.is_none();
            return if self.version { Ok(()) } else { wrong(format!("it says version {value}")) };
        }
        let Some(id) = self.id else {
            self.id = u16::try_from(value).ok().filter(|id| *id != SERVER);
            return if self.id.is_some() { Ok(()) } else { wrong(format!("it calls us {value}")) };
        };
        let Some(fd) = fd else {
            return match self.memory {
                None => wrong("no memory where it has its place".into()),
                Some(_) => wrong(format!("peer {value} is gone before all peers were announced")),
            };
        };
        match &self.memory {
            None if value == MEMORY => self.memory = Some(fd),
            None => return wrong("no memory where it has its place".into()),
            // Further vectors are not used here.
            Some(_) if value == i64::from(SERVER) => _ = self.doorbell.get_or_insert(fd),
            Some(_) if value == i64::from(id) => _ = self.interrupt.get_or_insert(fd),
            Some(_) => {}
        }
        Ok(())
    }

    /// The client, if everything has arrived.
    fn peer(self) -> Result<ControlFlow<Client, Self>, JoinError> {
        let Self {
            id: Some(id),
            memory: Some(memory),
            doorbell: Some(doorbell),
            interrupt: Some(interrupt),
            ..
        } = self
        else {
            return Ok(ControlFlow::Continue(self));
        };
        let (path, socket) = (self.path, self.socket);
        let bytes = rustix::fs::fstat(&memory)
            .map_err(OsError::at(format_args!("fstat memory of {path}")))?
            .st_size;
        if !rustix::fs::fcntl_get_seals(&memory)
            .is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
        {
            return Err(JoinError::NotSealed(path));
        }
        for (event, what) in [(&doorbell, "doorbell"), (&interrupt, "interrupt")] {
            // The server may have created them blocking, so that reading an event that is not
            // signalled would wait for ever.
            rustix::io::ioctl_fionbio(event, true)
                .map_err(OsError::at(format_args!("FIONBIO {what} of {path}")))?;
        }
        Ok(ControlFlow::Break(Client {
            id,
            memory,
            bytes: bytes.cast_unsigned(),
            interrupt,
            doorbell,
            socket,
        }))
    }
}

impl Client {
    /// Connects to the server at `path` and receives everything, within [`ANSWER`].
    ///
    /// # Errors
    /// The text names the path.
    pub fn join(path: &Path) -> Result<Self, JoinError> {
        Joining::new(path)?.within(ANSWER)
    }

    /// The connection. When it is readable, call [`is_gone`](Self::is_gone).
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the device went away. Other messages of the server are received and ignored.
    pub fn is_gone(&self) -> bool {
        for _ in 0..MESSAGES {
            match receive(&self.socket) {
                Ok(Some(Message { value, fd: None })) if value == i64::from(SERVER) => return true,
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Ok(None) | Err(_) => return true,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// A client that is connected through `socket`.
    fn connected(socket: UnixStream) -> Joining {
        socket.set_nonblocking(true).unwrap();
        Joining {
            path: "it".into(),
            connected: true,
            socket: socket.into(),
            ..Joining::new(Path::new("it")).unwrap()
        }
    }

    /// The result of a client that receives what `server` sends.
    fn hear(server: impl FnOnce(&UnixStream)) -> Result<Client, JoinError> {
        let (server_end, client_end) = UnixStream::pair().unwrap();
        server(&server_end);
        connected(client_end).within(Duration::from_millis(200))
    }

    #[test]
    fn client_gets_the_memory_and_both_events() {
        let (fd, map) = memory(5000).unwrap();
        assert_eq!(map.len(), MEMORY_MIN);
        let (ours, theirs) = (vectors(3).unwrap(), vectors(2).unwrap());
        let (server, client) = UnixStream::pair().unwrap();
        welcome(&server, 7, &fd, &ours, &theirs).unwrap();
        let peer = connected(client).within(Duration::ZERO).unwrap();
        assert_eq!((peer.id, peer.bytes), (7, MEMORY_MIN as u64));
        let rung = |fd: &OwnedFd| rustix::io::read(fd, &mut [0; 8]);
        assert_eq!(rung(&peer.interrupt), Err(Errno::AGAIN));
        ringweir_proto::os::event::ring(&theirs[0]).unwrap();
        assert_eq!(rung(&peer.interrupt), Ok(8));
        ringweir_proto::os::event::ring(&peer.doorbell).unwrap();
        assert_eq!(rung(&ours[0]), Ok(8));
        // The client's second vector arrives and is ignored. Then the server hangs up.
        assert!(!peer.is_gone());
        drop(server);
        assert!(peer.is_gone());
    }

    #[test]
    fn other_servers_are_named() {
        let (fd, _map) = memory(1).unwrap();
        let open = sealed::open("open", MemfdFlags::empty()).unwrap();
        let say = |values: &'static [i64]| {
            move |to: &UnixStream| values.iter().for_each(|value| send(to, *value, None).unwrap())
        };
        let text = |error: Result<Client, JoinError>| error.unwrap_err().to_string();
        assert!(text(hear(say(&[1]))).contains("it says version 1"));
        assert!(text(hear(say(&[0, 0]))).contains("it calls us 0"));
        assert!(text(hear(say(&[0, 70_000]))).contains("it calls us 70000"));
        assert!(text(hear(say(&[0, 1, -1]))).contains("no memory"));
        assert!(text(hear(say(&[0, 1]))).contains("nobody answers"));
        assert!(text(hear(|_| ())).contains("nobody answers"));
        let (server, client) = UnixStream::pair().unwrap();
        drop(server);
        assert!(text(connected(client).within(Duration::ZERO)).contains("one consumer at a time"));
        let events = vectors(1).unwrap();
        assert!(
            text(hear(|to| welcome(to, 1, &open, &events, &events).unwrap()))
                .contains("F_SEAL_SHRINK")
        );
        // Control: the same with sealed memory.
        assert!(hear(|to| welcome(to, 1, &fd, &events, &events).unwrap()).is_ok());
        let short =
            |to: &UnixStream| assert_eq!(std::io::Write::write(&mut &*to, &[0; 5]).unwrap(), 5);
        assert!(text(hear(short)).contains("receive from it"));
    }

    /// The server sends piece by piece, over a socket with a path, and the client never blocks.
    #[test]
    fn client_continues_up_to_its_answer() {
        let not_yet = |joining: Joining| match joining.advance().unwrap() {
            ControlFlow::Continue(joining) => joining,
            ControlFlow::Break(peer) => panic!("not all was said: {peer:?}"),
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it");
        let text = Joining::new(&path).unwrap().advance().unwrap_err().to_string();
        assert!(text.contains("connect") && text.contains("No such file"), "{text}");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut joining = not_yet(Joining::new(&path).unwrap());
        let (server, _) = listener.accept().unwrap();
        let (memory, _map) = memory(1).unwrap();
        let events = vectors(3).unwrap();
        let [ours, theirs, other] = &events[..] else { unreachable!() };
        for (value, fd) in
            [(VERSION, None), (9, None), (MEMORY, Some(&memory)), (4, Some(other)), (0, Some(ours))]
        {
            send(&server, value, fd.map(AsFd::as_fd)).unwrap();
            joining = not_yet(joining);
        }
        send(&server, 9, Some(theirs.as_fd())).unwrap();
        assert!(matches!(joining.advance().unwrap(), ControlFlow::Break(Client { id: 9, .. })));
    }

    /// Blocking eventfds, as a server without O_NONBLOCK creates them, do not block the client.
    #[test]
    fn blocking_events_do_not_block() {
        let (fd, _map) = memory(1).unwrap();
        let blocking = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let (ours, theirs) = ([blocking()], [blocking()]);
        let flags = |fd: &OwnedFd| rustix::fs::fcntl_getfl(fd).unwrap();
        assert!(!flags(&theirs[0]).contains(rustix::fs::OFlags::NONBLOCK));
        let peer = hear(|to| welcome(to, 1, &fd, &ours, &theirs).unwrap()).unwrap();
        assert_eq!(rustix::io::read(&peer.interrupt, &mut [0; 8]), Err(Errno::AGAIN));
        rustix::io::write(&peer.doorbell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        ringweir_proto::os::event::ring(&peer.doorbell).unwrap();
    }

    #[test]
    fn server_that_never_stops_sending_blocks_no_client() {
        let (fd, _map) = memory(1).unwrap();
        let events = vectors(1).unwrap();
        let (server, client) = UnixStream::pair().unwrap();
        welcome(&server, 1, &fd, &events, &events).unwrap();
        let peer = connected(client).within(Duration::ZERO).unwrap();
        let said = MESSAGES + 10;
        (0..said).for_each(|_| send(&server, 5, None).unwrap());
        drop(server);
        assert!(!peer.is_gone(), "it has not come to the end");
        assert!(peer.is_gone());
    }
}
