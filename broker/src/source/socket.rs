//! What the socket sources share: options that rustix does not know, control messages, interfaces
//! by name.
//!
//! Contract: contains no logic of a single source. The unsafe calls take a borrowed descriptor and
//! a value whose size is passed to the kernel. Control messages are parsed as bytes, and each
//! length is checked: a malformed message only ends the parsing.

#![allow(unsafe_code)]

use super::contract::SourceError;
use ringweir_cli::quantity::Bytes;
use rustix::io::Errno;
use rustix::net::sockopt;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets a socket option that takes a plain C value.
pub(super) fn set_option<T: Copy>(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: &T,
) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is a live reference to `len` bytes, which the kernel only reads. If the value
    // contains a pointer (`SO_ATTACH_FILTER`), the kernel only reads through it, and fails with
    // EFAULT if it is invalid.
    let outcome = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads a socket option that is an array of 32-bit words. Words that the kernel does not know are
/// 0.
pub(super) fn get_words<const N: usize>(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
) -> io::Result<[u32; N]> {
    let mut words = [0_u32; N];
    let mut len = size_of_val(&words) as libc::socklen_t;
    // SAFETY: `words` and `len` are live locals, and `len` is the size of `words`. The kernel
    // writes at most that many bytes into `words`, and the length into `len`. Any bits are a valid
    // word.
    let outcome = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, words.as_mut_ptr().cast(), &raw mut len)
    };
    if outcome == 0 { Ok(words) } else { Err(io::Error::last_os_error()) }
}

/// Requests a receive buffer of `asked` bytes, beyond the system's limit if possible. Returns a
/// text that says what was granted.
pub(super) fn receive_buffer(fd: BorrowedFd<'_>, asked: u64) -> Result<String, SourceError> {
    // The kernel doubles the value, which must not overflow an int.
    let bytes = asked.min(i32::MAX as u64 / 2) as usize;
    sockopt::set_socket_recv_buffer_size_force(fd, bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(fd, bytes))
        .map_err(|e| SourceError(format!("rcvbuf={}: {e}", Bytes(asked))))?;
    let granted = sockopt::socket_recv_buffer_size(fd).map_err(SourceError::new)? as u64 / 2;
    Ok(if granted < asked {
        format!(
            "receive buffer {} of {} asked (needs CAP_NET_ADMIN, or a higher sysctl \
            net.core.rmem_max)",
            Bytes(granted),
            Bytes(asked)
        )
    } else {
        format!("receive buffer {}", Bytes(granted))
    })
}

/// The index of the interface called `name`. The error lists the interfaces that exist.
pub(super) fn interface(fd: BorrowedFd<'_>, name: &str) -> Result<u32, SourceError> {
    rustix::net::netdevice::name_to_index(fd, name).map_err(|e| {
        if e != Errno::NODEV {
            return SourceError(format!("interface {name:?}: {e}"));
        }
        // Not /sys/class/net: it shows the network namespace in which it was mounted.
        let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
        let mut names: Vec<_> = table
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, _)| name.trim())
            .collect();
        names.sort_unstable();
        SourceError(format!("no interface {name:?}; there are: {}", names.join(", ")))
    })
}

/// Room for the control messages of one datagram, in words: a drop count and a time, each after its
/// header.
pub(super) const CONTROL_WORDS: usize = 8;

/// What the kernel reports of a datagram beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// How many datagrams the socket had dropped when this one was queued, modulo 2^32; `None`:
    /// none yet.
    pub drops: Option<u32>,
    /// When the kernel received it: CLOCK_REALTIME ns, 0 = unknown.
    pub time_ns: u64,
    /// The netlink group to which it was sent; 0: only this socket.
    pub group: Option<u32>,
}

/// Bytes before the data of a control message: total length, level, type.
const HEADER: usize = size_of::<usize>() + 8;

/// Parses `len` bytes of control messages as `recvmsg` left them in `room`.
pub(super) fn parse_control(room: &[u64; CONTROL_WORDS], len: usize) -> Control {
    let mut bytes = [0; CONTROL_WORDS * 8];
    for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(room) {
        *to = word.to_ne_bytes();
    }
    let mut rest = &bytes[..len.min(bytes.len())];
    let mut control = Control::default();
    while let Some((whole, level, kind)) = header(rest) {
        let Some(data) = rest.get(HEADER..whole) else { break };
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                control.drops = data.first_chunk().map(|d| u32::from_ne_bytes(*d));
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                if let Some((sec, nsec)) =
                    data.first_chunk::<8>().zip(data.get(8..).and_then(|d| d.first_chunk::<8>()))
                {
                    let (sec, nsec) = (i64::from_ne_bytes(*sec), i64::from_ne_bytes(*nsec));
                    control.time_ns =
                        (sec as u64).wrapping_mul(1_000_000_000).wrapping_add(nsec as u64);
                }
            }
            (libc::SOL_NETLINK, libc::NETLINK_PKTINFO) => {
                control.group = data.first_chunk().map(|d| u32::from_ne_bytes(*d));
            }
            _ => {}
        }
        rest = rest.get(whole.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
    control
}

/// Total length, level and type of the control message at the beginning of `rest`.
fn header(rest: &[u8]) -> Option<(usize, i32, i32)> {
    let (whole, rest) = rest.split_first_chunk()?;
    let (level, rest) = rest.split_first_chunk()?;
    let kind = rest.first_chunk()?;
    Some((usize::from_ne_bytes(*whole), i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER + data.len()).to_ne_bytes().to_vec();
        bytes.extend(libc::SOL_SOCKET.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn parse(bytes: &[u8], len: usize) -> Control {
        let mut room = [0; CONTROL_WORDS];
        for (word, eight) in room.iter_mut().zip(bytes.chunks(8)) {
            *word = u64::from_ne_bytes(eight.try_into().unwrap());
        }
        parse_control(&room, len)
    }

    #[test]
    fn both_messages_are_found_in_either_order() {
        let time = [7_i64.to_ne_bytes(), 5_i64.to_ne_bytes()].concat();
        let (time, drops) = (
            message(libc::SCM_TIMESTAMPNS, &time),
            message(libc::SO_RXQ_OVFL, &9_u32.to_ne_bytes()),
        );
        let expected = Control { drops: Some(9), time_ns: 7_000_000_005, group: None };
        for both in [[time.clone(), drops.clone()].concat(), [drops, time].concat()] {
            assert_eq!(parse(&both, both.len()), expected);
        }
        assert_eq!(parse(&[], 0), Control::default());
    }

    #[test]
    fn lengths_that_lie_end_the_walk() {
        let good = message(libc::SO_RXQ_OVFL, &9_u32.to_ne_bytes());
        for whole in [0_usize, 1, HEADER - 1, 65, usize::MAX - 3, usize::MAX] {
            let mut bad = good.clone();
            bad[..8].copy_from_slice(&whole.to_ne_bytes());
            assert_eq!(parse(&bad, bad.len()), Control::default(), "{whole}");
        }
        for len in 0..good.len() {
            let cut = parse(&good, len);
            assert!(cut == Control::default() || cut.drops == Some(9), "{len}");
        }
        assert_eq!(parse(&good, usize::MAX).drops, Some(9));
    }

    #[test]
    fn unknown_interface_lists_known_ones() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = std::os::fd::AsFd::as_fd(&socket);
        assert!(interface(fd, "lo").unwrap() > 0);
        let error = interface(fd, "nosuchif0").unwrap_err().to_string();
        assert!(
            error.starts_with("no interface \"nosuchif0\"; there are: ") && error.contains("lo"),
            "{error}"
        );
    }
}
