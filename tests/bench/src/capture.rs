//! The processes of the capture question: traffic, a process with its own packet socket, a reader
//! of `ringd`'s `packet:` stream.
//!
//! Contract: every frame carries a sum-checked datagram. Each capture checks it, and the frames
//! that it misses are those that the kernel and the ring counted as lost. The packet socket is of
//! the same kind as `ringd`'s: a mapped TPACKET_V3 ring of the same size.

#![allow(unsafe_code)]

use super::contenders::sockets;
use super::job::{Job, Report, ready};
use super::tally::{Losses, Tally};
use anyhow::{Context, ensure};
use ringweir::{Item, Options, Start};
use ringweir_harness::netns::Wire;
use ringweir_pattern::sum;
use ringweir_proto::os::clock;
use ringweir_proto::sync::{AtomicU32, Ordering};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// Names of the parts.
pub const TRAFFIC: &str = "traffic";
/// A process with a packet socket.
pub const SOCKET: &str = "own packet socket";
/// A reader of the stream.
pub const READER: &str = "ring packet reader";

/// Block size of the mapped ring, for both captures.
pub const BLOCK: usize = 256 << 10;
/// Number of blocks.
pub const BLOCKS: usize = 32;
/// ms after which a block that is not full is handed over.
pub const TIMEOUT_MS: u32 = 10;

/// Ethernet, IPv4 and UDP headers.
pub const HEADERS: usize = 14 + 20 + 8;
/// Where the traffic goes.
pub const PORT: u16 = 4777;

/// Does the job if it is one of these; otherwise `None`.
pub fn perform(job: &Job) -> Option<anyhow::Result<Report>> {
    Some(match job.contender.as_str() {
        TRAFFIC => traffic(job),
        SOCKET => own_socket(job),
        READER => ring_reader(job),
        _ => return None,
    })
}

