//! The reference: a queue of all datagrams, and what a reader of it must get.
//!
//! Contract: it drops from the front of the queue what the claim line no longer covers, and shares
//! no code with `ring`.

use ringweir_proto::layout::Geometry;
use ringweir_proto::ring::{Cause, Gap, Layer, Meta, Resume, Start, Torn};
use std::collections::VecDeque;

#[derive(Clone, Debug)]
pub struct Entry {
    seq: u64,
    pos: u64,
    pub bytes: Vec<u8>,
    pub meta: Meta,
    bytes_before: u64,
    lost_before: u64,
    layer: Layer,
    /// Whether all losses since the previous datagram, and since the beginning, were exact.
    exact: bool,
    exact_ever: bool,
}

pub struct Reference {
    pub geometry: Geometry,
    /// The datagrams that are not overwritten, flushed or not.
    there: VecDeque<Entry>,
    pub next: u64,
    pub flushed: u64,
    bytes: u64,
    /// Position at which the next claim begins; positions only grow.
    at: u64,
    claim_seq: u64,
    claim_pos: u64,
    pub lost: u64,
    pub layer: Layer,
    pub exact: bool,
    pub exact_ever: bool,
}

impl Reference {
    pub fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            there: VecDeque::new(),
            next: 0,
            flushed: 0,
            bytes: 0,
            at: 0,
            claim_seq: 0,
            claim_pos: 0,
            lost: 0,
            layer: Layer::Broker,
            exact: true,
            exact_ever: true,
        }
    }

    fn forget(&mut self) {
        let (depth, capacity) = (self.geometry.depth(), self.geometry.capacity());
        let gone = |e: &Entry| e.seq + depth < self.claim_seq || e.pos + capacity < self.claim_pos;
        while self.there.front().is_some_and(gone) {
            self.there.pop_front();
        }
    }

    /// Makes a claim of `len` bytes and returns the position where it begins.
    pub fn claim(&mut self, len: u64) -> u64 {
        let (need, capacity) = (len.next_multiple_of(8), self.geometry.capacity());
        let offset = self.at % capacity;
        if offset + need > capacity {
            self.at += capacity - offset;
        }
        let end = self.at + need;
        if end > self.claim_pos {
            self.claim_pos = end.max(self.claim_pos + self.geometry.claim_bytes());
        }
        self.forget();
        self.at
    }

    pub fn commit(&mut self, pos: u64, bytes: Vec<u8>, meta: Meta) {
        if self.next == self.claim_seq {
            self.claim_seq += self.geometry.claim_slots();
        }
        let len = bytes.len() as u64;
        self.there.push_back(Entry {
            seq: self.next,
            pos,
            bytes,
            meta,
            bytes_before: self.bytes,
            lost_before: self.lost,
            layer: self.layer,
            exact: self.exact,
            exact_ever: self.exact_ever,
        });
        self.exact = true;
        self.next += 1;
        self.bytes += len;
        self.at = pos + len.next_multiple_of(8);
        self.forget();
    }

    pub fn flush(&mut self) {
        self.flushed = self.next;
    }

    fn entry(&self, seq: u64) -> Option<&Entry> {
        let first = self.there.front()?.seq;
        self.there
            .get(usize::try_from(seq.checked_sub(first)?).ok()?)
            .filter(|e| e.seq < self.flushed)
    }

    fn oldest(&self) -> u64 {
        self.there.front().map_or(self.flushed, |e| e.seq.min(self.flushed))
    }
}

/// What a reader must get, according to the reference.
pub struct Expected {
    resume: Resume,
    pub seq: u64,
    cached: u64,
    pub bytes: Option<u64>,
    pub upstream: Option<u64>,
    lapped: bool,
    pub held: Option<Entry>,
    verified: bool,
    torn: bool,
    pub start: u64,
    pub delivered: u64,
    pub lost: u64,
    pub bytes_delivered: u64,
    pub bytes_lost: u64,
    pub gaps: u64,
    pub upstream_lost: u64,
}

#[derive(Debug, PartialEq)]
pub enum ExpectedStep {
    Datagram { seq: u64 },
    Gap(Gap),
    Empty,
}

impl Expected {
    pub fn new(reference: &Reference, start: Start, resume: Resume) -> Self {
        let at = match start {
            Start::Latest => reference.flushed,
            Start::Oldest => reference.oldest(),
            Start::Seq(seq) => seq.min(reference.flushed),
        };
        let upstream = match at {
            0 => Some(0),
            _ if at == reference.flushed => reference.entry(at - 1).map(|e| e.lost_before),
            _ => None,
        };
        Self {
            resume,
            seq: at,
            cached: reference.flushed,
            bytes: (at == 0).then_some(0),
            upstream,
            lapped: false,
            held: None,
            verified: false,
            torn: false,
            start: at,
            delivered: 0,
            lost: 0,
            bytes_delivered: 0,
            bytes_lost: 0,
            gaps: 0,
            upstream_lost: 0,
        }
    }

    pub fn validate(&mut self, reference: &Reference) -> Result<(), Torn> {
        let Some(held) = &self.held else { return Err(Torn) };
        self.torn |= reference.entry(held.seq).is_none();
        self.verified = !self.torn;
        if self.torn { Err(Torn) } else { Ok(()) }
    }

    fn lap(&mut self, reference: &Reference) -> ExpectedStep {
        self.cached = reference.flushed;
        let oldest = reference.oldest();
        let at = match self.resume {
            Resume::Oldest => oldest + (self.cached - oldest) / 8,
            Resume::Newest => (self.cached - 1).max(oldest),
        };
        let (first, entry) = (self.seq, reference.entry(at));
        let count = at - first;
        let bytes = entry.and_then(|e| Some(e.bytes_before - self.bytes?));
        self.seq = at;
        self.bytes = entry.map(|e| e.bytes_before);
        self.lapped = true;
        self.lost += count;
        self.bytes_lost += bytes.unwrap_or(0);
        self.gaps += 1;
        let time = entry.map_or(0, |e| e.meta.publish_time);
        ExpectedStep::Gap(Gap { first, count, bytes, time, cause: Cause::Lapped })
    }

    pub fn step(&mut self, reference: &Reference) -> ExpectedStep {
        if let Some(held) = self.held.take() {
            let verified = std::mem::take(&mut self.verified);
            if std::mem::take(&mut self.torn) || (!verified && reference.entry(held.seq).is_none())
            {
                return self.lap(reference);
            }
            self.seq += 1;
            self.bytes = Some(held.bytes_before + held.bytes.len() as u64);
            self.delivered += 1;
            self.bytes_delivered += held.bytes.len() as u64;
        }
        if self.seq == self.cached {
            self.cached = reference.flushed;
            if self.seq == self.cached {
                return ExpectedStep::Empty;
            }
        }
        let Some(entry) = reference.entry(self.seq) else { return self.lap(reference) };
        let before = self.upstream.replace(entry.lost_before).unwrap_or(entry.lost_before);
        let exact = if std::mem::take(&mut self.lapped) { entry.exact_ever } else { entry.exact };
        if entry.lost_before > before {
            let count = entry.lost_before - before;
            self.upstream_lost += count;
            let cause = Cause::Upstream { layer: entry.layer, exact };
            return ExpectedStep::Gap(Gap {
                first: self.seq,
                count,
                bytes: None,
                time: entry.meta.publish_time,
                cause,
            });
        }
        self.held = Some(entry.clone());
        ExpectedStep::Datagram { seq: self.seq }
    }
}
