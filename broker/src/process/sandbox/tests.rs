//! A thread of the test confines itself as a thread of the broker does, and tries what is
//! forbidden. Control of each test: a thread that is not confined gets another result.

#![allow(unsafe_code)]

use super::confine::confine;
use super::*;
use crate::process::privilege;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};
use std::path::Path;

/// Makes a call by its number, and returns its error.
fn call(number: i64, arguments: [usize; 4]) -> Option<i32> {
    let [a, b, c, d] = arguments;
    // SAFETY: the pointers among the arguments are null or invalid, so the kernel follows none; the
    // calls that succeed make a descriptor or an unused mapping and touch no memory of ours.
    let result = unsafe { libc::syscall(number, a, b, c, d, -1, 0) };
    (result == -1).then(|| std::io::Error::last_os_error().raw_os_error().unwrap())
}

/// Runs `act` on a new thread, confined to `needs` if there are any.
fn within<R: Send>(needs: Option<&Needs>, act: impl FnOnce() -> R + Send) -> (Confined, R) {
    let in_it = || {
        let confined = needs.map_or_else(Confined::default, confine);
        (confined, act())
    };
    std::thread::scope(|scope| scope.spawn(in_it).join())
        .unwrap_or_else(|e| std::panic::resume_unwind(e))
}