/// Sends `rate` datagrams per second, those of each millisecond at once, and sleeps in between. Its
/// processor time must be known, because the kernel's work for the captures happens within it.
fn traffic(job: &Job) -> anyhow::Result<Report> {
    let rate = job.rate.context("a rate")?;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockets::grow(&socket, 4 << 20);
    let near: std::net::Ipv4Addr = Wire::NEAR.parse()?;
    let to = [std::net::SocketAddrV4::new(near, PORT).into()];
    let go = ready()?;
    let (mut made, mut room) = (0u64, vec![0; 256 * job.size]);
    loop {
        let now = clock::monotonic_ns();
        let elapsed = now.min(go.end).saturating_sub(go.start) as f64 / 1e9;
        let due = ((elapsed * rate) as u64 - made).min(256) as usize;
        let batch = &mut room[..due * job.size];
        for (number, datagram) in (made..).zip(batch.chunks_exact_mut(job.size)) {
            sum::fill(datagram, number, 0);
        }
        let refused = sockets::send_all(&socket, batch.chunks_exact(job.size), &to)?;
        ensure!(refused == 0, "{refused} datagrams were refused");
        made += due as u64;
        if now >= go.end && due < 256 {
            break;
        }
        if due < 256 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // Stay until the bench has read the processor time.
    std::thread::sleep(Duration::from_millis(300));
    Ok(Report { published: made, ..Report::default() })
}

fn proved(frame: &[u8], tally: &mut Tally) -> anyhow::Result<()> {
    tally.datagram(frame.get(HEADERS..).context("a frame without its headers")?)
}

fn ring_reader(job: &Job) -> anyhow::Result<Report> {
    let mut reader =
        Options::new("capture").start(Start::Seq(0)).reattach(false).attach(&job.ring_socket())?;
    let mut tally = Tally::new(job, ready()?, Losses::Silent)?;
    let mut frame = vec![0; 2048];
    loop {
        match reader.next()? {
            Item::Datagram(mut datagram) => {
                // Copied into the nearest cache, validated, then summed.
                if let Ok(len) = datagram.copy_to(&mut frame) {
                    proved(&frame[..len], &mut tally)?;
                }
            }
            // Missing numbers are counted, and must add up to the reported losses.
            Item::Gap(_) => {}
            Item::Empty => {
                if tally.over_by(200_000_000) {
                    break;
                }
                reader.wait(Some(Duration::from_millis(50)))?;
            }
            Item::Restarted(_) | Item::Demoted(_) | Item::Ended(_) => break,
        }
    }
    let account = reader.account();
    tally.kernel_lost = Some(account.lost + account.upstream_lost);
    tally.close()
}

/// A mapped TPACKET_V3 ring on the near end of the wire.
struct Mapped {
    socket: OwnedFd,
    base: *mut u8,
}

const STATUS: usize =
    offset_of!(libc::tpacket_block_desc, hdr) + offset_of!(libc::tpacket_hdr_v1, block_status);
const PACKETS: usize =
    offset_of!(libc::tpacket_block_desc, hdr) + offset_of!(libc::tpacket_hdr_v1, num_pkts);
const FIRST: usize = offset_of!(libc::tpacket_block_desc, hdr)
    + offset_of!(libc::tpacket_hdr_v1, offset_to_first_pkt);

impl Mapped {
    fn open() -> anyhow::Result<Self> {
        let protocol =
            rustix::net::Protocol::from_raw(u32::from((libc::ETH_P_IP as u16).to_be()).try_into()?);
        let socket = socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(protocol),
        )?;
        let version = libc::tpacket_versions::TPACKET_V3 as i32;
        sockets::set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, version)
            .context("TPACKET_V3")?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: 2048,
            tp_frame_nr: (BLOCK / 2048 * BLOCKS) as u32,
            tp_retire_blk_tov: TIMEOUT_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        let (at, len) = ((&raw const request).cast(), size_of_val(&request) as libc::socklen_t);
        // SAFETY: a request of the stated length.
        let rc = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, at, len)
        };
        ensure!(rc == 0, "PACKET_RX_RING: {}", std::io::Error::last_os_error());
        let (len, prot) = (BLOCK * BLOCKS, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping that nothing else in this process uses; it stays until the
        // process ends.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, &socket, 0)
        }?;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_IP as u16).to_be(),
            sll_ifindex: rustix::net::netdevice::name_to_index(&socket, "vb")? as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let (at, len) = ((&raw const address).cast(), size_of_val(&address) as libc::socklen_t);
        // SAFETY: an address of the stated length.
        let rc = unsafe { libc::bind(socket.as_raw_fd(), at, len) };
        ensure!(rc == 0, "bind: {}", std::io::Error::last_os_error());
        Ok(Self { socket, base: base.cast() })
    }

    fn status(&self, block: usize) -> &AtomicU32 {
        assert!(block < BLOCKS);
        let at = self.base.wrapping_add(block * BLOCK + STATUS);
        // SAFETY: inside the mapping, which has BLOCKS blocks and stays as long as the process;
        // aligned to 4, and written atomically by both sides.
        unsafe { &*at.cast::<AtomicU32>() }
    }

    /// A block that the kernel has handed over, until its status is given back.
    fn block(&self, block: usize) -> &[u8] {
        assert!(block < BLOCKS);
        let at = self.base.wrapping_add(block * BLOCK);
        // SAFETY: BLOCK bytes inside the mapping, which has BLOCKS blocks and stays as long as the
        // process; the kernel does not write a block it has handed over.
        unsafe { std::slice::from_raw_parts(at, BLOCK) }
    }

    /// Frames for which the kernel had no room since the last call.
    fn drops(&self) -> anyhow::Result<u64> {
        let mut counts = [0u32; 3];
        let mut len = size_of_val(&counts) as libc::socklen_t;
        let (fd, at) = (self.socket.as_raw_fd(), counts.as_mut_ptr().cast());
        // SAFETY: room for three words, as the length says.
        let rc = unsafe {
            libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, at, &raw mut len)
        };
        ensure!(rc == 0, "PACKET_STATISTICS: {}", std::io::Error::last_os_error());
        Ok(counts[1].into())
    }
}

fn own_socket(job: &Job) -> anyhow::Result<Report> {
    let mapped = Mapped::open()?;
    let mut tally = Tally::new(job, ready()?, Losses::Silent)?;
    let mut current = 0;
    loop {
        // Pairs with the kernel's barrier before it sets the status.
        if mapped.status(current).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            if tally.over_by(200_000_000) {
                break;
            }
            let mut fds =
                [rustix::event::PollFd::new(&mapped.socket, rustix::event::PollFlags::IN)];
            let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            rustix::event::poll(&mut fds, Some(&limit))?;
            continue;
        }
        let block = mapped.block(current);
        let word = |at: usize| {
            block.get(at..).and_then(|b| b.first_chunk()).map(|b| u32::from_ne_bytes(*b) as usize)
        };
        let (count, mut at) = word(PACKETS).zip(word(FIRST)).context("a block without a header")?;
        for _ in 0..count {
            let header = block.get(at..).context("a frame outside its block")?;
            let field = |field: usize| word(at + field).context("a frame without a header");
            let mac = field(offset_of!(libc::tpacket3_hdr, tp_mac))? & 0xffff;
            let len = field(offset_of!(libc::tpacket3_hdr, tp_snaplen))?;
            proved(header.get(mac..mac + len).context("a frame outside its block")?, &mut tally)?;
            at += field(offset_of!(libc::tpacket3_hdr, tp_next_offset))?;
        }
        mapped.status(current).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        current = (current + 1) % BLOCKS;
    }
    tally.kernel_lost = Some(mapped.drops()?);
    tally.close()
}
