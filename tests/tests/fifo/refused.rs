//! A source that is no device, or an untrusted one, or a busy one, is refused at once, with a
//! helpful message.

use super::stage::{Device, LIMIT};
use super::strain::MACHINE;
use ringweir_device::ivshmem;
use ringweir_harness::environment::{Environment, NOBODY};
use ringweir_needs::Part;
use rustix::fs::{MemfdFlags, memfd_create};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::PoisonError;

fn refused(env: &Environment, source: &str) -> String {
    let output = env.run("ringd", &["run", "--name", "second", "--source", source]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{source} was taken: {said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// A device has one broker, which others can read from. Control: the same device is accepted when
/// it is free.
#[test]
fn a_device_that_has_a_broker_is_refused() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    for (place, words) in [
        ("--socket", "a device serves one consumer at a time"),
        ("--file", "attach readers to that one"),
    ] {
        let env = Environment::new(LIMIT);
        let device = Device::start(&env, "", place, "--rate 100/s");
        let broker = env.broker("first", &device.source(), &[]);
        let said = refused(&env, &device.source());
        assert!(said.contains(words) && said.contains("fpga"), "{said}");
        broker.end();
        env.broker("third", &device.source(), &[]).end();
    }
}

/// A file that others may shorten could kill the broker. Control: the same file is accepted when
/// they may not.
#[test]
fn a_file_that_others_may_write_is_refused() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let env = Environment::new(LIMIT);
    let device = Device::start(&env, "", "--file", "--rate 100/s");
    let mode =
        |mode| std::fs::set_permissions(&device.at, std::fs::Permissions::from_mode(mode)).unwrap();
    for bad in [0o620, 0o602, 0o666] {
        mode(bad);
        let said = refused(&env, &device.source());
        assert!(
            said.contains("can be truncated by other users") && said.contains("0600"),
            "{bad:o}: {said}"
        );
    }
    mode(0o600);
    if Part("a file of another user").needs_root() {
        let owner = |id| std::os::unix::fs::chown(&device.at, Some(id), None).unwrap();
        owner(NOBODY);
        let said = refused(&env, &device.source());
        assert!(said.contains("can be truncated by other users"), "{said}");
        owner(0);
    }
    env.broker("first", &device.source(), &[]).end();
}

/// A server's answer to the next client, with this memory.
fn serve(listener: &UnixListener, memory: &OwnedFd) {
    let (client, _) = listener.accept().unwrap();
    let (ours, theirs) = (ivshmem::vectors(1).unwrap(), ivshmem::vectors(1).unwrap());
    // A client that has seen enough hangs up.
    let _heard = ivshmem::welcome(&client, 1, memory, &ours, &theirs);
}

/// Memory that can be made shorter is refused. Control: sealed memory is refused only because it is
/// no device.
#[test]
fn memory_that_can_be_shortened_is_refused() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let env = Environment::new(LIMIT);
    let path = env.path("bad");
    let listener = UnixListener::bind(&path).unwrap();
    let source = format!("fifo:{}", path.display());
    let unsealed =
        memfd_create("unsealed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&unsealed, 1 << 20).unwrap();
    let (sealed, _map) = ivshmem::memory(1 << 20).unwrap();
    std::thread::scope(|scope| {
        for (memory, is_sealed) in [(&unsealed, false), (&sealed, true)] {
            let server = scope.spawn(|| serve(&listener, memory));
            let said = refused(&env, &source);
            assert_eq!(said.contains("F_SEAL_SHRINK"), !is_sealed, "{said}");
            assert!(said.contains("bad"), "{said}");
            server.join().unwrap();
        }
    });
    assert_eq!(rustix::fs::fstat(unsealed.as_fd()).unwrap().st_size, 1 << 20);
}

/// A missing path, a path without a device, a nonsense path.
#[test]
fn a_path_without_a_device_is_refused_by_name() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let env = Environment::new(LIMIT);
    std::fs::write(env.path("empty"), "").unwrap();
    std::fs::write(env.path("zeros"), vec![0; 16384]).unwrap();
    for name in ["empty", "zeros"] {
        std::fs::set_permissions(env.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let at = |name: &str| format!("fifo:{}", env.path(name).display());
    for (source, words) in [
        (at("nowhere"), "No such file"),
        (at("empty"), "is empty"),
        (at("zeros"), "zeros"),
        (at("."), "neither a socket nor a file"),
        ("fifo:rate=100/s:/x".into(), "a FIFO fills by bytes"),
        ("fifo:size=3:/x".into(), "unknown option"),
    ] {
        let said = refused(&env, &source);
        assert!(said.contains(words), "{source}: {said}");
    }
}
