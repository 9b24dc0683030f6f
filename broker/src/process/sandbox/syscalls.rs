//! Seccomp: the system calls the broker makes, and no others.
//!
//! Contract: a call that is not listed fails with ENOSYS and does nothing. It does not kill the
//! process, because a future C library may try a call that is not listed here, and the stream must
//! not end because of that. It is ENOSYS rather than EPERM because the library then falls back to
//! an older call: `clone3`, whose flags no filter can see, becomes `clone`, which is allowed to
//! start threads only. Memory cannot be made executable. Calls without a condition cost nothing:
//! the kernel caches that they are allowed.

use super::needs::Needs;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Calls allowed with any arguments, on all architectures.
const ANY: &[i64] = &[
    // Bytes and descriptors.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    // Landlock decides which files.
    libc::SYS_openat,
    libc::SYS_unlinkat,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // Sockets that are open.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_shutdown,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fstatfs,
    libc::SYS_getrandom,
    // Threads.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_getparam,
    libc::SYS_getcpu,
    libc::SYS_sysinfo,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Older calls that the C library makes on this architecture instead of some of the above.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_unlink,
    libc::SYS_readlink,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_time,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

/// The `ioctl` requests to drivers, terminals, files and sockets. TIOCSTI, which types into a
/// terminal, is not among them.
fn requests() -> Vec<u64> {
    let [info, doorbell] = ringweir_device::shim::REQUESTS;
    let terminal = [libc::TCGETS, libc::TCSETS, libc::TCSETSW, libc::TCSETSF, libc::TIOCGWINSZ];
    let terminal_2 = [libc::TCGETS2, libc::TCSETS2, libc::TCSETSW2, libc::TCSETSF2];
    let file = [libc::FS_IOC_GETFLAGS, libc::FS_IOC_SETFLAGS];
    let link = [libc::SIOCGIFINDEX as libc::Ioctl, libc::SIOCGIFNAME as libc::Ioctl];
    let socket = [libc::FIONBIO, libc::FIONREAD];
    let all = terminal.iter().chain(&terminal_2).chain(&file).chain(&socket).chain(&link);
    // The kernel compares 32 bits.
    all.map(|request| u64::from(*request as u32)).chain([info.into(), doorbell.into()]).collect()
}

/// Restricts the calling thread.
pub(super) fn restrict(needs: &Needs) -> Result<(), String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|_| format!("there is no list of calls for {}", std::env::consts::ARCH))?;
    let program = program(needs, arch).map_err(|e| e.to_string())?;
    seccompiler::apply_filter(&program).map_err(|e| e.to_string())
}

fn when(
    argument: u8,
    len: SeccompCmpArgLen,
    op: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, len, op, value)?])
}

fn program(needs: &Needs, arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ANY.iter().chain(OLD).map(|call| (*call, Vec::new())).collect();
    // The call is allowed if the argument has one of the values.
    let mut one_of = |call, argument, values: &[u64]| {
        let any: Result<Vec<_>, _> =
            values.iter().map(|value| when(argument, Dword, Eq, *value)).collect();
        any.map(|any| rules.insert(call, any))
    };
    one_of(libc::SYS_ioctl, 1, &requests())?;
    let process = std::process::id().into();
    one_of(libc::SYS_tgkill, 0, &[process])?;
    // This process's own limits, as the C library reads them.
    one_of(libc::SYS_prlimit64, 0, &[0, process])?;
    if !needs.families.is_empty() {
        let families: Vec<u64> = needs.families.iter().map(|family| *family as u64).collect();
        one_of(libc::SYS_socket, 0, &families)?;
    }
    if needs.connect || !needs.families.is_empty() {
        rules.insert(libc::SYS_connect, Vec::new());
    }
    if needs.wait {
        rules.insert(libc::SYS_wait4, Vec::new());
    }
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![when(2, Dword, MaskedEq(libc::PROT_EXEC as u64), 0)?]);
    }
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![when(0, Qword, MaskedEq(thread), thread)?]);
    let mut own = Vec::new();
    for what in [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_TIMERSLACK, libc::PR_SET_VMA] {
        own.push(when(0, Dword, Eq, what as u64)?);
    }
    // The process may forbid its inspection, but not allow it again.
    let hide = SeccompCondition::new(0, Dword, Eq, libc::PR_SET_DUMPABLE as u64)?;
    own.push(SeccompRule::new(vec![hide, SeccompCondition::new(1, Qword, Eq, 0)?])?);
    rules.insert(libc::SYS_prctl, own);
    SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::ENOSYS as u32),
        SeccompAction::Allow,
        arch,
    )?
    .try_into()
}
