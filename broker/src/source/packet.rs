//! `packet:` — the frames of a network interface, which the kernel keeps using itself, out of a
//! mapped TPACKET_V3 ring.
//!
//! Contract: each frame is one datagram, as it was on the wire and as tcpdump writes it. A VLAN tag
//! that the kernel removed is put back. A frame that the machine sends to itself over loopback
//! appears only once. A frame longer than `snaplen` or the stream's largest datagram is cut and
//! keeps its original length. The kernel collects frames in blocks. It hands a block over when the
//! block is full, or `timeout` after its first frame: this is the most that the source adds to a
//! frame's latency. At the stop the socket is detached from its interface, and the last block is
//! waited for, so that every frame the kernel took is published or counted.
//!
//! Frames for which the ring had no room are counted exactly as a loss in the layer `kernel`,
//! reported before the first frame that the kernel took after them. The source time is the
//! kernel's, CLOCK_REALTIME. With `hwtstamp` it is the clock of the network card, which is set up
//! for it (this needs CAP_NET_ADMIN, and is not undone). If the interface goes down or disappears,
//! that is a fault and not the end: capture continues when it, or another interface of the same
//! name, is back. An interface that gets another name is captured until another one has its old
//! name.
//!
//! Needs CAP_NET_RAW: `setcap cap_net_raw+ep ringd`.

#![allow(unsafe_code)]

use super::contract::{Fill, OpenFor, Source, SourceError, SourceKind, WaitFor};
use super::socket::{get_words, interface, set_option};
use crate::intake::for_sources::{Arrival, Intake};
use attach::{CAN, Link, attach, bind, refused, set_promiscuous, stamp_in_hardware};
use blocks::{Blocks, Damaged, Packet};
use memmap2::{Advice, MmapOptions};
use ringweir_cli::quantity::Bytes;
use ringweir_proto::os::links::{LinkNews, LinkWatch};
use ringweir_proto::ring::Layer;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use spec::Spec;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

mod attach;
mod blocks;
mod spec;
#[cfg(test)]
mod tests;

pub const KIND: SourceKind = SourceKind {
    name: "packet",
    usage: "packet:INTERFACE[,snaplen=SIZE][,block=SIZE][,blocks=N][,timeout=DURATION]\
        [,promisc][,hwtstamp]",
    about: "the frames of a network interface, which keeps working (needs CAP_NET_RAW)",
    open,
};

/// The longest frame that the kernel passes on without being asked to join longer ones: an IP
/// packet of 64 KiB, as on loopback, behind an Ethernet header with a VLAN tag.
pub const LONGEST: u64 = (64 << 10) + 18;
/// Upper bound of a frame's header in a block, with link-layer address and alignment.
const HEADROOM: u64 = 256;
/// How often attaching to an interface that is back is tried again.
const RETRY_NS: u64 = 1_000_000_000;
/// Shortest time between two checks of the socket for an error, and of the interface.
const LOOK_NS: u64 = 1_000_000;
/// How much later than asked for the kernel's timer may hand a block over.
const TIMER: Duration = Duration::from_millis(40);
/// Bytes of an Ethernet header before a VLAN tag.
const BEFORE_TAG: usize = 12;

struct PacketSource {
    // Before the socket, so that the mapping is dropped first.
    blocks: Blocks,
    socket: OwnedFd,
    spec: Spec,
    watch: LinkWatch,
    /// Index of the interface that is captured.
    index: u32,
    /// The interface is down or gone, which was reported.
    down: bool,
    /// When to try again to attach to the interface, CLOCK_MONOTONIC ns.
    retry: Option<u64>,
    /// A block has come since the kernel was last asked for drops. Without a new block there are
    /// none: the kernel drops only when all blocks are ours.
    fresh: bool,
    /// For each block: the drops that come before what the kernel has filled into it. If it is
    /// open, or the kernel's: before what the kernel fills into it next.
    dropped: Box<[u64]>,
    /// When to check the socket for an error next, CLOCK_MONOTONIC ns: a pump that spins must not
    /// check in every round.
    look: u64,
    /// Bytes of a frame that are kept.
    cut: usize,
    link: Link,
    /// The link type that readers were given.
    shown_link_type: Option<u16>,
}

