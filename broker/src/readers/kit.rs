//! The memory and the events of readers, which are used again.
//!
//! Contract: what was handed to a user is kept after the detach and given to its next reader. The
//! user's processes may hold it for ever, and it is the broker that pays for it, so each user gets
//! no more of it than it has had readers at one time. No user gets what another one had. Kits are
//! not more than readers that may attach; if a user comes who had none, the one that was unused
//! longest goes, and a range of uids that may be one person (`os/users.rs`) gets new ones only now
//! and then. For root and the broker's own user nothing is kept.

use crate::wake::event::Event;
use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::os::{OsError, event, users};
use rustix::event::epoll;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// How long a range of uids waits for its next new kit, once it has had twice as many as there may
/// be readers, s.
const NEXT_NEW: f64 = 30.0;

/// What one reader needs.
pub struct Kit {
    /// Its page.
    pub page: ReaderPage,
    /// The page, to hand over.
    pub page_fd: OwnedFd,
    /// Signalled by the broker. Never handed out: a reader could make it blocking and full, and so
    /// stop the pump in its write. The reader gets an epoll descriptor that watches it,
    /// edge-triggered, so that nothing ever needs to read it.
    pub wake: Event,
    /// That epoll descriptor.
    pub watch: OwnedFd,
    /// Signalled by the reader, which may do anything to it. So it is watched, edge-triggered, and
    /// never read or written here.
    pub sleep_request: Event,
}

impl Kit {
    /// A new one for the reader with this index.
    pub fn new(index: u32) -> Result<Self, OsError> {
        let (page, page_fd) = ReaderPage::create(index)?;
        let (wake, sleep_request) = (Event::new()?, Event::new()?);
        let watch =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(OsError::at("epoll_create"))?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&watch, wake.fd(), epoll::EventData::new_u64(0), edge)
            .map_err(OsError::at("epoll_ctl"))?;
        Ok(Self { page, page_fd, wake, watch, sleep_request })
    }

    /// As if it were new, except that an earlier reader of the same user may still hold it.
    fn again(mut self, index: u32) -> Self {
        self.page.clear(index);
        // An old signal costs the next reader one look; an error would come again where it matters.
        let _old = event::take(&self.watch);
        self
    }
}

/// The kits that no reader uses.
#[derive(Default)]
pub(super) struct Kits {
    /// With their users, longest unused first.
    idle: VecDeque<(u32, Kit)>,
    ranges: HashMap<u32, Made>,
}

/// How many kits a range of uids may still get.
struct Made {
    left: f64,
    at: Instant,
}

impl Kits {
    /// A kit for the reader of user `uid` with this index, out of at most `most`; `used` are in
    /// use. `None`: not now.
    pub(super) fn get(
        &mut self,
        uid: u32,
        index: u32,
        used: usize,
        most: usize,
    ) -> Result<Option<Kit>, OsError> {
        if let Some(at) = self.idle.iter().rposition(|(whose, _)| *whose == uid)
            && let Some((_, kit)) = self.idle.remove(at)
        {
            return Ok(Some(kit.again(index)));
        }
        if !self.may_make(uid, most, Instant::now()) {
            return Ok(None);
        }
        let kit = Kit::new(index)?;
        while used + self.idle.len() >= most && self.idle.pop_front().is_some() {}
        Ok(Some(kit))
    }

    /// Keeps a kit for the next reader of this user.
    pub(super) fn keep(&mut self, uid: u32, kit: Kit) {
        self.idle.push_back((uid, kit));
    }

    fn may_make(&mut self, uid: u32, most: usize, now: Instant) -> bool {
        let Some(range) = users::range_of(uid) else { return true };
        let full = 2.0 * most as f64;
        let made = self.ranges.entry(range).or_insert(Made { left: full, at: now });
        let more = now.duration_since(made.at).as_secs_f64() / NEXT_NEW;
        (made.left, made.at) = ((made.left + more).min(full), now);
        let may = made.left >= 1.0;
        made.left -= if may { 1.0 } else { 0.0 };
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringweir_proto::sync::Ordering;
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    /// Its own kit comes back to a user, empty; another user gets another. Control: a kit that is
    /// not there is made.
    #[test]
    fn a_kit_goes_to_its_own_user_only_and_is_empty_then() {
        let mut kits = Kits::default();
        let mut get = |uid, index| kits.get(uid, index, 0, 4).unwrap().unwrap();
        let (first, second) = (get(7, 0), get(7, 1));
        let which = first.page_fd.as_raw_fd();
        assert_ne!(which, second.page_fd.as_raw_fd(), "control");
        first.page.block().read_seq.store(99, Ordering::Relaxed);
        first.page.latency().max_ns.store(99, Ordering::Relaxed);
        first.wake.signal();
        kits.keep(7, first);
        assert_ne!(kits.get(8, 0, 1, 4).unwrap().unwrap().page_fd.as_raw_fd(), which);
        let again = kits.get(7, 3, 2, 4).unwrap().unwrap();
        assert_eq!(again.page_fd.as_raw_fd(), which);
        assert_eq!(again.page.block_offset(), Kit::new(3).unwrap().page.block_offset());
        let (block, latency) = (again.page.block(), again.page.latency());
        assert_eq!(block.read_seq.load(Ordering::Relaxed), 0);
        assert_eq!(latency.max_ns.load(Ordering::Relaxed), 0);
        assert_eq!(event::take(&again.watch), Ok(false));
        again.wake.signal();
        assert_eq!(event::take(&again.watch), Ok(true), "it still works");
    }

    #[test]
    fn kits_are_not_more_than_readers() {
        let mut kits = Kits::default();
        for uid in 0..100 {
            let kit = kits.get(uid, 0, 0, 4).unwrap().unwrap();
            kits.keep(uid, kit);
            assert!(kits.idle.len() <= 4);
        }
        let whose: Vec<_> = kits.idle.iter().map(|(uid, _)| *uid).collect();
        assert_eq!(whose, [96, 97, 98, 99]);
    }

    /// Controls: accounts get one each, and the same uid of the range gets its own back.
    #[test]
    fn a_range_of_uids_gets_new_ones_now_and_then() {
        let (mut kits, start) = (Kits::default(), Instant::now());
        let made = |kits: &mut Kits, uids: std::ops::Range<u32>, at| {
            uids.filter(|uid| kits.may_make(*uid, 4, start + Duration::from_secs(at))).count()
        };
        assert_eq!(made(&mut kits, 1000..1100, 0), 100, "control");
        assert_eq!(made(&mut kits, 131_072..131_172, 0), 8);
        assert_eq!(made(&mut kits, 131_072..131_172, 31), 1);
        kits.keep(131_072, Kit::new(0).unwrap());
        assert!(kits.get(131_072, 0, 0, 4).unwrap().is_some(), "control");
        assert!(kits.get(131_073, 0, 0, 4).unwrap().is_none());
    }
}
