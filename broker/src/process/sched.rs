//! What the operating system grants a real-time broker: scheduling class, affinity, locked memory,
//! open files; and how the start message describes it.
//!
//! Contract: started with `chrt -f N`, only pump threads keep the real-time class: they are started
//! before the other threads give it up. A right that is not granted never fails a start; it is
//! reported, with what to do about it.

#![allow(unsafe_code)]

use ringweir_proto::os::OsError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::num::NonZeroU64;
use std::sync::OnceLock;

/// A thread's scheduling class and priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    policy: libc::c_int,
    priority: libc::c_int,
}

impl Class {
    /// The class of the calling thread.
    pub fn current() -> Self {
        let mut param = libc::sched_param { sched_priority: 0 };
        // SAFETY: 0 is the calling thread; the call follows no pointer.
        let policy = unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
        // SAFETY: 0 is the calling thread; the kernel writes one `sched_param`, which `param` is.
        unsafe { libc::sched_getparam(0, &raw mut param) };
        Self { policy, priority: param.sched_priority }
    }

    /// Puts the calling thread into this class if it is real-time and the thread is not: the thread
    /// that started it may have given up the class already.
    pub fn take(self) {
        if self.is_realtime() && !Self::current().is_realtime() {
            set_scheduler(self.policy, self.priority);
        }
    }

    /// Whether threads of this class run before ordinary ones.
    pub fn is_realtime(self) -> bool {
        self.policy == libc::SCHED_FIFO || self.policy == libc::SCHED_RR
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.policy {
            libc::SCHED_FIFO => write!(f, "FIFO/{} ok", self.priority),
            libc::SCHED_RR => write!(f, "RR/{} ok", self.priority),
            _ => f.write_str("OTHER (for real time: chrt -f 60 ringd …)"),
        }
    }
}

/// Puts the calling thread into the ordinary class. Threads it starts afterwards are ordinary too.
pub fn become_ordinary() {
    set_scheduler(libc::SCHED_OTHER, 0);
}

/// Sets the class of the calling thread. Giving up a class is always granted; if a real-time class
/// is refused, the start message shows the class that the thread has instead.
fn set_scheduler(policy: libc::c_int, priority: libc::c_int) {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 is the calling thread; the kernel reads one `sched_param`, which `param` is.
    unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
}

/// Ties the calling thread to one processor, and makes its timers fire on time.
pub fn prepare_pump_thread(cpu: Option<usize>) -> Result<(), OsError> {
    // 1 ns instead of 50 µs: the pump sleeps until a datagram is due.
    let _best_effort = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    if let Some(cpu) = cpu {
        let mut set = rustix::thread::CpuSet::new();
        if cpu >= rustix::thread::CpuSet::MAX_CPU {
            return Err(OsError { what: format!("--cpu {cpu}"), errno: rustix::io::Errno::INVAL });
        }
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set)
            .map_err(OsError::at(format_args!("cannot run on --cpu {cpu}")))?;
    }
    Ok(())
}

/// The limit of open files before it was raised.
static EARLIER_OPEN_FILES: OnceLock<Rlimit> = OnceLock::new();

/// The limit of open files that this process was started with, if it was raised.
pub fn earlier_open_files() -> Option<Rlimit> {
    EARLIER_OPEN_FILES.get().copied()
}

/// Raises the soft limit of open files to the hard limit, and returns what it is then.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    EARLIER_OPEN_FILES.get_or_init(|| limit);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

/// For the start message: whether ring memory is locked.
pub fn describe_lock(locked: Result<(), rustix::io::Errno>) -> String {
    match locked {
        Ok(()) => "mlock ok".into(),
        Err(e) => {
            let limit = getrlimit(Resource::Memlock)
                .current
                .map_or("no limit".into(), |l| format!("limit {} KiB", l >> 10));
            format!("mlock refused ({e}, {limit}: raise it with ulimit -l or LimitMEMLOCK=)")
        }
    }
}

/// A warning for a spinning thread of real-time class that the kernel throttles.
pub fn spin_warning(class: Class) -> Option<String> {
    let runtime = std::fs::read_to_string("/proc/sys/kernel/sched_rt_runtime_us").ok()?;
    let runtime: i64 = runtime.trim().parse().ok()?;
    (class.is_realtime() && runtime >= 0).then(|| {
        format!(
            "--spin with a real-time class: the kernel stops such a thread for {} ms in each \
            second (kernel.sched_rt_runtime_us = {runtime}); leave out --spin, or isolate a \
            processor and set it to -1",
            (1_000_000 - runtime.min(1_000_000)) / 1000
        )
    })
}