fn open(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(PacketSource::open(argument.parse()?, stream)?))
}

impl PacketSource {
    fn open(spec: Spec, stream: &OpenFor) -> Result<Self, SourceError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0: the socket receives nothing until it is bound, so it never receives frames of
        // another interface.
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
            .map_err(|e| refused("socket", e))?;
        let fd = socket.as_fd();
        // The error lists the interfaces that exist.
        interface(fd, &spec.interface)?;
        let watch = LinkWatch::new(&spec.interface).map_err(SourceError::new)?;
        let set = |name, value: i32, step| {
            set_option(fd, libc::SOL_PACKET, name, &value).map_err(|e| refused(step, e))
        };
        set(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V3 as i32, "TPACKET_V3")?;
        if spec.hwtstamp {
            stamp_in_hardware(fd, &spec.interface).map_err(|e| refused("hwtstamp", e))?;
            set(
                libc::PACKET_TIMESTAMP,
                libc::SOF_TIMESTAMPING_RAW_HARDWARE as i32,
                "PACKET_TIMESTAMP",
            )?;
        }
        let cut = spec.snaplen.min(stream.max_datagram as u64).max(1);
        if spec.block < cut.min(2048) + HEADROOM {
            return Err(SourceError(format!(
                "block={} is too small for a frame",
                Bytes(spec.block)
            )));
        }
        // A filter of one instruction, "keep this many bytes", so that the kernel copies no more
        // than we publish.
        let mut program = libc::sock_filter {
            code: (libc::BPF_RET | libc::BPF_K) as u16,
            jt: 0,
            jf: 0,
            k: cut as u32,
        };
        let program = libc::sock_fprog { len: 1, filter: &raw mut program };
        set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
            .map_err(|e| refused("SO_ATTACH_FILTER", e))?;

        const FRAME: u64 = 2048;
        let request = libc::tpacket_req3 {
            tp_block_size: spec.block as u32,
            tp_block_nr: spec.blocks as u32,
            tp_frame_size: FRAME as u32,
            tp_frame_nr: (spec.block / FRAME * spec.blocks) as u32,
            tp_retire_blk_tov: spec.timeout_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)
            .map_err(|e| refused("ring", e))?;
        let (block, count) = (spec.block as usize, spec.blocks as usize);
        let map = MmapOptions::new()
            .len(block * count)
            .map_raw(&socket)
            .map_err(|e| refused("ring", e))?;
        // A program's spawner must not hold the socket. An error: the kernel is too old.
        let _in_children = map.advise(Advice::DontFork);
        let base =
            NonNull::new(map.as_mut_ptr()).ok_or_else(|| SourceError::new("ring: mapped at 0"))?;
        // SAFETY: `map` has `block * count` bytes, begins at a page boundary, and stays mapped
        // while the owner lives. `Spec` allows only multiples of 4096 for `block`, and at least 2
        // blocks. The kernel is the only other writer: it writes to a block only while
        // TP_STATUS_USER is not set, and sets it after a barrier.
        let blocks = unsafe { Blocks::new(base, block, count, Box::new(map)) };