/// Calls that change nothing even where they succeed: name, number, arguments.
fn forbidden() -> Vec<(&'static str, i64, [usize; 4])> {
    let execute = (libc::PROT_EXEC | libc::PROT_READ) as usize;
    let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    // Contradicting flags, so that no process is made even where the call is allowed.
    let fork = (libc::CLONE_SIGHAND | libc::SIGCHLD) as usize;
    vec![
        ("execve", libc::SYS_execve, [0; 4]),
        ("execveat", libc::SYS_execveat, [usize::MAX, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [libc::PTRACE_PEEKDATA as usize, usize::MAX, 0, 0]),
        ("process_vm_writev", libc::SYS_process_vm_writev, [usize::MAX, 0, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [usize::MAX, 0, 0, 0]),
        ("kill", libc::SYS_kill, [i32::MAX as usize, 0, 0, 0]),
        ("clone of a process", libc::SYS_clone, [fork, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [0; 4]),
        (
            "socket(AF_INET)",
            libc::SYS_socket,
            [libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0, 0],
        ),
        (
            "socket(AF_UNIX)",
            libc::SYS_socket,
            [libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, 0],
        ),
        ("connect", libc::SYS_connect, [usize::MAX, 0, 0, 0]),
        ("mount", libc::SYS_mount, [0; 4]),
        ("unshare", libc::SYS_unshare, [usize::MAX, 0, 0, 0]),
        ("setns", libc::SYS_setns, [usize::MAX, 0, 0, 0]),
        ("chroot", libc::SYS_chroot, [0; 4]),
        ("setuid", libc::SYS_setuid, [usize::MAX, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [usize::MAX, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 4]),
        ("userfaultfd", libc::SYS_userfaultfd, [usize::MAX, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0; 4]),
        ("init_module", libc::SYS_init_module, [0; 4]),
        ("keyctl", libc::SYS_keyctl, [usize::MAX, 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [usize::MAX, 0, 0, 0]),
        ("renameat2", libc::SYS_renameat2, [usize::MAX, 0, usize::MAX, 0]),
        ("mkdirat", libc::SYS_mkdirat, [usize::MAX, 0, 0, 0]),
        ("capset", libc::SYS_capset, [0; 4]),
        ("ioctl(TIOCSTI)", libc::SYS_ioctl, [usize::MAX, libc::TIOCSTI as usize, 0, 0]),
        ("tgkill of another process", libc::SYS_tgkill, [1, 1, 0, 0]),
        ("prlimit of another process", libc::SYS_prlimit64, [1, 99, 0, 0]),
        ("prctl(PR_SET_DUMPABLE, 1)", libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0, 0]),
        ("mmap of code", libc::SYS_mmap, [0, 4096, execute, private]),
        ("mprotect of code", libc::SYS_mprotect, [0, 0, execute, 0]),
    ]
}

#[test]
fn a_forbidden_call_fails_and_does_nothing() {
    let all = || {
        forbidden()
            .into_iter()
            .map(|(name, number, arguments)| (name, call(number, arguments)))
            .collect()
    };
    let (_, control): (_, Vec<_>) = within(None, all);
    let (confined, inside) = within(Some(&Needs::default()), all);
    if let Err(e) = confined.seccomp {
        return ringweir_needs::skip(format_args!("needs seccomp: {e}"));
    }
    for ((name, before), (_, now)) in control.into_iter().zip(inside) {
        assert_eq!(now, Some(libc::ENOSYS), "{name}");
        // The kernel may be built without these.
        let built =
            ["userfaultfd", "io_uring_setup", "bpf", "keyctl", "init_module"].contains(&name);
        assert!(
            before != Some(libc::ENOSYS) || built,
            "control: {name} works in a thread that is not confined"
        );
    }
}

/// The usual work of the broker's threads is still possible: threads, memory, descriptors, sockets
/// of the allowed family.
#[test]
fn needed_calls_still_work() {
    let needs = Needs { families: vec![libc::AF_UNIX], ..Needs::default() };
    let (_, ()) = within(Some(&needs), || {
        assert_eq!(std::thread::spawn(|| vec![1u8; 8 << 20].len()).join().unwrap(), 8 << 20);
        let (page, fd) = ringweir_proto::os::page::ReaderPage::create(3).unwrap();
        drop((page, fd));
        rustix::net::socket(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
        let event = crate::wake::event::Event::new().unwrap();
        event.signal();
        std::thread::sleep(std::time::Duration::from_millis(1));
        crate::process::sched::become_ordinary();
        crate::process::sched::prepare_pump_thread(None).unwrap();
        assert_eq!(
            call(libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_DGRAM as usize, 0, 0]),
            Some(libc::ENOSYS)
        );
        // A panic ends only its own thread.
        std::thread::spawn(|| std::panic::resume_unwind(Box::new("as planned")))
            .join()
            .unwrap_err();
    });
}

fn open(path: &Path, flags: OFlags) -> Result<(), Errno> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).map(drop)
}

/// Only the needed files can be opened, and only in the needed way. Controls: without confinement
/// all of them can be opened, and the allowed ones can be opened with it.
#[test]
fn other_files_cannot_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for sub in ["read", "write", "remove"] {
        std::fs::create_dir(at(sub)).unwrap();
        for file in ["a", "b"] {
            std::fs::write(at(sub).join(file), "x").unwrap();
        }
    }
    let shadow = Path::new("/etc/shadow");
    let needs = Needs {
        read: vec![at("read"), at("nowhere")],
        write: vec![at("write")],
        remove: vec![at("remove")],
        ..Needs::default()
    };
    let all = || {
        let kept = rustix::fs::unlink(at("read").join("b"));
        let made = open(&at("write").join("new"), OFlags::WRONLY | OFlags::CREATE);
        vec![
            open(shadow, OFlags::RDONLY),
            open(Path::new("/proc/self/mem"), OFlags::RDWR),
            open(&at("read").join("a"), OFlags::WRONLY),
            open(&at("remove").join("a"), OFlags::RDONLY),
            kept,
            made,
        ]
    };
    let may = || {
        vec![
            open(&at("read").join("a"), OFlags::RDONLY),
            open(&at("write").join("a"), OFlags::RDWR),
            rustix::fs::unlink(at("remove").join("b")),
        ]
    };
    let (confined, (refused, allowed)) = within(Some(&needs), || (all(), may()));
    if let Err(e) = confined.landlock {
        return ringweir_needs::skip(format_args!("needs landlock: {e}"));
    }
    assert_eq!(refused, vec![Err(Errno::ACCESS); 6]);
    assert_eq!(allowed, vec![Ok(()); 3]);
    let (_, control) = within(None, all);
    let privileged = rustix::process::geteuid().is_root();
    assert!(control.iter().skip(usize::from(!privileged)).all(Result::is_ok), "{control:?}");
}

/// Capabilities are dropped for good, except the named ones. Control: this thread keeps its own.
#[test]
fn all_capabilities_but_the_named_ones_are_dropped() {
    let before = capabilities(None).unwrap().permitted;
    let named = CapabilitySet::NET_RAW;
    for needs in [Needs::default(), Needs { capabilities: named, ..Needs::default() }] {
        let kept = needs.capabilities & before;
        let (confined, status) = within(Some(&needs), || {
            capabilities(None).map(|c| (c.permitted, c.effective, c.inheritable))
        });
        assert_eq!(confined.capabilities, Ok(kept));
        // capget is not on the list of calls.
        assert_eq!(status, Err(Errno::NOSYS));
    }
    assert_eq!(capabilities(None).unwrap().permitted, before, "control");
    // The same without seccomp, so that the kernel can be asked.
    let (_, (after, raised)) = within(None, || {
        rustix::thread::set_no_new_privs(true).unwrap();
        privilege::drop_capabilities_except(named).unwrap();
        let now = capabilities(None).unwrap();
        let raised = rustix::thread::set_capabilities(
            None,
            rustix::thread::CapabilitySets {
                permitted: now.permitted | CapabilitySet::SYS_ADMIN,
                ..now
            },
        );
        (now, raised)
    });
    assert_eq!((after.permitted, after.effective), (named & before, named & before));
    assert_eq!(after.inheritable, CapabilitySet::empty());
    assert_eq!(raised, Err(Errno::PERM));
}

/// A thread keeps CAP_DAC_OVERRIDE to remove files in another user's run directory, and does not
/// keep it for its own.
#[test]
fn another_users_directory_keeps_one_capability() {
    if !ringweir_needs::needs_root() {
        return;
    }
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::os::unix::fs::chown(theirs.path(), Some(65534), Some(65534)).unwrap();
    for (dir, kept) in [(&ours, CapabilitySet::empty()), (&theirs, CapabilitySet::DAC_OVERRIDE)] {
        let file = dir.path().join("a.sock");
        std::fs::write(&file, "").unwrap();
        let needs = Needs { remove: vec![dir.path().into()], ..Needs::default() };
        let (confined, removed) = within(Some(&needs), || rustix::fs::unlink(&file));
        assert_eq!((confined.capabilities, removed), (Ok(kept), Ok(())));
    }
}

#[test]
fn failed_parts_are_reported_in_one_line() {
    let all = Confined {
        asked: true,
        no_new_privileges: Ok(()),
        capabilities: Ok(CapabilitySet::empty()),
        seccomp: Ok(()),
        landlock: Ok(7),
    };
    assert_eq!(
        (all.to_string().as_str(), all.missing()),
        ("confined: no capabilities, seccomp, landlock 7", None)
    );
    let kept =
        Confined { capabilities: Ok(CapabilitySet::NET_RAW | CapabilitySet::CHOWN), ..all.clone() };
    assert_eq!(kept.to_string(), "confined: CAP_CHOWN CAP_NET_RAW, seccomp, landlock 7");
    let old =
        Confined { landlock: Err("not in this kernel".into()), seccomp: Err("no".into()), ..all };
    assert_eq!(old.to_string(), "confined: no capabilities, NO seccomp, NO landlock");
    assert_eq!(old.missing().unwrap(), "seccomp: no; landlock: not in this kernel");
    assert_eq!(Confined::default().missing(), None);
    assert!(Confined::default().to_string().contains("--no-sandbox"));
}
