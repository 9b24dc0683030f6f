//! Waiting for datagrams: sleeping, polling, or through a file descriptor.
//!
//! Contract: no wake-up is lost (a reader arms, and then its waker looks again on its behalf:
//! `proto/DESIGN.md` §5), and a sleeping reader uses no processor time. A signal ends a sleep, and
//! so does a hang-up of the broker.

use super::Reader;
use super::link::{Link, Retry};
use crate::Error;
use ringweir_proto::os::event;
use ringweir_proto::ring::gate;
use ringweir_proto::sync::Ordering;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// How [`Reader::wait`] ended. Calling [`Reader::next`] is right in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// There may be something to read, or its broker has hung up: call [`Reader::next`].
    Woken,
    /// The timeout has passed.
    TimedOut,
    /// A signal arrived: handle it, then wait again.
    Interrupted,
}

impl Reader {
    /// Waits until there is something to read, the broker hangs up, a signal arrives or the timeout
    /// passes (`None`: for ever). Sometimes it returns without a reason, so call [`Reader::next`]
    /// whatever it returns. It polls for [`Options::spin`](crate::Options::spin), then sleeps in
    /// the kernel. A reader attached with [`Options::always_spin`](crate::Options::always_spin)
    /// keeps polling and notices no signals.
    ///
    /// # Errors
    /// If the kernel refuses to wait.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Waited, Error> {
        self.link.connection.same_process()?;
        let began = Instant::now();
        let over = |limit: Duration| began.elapsed() >= limit;
        let limit = timeout.unwrap_or(Duration::MAX);
        if self.broker_gone {
            return self.wait_for_broker(began, limit);
        }
        let spin = if self.options.parks { self.options.spin.min(limit) } else { limit };
        let mut rounds = 0u32;
        while !self.has_news() {
            if over(spin) {
                if !self.options.parks || over(limit) {
                    return Ok(Waited::TimedOut);
                }
                let left = timeout.map(|t| t.saturating_sub(began.elapsed()));
                return match self.park(left)? {
                    Waited::Interrupted if over(limit) => Ok(Waited::TimedOut),
                    other => Ok(other),
                };
            }
            for _ in 0..32 {
                std::hint::spin_loop();
            }
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(1 << 14) && self.link.connection.hung_up() {
                self.broker_gone = true;
                return Ok(Waited::Woken);
            }
        }
        Ok(Waited::Woken)
    }

    /// Waits while there is no broker: until there are datagrams to read, the next broker answers,
    /// or the next request to it is due.
    fn wait_for_broker(&self, began: Instant, limit: Duration) -> Result<Waited, Error> {
        // The next broker may publish before this reader is attached to it: look now and then.
        while !self.has_news() {
            let due = self.due_in();
            if due.is_zero() {
                break;
            }
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(Waited::TimedOut);
            }
            let pause = event::timespec(due.min(left).min(Retry::LEAST));
            let mut answer =
                self.attempt.as_ref().map(|a| PollFd::new(&a.connection.fd, PollFlags::IN));
            // Not the standard library's sleep: a signal must end it.
            match poll(answer.as_mut_slice(), Some(&pause)) {
                Ok(0) => {}
                Ok(_) => break,
                Err(Errno::INTR) => return Ok(Waited::Interrupted),
                Err(e) => return Err(Error::system("poll for the broker's answer", e)),
            }
        }
        Ok(Waited::Woken)
    }

    /// Time until the next step of attaching again, unless an answer comes first: until the attempt
    /// in flight has failed, or the next one may be sent.
    fn due_in(&self) -> Duration {
        self.attempt.as_ref().map_or_else(|| self.retry.remaining(), |a| a.remaining())
    }

    /// Whether [`Reader::next`] has something to return.
    fn has_news(&self) -> bool {
        let memory = self.ring.memory();
        self.link.page.block().detached_by.load(Ordering::Relaxed) != 0
            || memory.write_cursor() != self.ring.write_cursor_seen()
            || memory.generation() != self.ring.generation()
            || memory.has_ended()
            || memory.source_word() != self.ring.source_seen()
            || self.ring.read_cursor() != self.ring.write_cursor_seen()
            || self.lossless && gate::demoted(self.link.page.block()).is_some()
    }

    /// Sleeps. `Interrupted` means a signal or a timeout; the caller tells them apart.
    fn park(&mut self, timeout: Option<Duration>) -> Result<Waited, Error> {
        if !self.arm()? {
            return Ok(Waited::Woken);
        }
        let ready = event::wait(self.link.wake.as_fd(), self.link.connection.fd.as_fd(), timeout)
            .map_err(|e| Error::system("poll for a wake-up", e))?;
        // The wake event is consumed before the next sleep: now there is something to read.
        self.take_wake(event::Ready { first: false, ..ready })?;
        Ok(if ready.first || ready.second { Waited::Woken } else { Waited::Interrupted })
    }

    fn take_wake(&mut self, ready: event::Ready) -> Result<(), Error> {
        self.link.page.block().waiting.store(0, Ordering::Relaxed);
        self.broker_gone |= ready.second;
        if ready.first {
            event::take(&self.link.wake).map_err(|e| Error::system("take wake-up", e))?;
        }
        Ok(())
    }

    /// Announces that this reader is about to sleep on its fd (`AsFd`). True: sleep; a wake-up will
    /// come. False: there may be something to read already, so call [`Reader::next`]. Call this
    /// each time before polling; calling it twice does no harm. While there is no broker, the fd
    /// becomes readable when the next attempt to attach is due.
    ///
    /// # Errors
    /// If the sleep request cannot be signalled, or the process is out of fds.
    pub fn arm(&mut self) -> Result<bool, Error> {
        self.link.connection.same_process()?;
        self.take_wake(event::Ready { first: true, second: self.link.connection.hung_up() })?;
        if self.has_news() {
            return Ok(false);
        }
        if self.broker_gone {
            return self.arm_retry();
        }
        let block = self.link.page.block();
        block.waiting.store(1, Ordering::Relaxed);
        block.seen_seq.store(self.ring.write_cursor_seen(), Ordering::Relaxed);
        block.seen_source.store(self.ring.source_seen(), Ordering::Relaxed);
        // Partner: the waker loads both words after it has read this event. The two system calls
        // order the stores before the loads.
        event::ring(&self.link.sleep_request)
            .map_err(|e| Error::system("ring sleep request", e))?;
        Ok(true)
    }

    /// Makes the reader's fd wait for the next attempt to attach, or for its answer, instead of the
    /// old socket, which has hung up and stays readable.
    fn arm_retry(&mut self) -> Result<bool, Error> {
        let left = self.due_in();
        if left.is_zero() || !self.options.reattach {
            return Ok(false);
        }
        let polled = |fd: BorrowedFd<'_>| {
            epoll::add(&self.poll_fd, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
                .map_err(|e| Error::system("epoll_ctl", e))
        };
        if self.retry_timer.is_none() {
            // It may have been removed before.
            let _not_in = epoll::delete(&self.poll_fd, &self.link.connection.fd);
            let timer = event::timer().map_err(|e| Error::system("timerfd_create", e))?;
            polled(timer.as_fd())?;
            self.retry_timer = Some(timer);
        }
        if let Some(attempt) = self.attempt.as_mut().filter(|a| !a.polled) {
            polled(attempt.connection.fd.as_fd())?;
            attempt.polled = true;
        }
        let timer = self.retry_timer.as_ref().expect("just made");
        event::fire_in(timer, left).map_err(|e| Error::system("timerfd_settime", e))?;
        Ok(true)
    }
}

/// Becomes readable when an armed reader ([`Reader::arm`]) has something to read or its broker is
/// gone: for poll, select, epoll or an event loop. It stays the same across restarts of the broker;
/// never read from it.
impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll_fd.as_fd()
    }
}

/// The same fd, for event loops that ask for its number.
impl AsRawFd for Reader {
    fn as_raw_fd(&self) -> RawFd {
        self.poll_fd.as_raw_fd()
    }
}

/// Creates an fd that watches everything that may wake the reader of `link`.
pub(super) fn poll_set(link: &Link) -> Result<OwnedFd, Error> {
    let fd =
        epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| Error::system("epoll_create", e))?;
    watch(&fd, link)?;
    Ok(fd)
}

/// Adds everything that may wake the reader of `link` to the set of `poll_fd`.
pub(super) fn watch(poll_fd: &OwnedFd, link: &Link) -> Result<(), Error> {
    for fd in [link.wake.as_fd(), link.connection.fd.as_fd()] {
        let data = epoll::EventData::new_u64(0);
        epoll::add(poll_fd, fd, data, epoll::EventFlags::IN)
            .map_err(|e| Error::system("epoll_ctl", e))?;
    }
    Ok(())
}