        let index = watch.index();
        let link = attach(fd, index, spec.promisc)?;
        if link.loopback {
            // Old kernels do not have this option. There `publish` leaves the outgoing frames out.
            let _unsupported =
                set_option(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32);
        }
        Ok(Self {
            blocks,
            socket,
            spec,
            watch,
            index,
            down: false,
            retry: None,
            fresh: false,
            dropped: vec![0; count].into(),
            look: 0,
            cut: cut as usize,
            link,
            shown_link_type: None,
        })
    }

    /// How many frames the kernel has dropped for lack of room since this was last asked.
    fn ask_drops(&self, intake: &mut Intake) -> Option<u64> {
        match get_words::<3>(self.socket.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS) {
            Ok([_, drops, _]) => Some(u64::from(drops)).filter(|drops| *drops > 0),
            Err(e) => {
                intake.fault(format_args!(
                    "packet: {}: reading its drop count: {e}",
                    self.spec.interface
                ));
                None
            }
        }
    }

    /// Asks the kernel for drops, and remembers which block they come before.
    fn take_drops(&mut self, intake: &mut Intake) {
        let before = self.blocks.drops_are_before();
        if let Some(drops) = self.ask_drops(intake) {
            self.dropped[before] += drops;
        }
    }

    /// Reports the drops that come before the current block.
    fn report_dropped(&mut self, intake: &mut Intake) {
        let dropped = std::mem::take(&mut self.dropped[self.blocks.current()]);
        if dropped > 0 {
            intake.lost(Layer::Kernel, dropped, true);
        }
    }

    /// Gives the open block back to the kernel.
    fn release(&mut self, intake: &mut Intake) {
        // While all blocks are ours the kernel drops. It must be asked now: later it may have
        // filled this block, and dropped again. A drop between the question and the release is
        // marked in this block when the kernel hands it over.
        if self.blocks.are_all_ours() {
            self.take_drops(intake);
        }
        self.blocks.release();
    }

    /// No block is ready: counts drops that no later block has reported, and checks the interface.
    fn idle(&mut self, intake: &mut Intake) {
        if std::mem::take(&mut self.fresh) {
            self.take_drops(intake);
            self.report_dropped(intake);
        }
        if intake.now() < self.look {
            return;
        }
        self.look = intake.now() + LOOK_NS;
        let name = &self.spec.interface;
        match sockopt::socket_error(&self.socket) {
            Ok(Err(rustix::io::Errno::NETDOWN)) => {
                if !std::mem::replace(&mut self.down, true) {
                    intake.fault(format_args!(
                        "packet: interface {name} is down; capture continues when it is up"
                    ));
                }
            }
            Ok(Ok(())) => {}
            Ok(Err(e)) | Err(e) => intake.fault(format_args!("packet: {name}: {e}")),
        }
        match self.watch.look() {
            LinkNews::Same => {}
            LinkNews::Gone => {
                (self.down, self.retry) = (true, None);
                intake.fault(format_args!(
                    "packet: interface {name} is gone; capture continues when it is back"
                ));
            }
            LinkNews::Renamed(new) => intake.fault(format_args!(
                "packet: interface {name} is called {new} now; capture continues with it until \
                another one is called {name}"
            )),
            LinkNews::Another(_) => self.retry = Some(0),
            // If it is the same one, attaching changes nothing.
            LinkNews::Unsure(index) => {
                let _retried_with_the_next_news = self.attach(index);
            }
        }
        if self.retry.is_some_and(|retry| intake.now() >= retry) {
            self.retry = None;
            let attached = self.attach(self.watch.index());
            let name = &self.spec.interface;
            match attached {
                Ok(()) => {
                    intake
                        .fault(format_args!("packet: interface {name} is back, capture continues"));
                    self.down = false;
                    if self.spec.hwtstamp
                        && let Err(e) = stamp_in_hardware(self.socket.as_fd(), name)
                    {
                        intake.fault(format_args!(
                            "packet: {name}: its clock could not be set up again ({e}): source \
                            times are the kernel's until ringd starts again"
                        ));
                    }
                }
                // The interface is not ready yet.
                Err(_) => self.retry = Some(intake.now() + RETRY_NS),
            }
        }
    }

    /// Captures from the interface with this index instead. If it is the same one, nothing changes.
    fn attach(&mut self, index: u32) -> Result<(), SourceError> {
        let fd = self.socket.as_fd();
        if self.spec.promisc {
            // The interface that was captured may still exist, under another name.
            let _gone = set_promiscuous(fd, self.index, libc::PACKET_DROP_MEMBERSHIP);
        }
        self.link = attach(fd, index, self.spec.promisc)?;
        self.index = index;
        Ok(())
    }
}

/// Publishes one frame, cut to at most `cut` bytes.
fn publish(
    intake: &mut Intake,
    packet: &Packet<'_>,
    link: Link,
    cut: usize,
) -> Result<(), SourceError> {
    if link.loopback && packet.kind == libc::PACKET_OUTGOING {
        // The same frame comes again as a received one.
        return Ok(());
    }
    let bytes = packet.bytes;
    let tag = packet.vlan.filter(|_| link.ethernet && bytes.len() >= BEFORE_TAG);
    let (extra, most) = (if tag.is_some() { 4 } else { 0 }, cut.min(intake.max_datagram()));
    let len = (bytes.len() + extra).min(most);
    let wire_len = packet.wire_len.saturating_add(extra as u32);
    let mut claim = intake.claim(len).map_err(SourceError::new)?;
    match tag {
        None if link.link_type == CAN && len >= 4 => {
            // In a capture the identifier is big-endian, on the socket it is as the machine has it.
            claim.write(0, &bytes[..len]);
            if cfg!(target_endian = "little") {
                claim.bytes()[..4].reverse();
            }
        }
        None => claim.write(0, &bytes[..len]),
        Some((tpid, tci)) => {
            let [a, b] = tpid.to_be_bytes();
            let [c, d] = tci.to_be_bytes();
            let (before, behind) = bytes.split_at(BEFORE_TAG);
            let mut filled = claim.bytes();
            let mut room = &mut filled[..len];
            for part in [before, &[a, b, c, d], behind] {
                let n = part.len().min(room.len());
                let (to, rest) = room.split_at_mut(n);
                to.copy_from_slice(&part[..n]);
                room = rest;
            }
        }
    }
    let original_len = if wire_len as usize > len { wire_len } else { 0 };
    intake.commit(0, len, Arrival { original_len, channel: 0, source_time: packet.time_ns });
    Ok(())
}

impl Source for PacketSource {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        if self.shown_link_type != Some(self.link.link_type) {
            self.shown_link_type = Some(self.link.link_type);
            intake.set_link_type(self.link.link_type);
        }
        while intake.has_room() {
            if !self.blocks.is_open() {
                if !self.blocks.open() {
                    self.idle(intake);
                    return Ok(Fill::Idle);
                }
                if self.blocks.is_losing() {
                    self.take_drops(intake);
                }
                self.report_dropped(intake);
                (self.down, self.fresh) = (false, true);
            }
            match self.blocks.next() {
                Ok(Some(packet)) => publish(intake, &packet, self.link, self.cut)?,
                Ok(None) => self.release(intake),
                Err(Damaged { left }) => {
                    intake.lost(Layer::Broker, u64::from(left), false);
                    let name = &self.spec.interface;
                    intake.fault(format_args!(
                        "packet: {name}: {left} frames of a block that contradicts itself"
                    ));
                }
            }
        }
        Ok(Fill::Took)
    }

    fn stop_taking(&mut self) -> Option<Duration> {
        // The socket of no interface and no protocol gets nothing. The kernel hands its open block
        // over at the next look of its timer.
        self.fresh = true;
        // And is not attached again.
        (self.look, self.retry) = (u64::MAX, None);
        bind(self.socket.as_fd(), 0, 0).ok()?;
        Some(Duration::from_millis(u64::from(self.spec.timeout_ms) * 2) + TIMER)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        WaitFor { readable: Some(self.socket.as_fd()), until: self.retry }
    }

    fn watch(&self) -> Option<BorrowedFd<'_>> {
        // Its news is not taken any more once the stream was stopped.
        (self.look < u64::MAX).then(|| self.watch.as_fd())
    }

    fn describe(&self) -> String {
        let Spec { interface, snaplen, block, blocks, timeout_ms, promisc, hwtstamp, .. } =
            &self.spec;
        let cut = self.cut as u64;
        let cuts = if cut < LONGEST.min(*snaplen) {
            format!(", frames longer than --max-datagram ({}) are cut", Bytes(cut))
        } else {
            String::new()
        };
        format!(
            "{interface}{}, frames wait up to {timeout_ms} ms in {blocks} blocks of {}, {} \
            timestamps{cuts}",
            if *promisc { " promiscuous" } else { "" },
            Bytes(*block),
            if *hwtstamp { "hardware" } else { "kernel" },
        )
    }
}
