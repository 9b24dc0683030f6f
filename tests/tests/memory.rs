//! The memory of a ring: a sealed memfd that no other process can write, huge pages, and how each
//! is reported.

use ringweir::Item;
use ringweir_harness::environment::{Daemon, Environment, NOBODY, wait_for};
use ringweir_needs::{Part, needs_root};
use ringweir_proto::os::backing::HUGE_PAGE;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// A broker of [`NOBODY`] that has published ten datagrams and keeps the ring.
fn of_nobody(env: &Environment, name: &str, memory: &str) -> Daemon {
    std::os::unix::fs::chown(env.run_dir(), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = env.command_as_nobody("ringd");
    command.args([
        "run",
        "--name",
        name,
        "--source",
        "gen:rate=max,count=10",
        "--linger",
        "forever",
    ]);
    command.args(["--max-datagram", "2KiB", "--depth", "64", "--memory", memory]);
    let broker = env.broker_of(name, command);
    let full = wait_for(LIMIT, || {
        broker.process.stderr().contains("10 datagrams published").then_some(())
    });
    assert!(full.is_some(), "{}", broker.process.stderr());
    broker
}

/// The kernel's answers when [`NOBODY`] tries to write the ring of its own broker.
fn pry(env: &Environment, broker: &Daemon) -> String {
    let mut command = env.command_as_nobody("ringtest-pry");
    command
        .arg(broker.path())
        .args(["--broker", &broker.process.pid().to_string()])
        .stdout(Stdio::piped());
    let output = env.start(command).output();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// G6 with --memory memfd: no process can write the stream, not even one of the broker's own user.
/// Control: with --memory shm the same process of the same user can, in every one of these ways, as
/// documented.
#[test]
fn a_sealed_ring_cannot_be_written_by_its_own_user() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let ways = [
        ("ring: map writable", "EPERM", "EACCES"),
        ("ring: mprotect a read-only mapping", "EACCES", "EACCES"),
        ("ring: write", "EPERM", "EBADF"),
        ("ring: truncate", "EPERM", "EINVAL"),
        ("ring reopened: map writable", "EPERM", "ok"),
        ("ring reopened: write", "EPERM", "ok"),
        ("ring reopened: punch a hole", "EPERM", "ok"),
        ("broker: open its memory", "EACCES", "ok"),
        ("broker: look at its fds", "EACCES", "ok"),
        ("broker: look at its map", "EACCES", "ok"),
        ("statistics: map writable", "EPERM", "EPERM"),
    ];
    for (name, memory) in [("sealed", "memfd"), ("named", "shm")] {
        let broker = of_nobody(&env, name, memory);
        assert!(
            broker.process.stderr().contains(&format!("{memory} in 4 KiB pages")),
            "{}",
            broker.process.stderr()
        );
        let said = pry(&env, &broker);
        for (way, sealed, named) in ways {
            let answer = if memory == "memfd" { sealed } else { named };
            assert!(
                said.contains(&format!("{way} = {answer}\n")),
                "{memory}: {way} should be {answer}:\n{said}"
            );
        }
        let mut cat = env.command_as_nobody("ringcat");
        cat.args([name, "--from", "oldest", "-n", "10", "--verify"]).stdout(Stdio::null());
        let cat = env.start(cat).output();
        assert!(cat.status.success(), "{}", String::from_utf8_lossy(&cat.stderr));
        broker.end();
    }
}

/// A memfd leaves nothing behind that a new broker could find. The generation still increases, by
/// the lock file.
#[test]
fn a_memfd_broker_that_was_killed_is_followed_by_the_next_generation() {
    let env = Environment::new(LIMIT);
    let args = ["--memory", "memfd", "--max-datagram", "2KiB"];
    let mut first = env.broker("mem", "gen:rate=1000/s", &args);
    assert!(env.objects().is_empty());
    let mut reader = ringweir::Options::new("stays").attach(first.path()).unwrap();
    let mut until = |wanted: fn(&Item) -> bool| {
        for _ in 0..1000 {
            let read = reader.next().unwrap();
            if wanted(&read) {
                return format!("{read:?}");
            }
            if matches!(read, Item::Empty) {
                reader.wait(Some(Duration::from_millis(100))).unwrap();
            }
        }
        panic!("not within 1000 reads");
    };
    until(|read| matches!(read, Item::Datagram(_)));
    first.process.kill();
    let second = env.broker("mem", "gen:rate=1000/s", &args);
    assert!(second.process.stderr().contains("mem gen 2"), "{}", second.process.stderr());
    let restart = until(|read| matches!(read, Item::Restarted(_)));
    assert!(restart.contains("generation: 2"), "{restart}");
    until(|read| matches!(read, Item::Datagram(_)));
    second.end();
}

/// Gives the huge pages back to the machine.
struct Reserved(String);

const RESERVED: &str = "/proc/sys/vm/nr_hugepages";

impl Reserved {
    fn at_least(pages: u64) -> Option<Self> {
        let before = std::fs::read_to_string(RESERVED).ok()?;
        let there: u64 = before.trim().parse().ok()?;
        std::fs::write(RESERVED, (there + pages).to_string()).ok()?;
        let kept = Self(before.clone());
        let now: u64 = std::fs::read_to_string(RESERVED).ok()?.trim().parse().ok()?;
        (now >= there + pages).then_some(kept)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let _best_effort = std::fs::write(RESERVED, &self.0);
    }
}

/// Checks the page size, in KiB, of the mapping of `what` in process `pid`. This needs root: a
/// broker forbids it to processes of its own user.
fn assert_page_kib(pid: u32, what: &str, expected: u64) {
    if Part("page size of the mapping").needs_root() {
        assert_eq!(page_kib(pid, what), expected);
    }
}

fn page_kib(pid: u32, what: &str) -> u64 {
    let smaps =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps")).unwrap();
    let mut lines = smaps.lines().skip_while(|l| !l.contains(what));
    let size = lines
        .find_map(|l| l.strip_prefix("KernelPageSize:"))
        .unwrap_or_else(|| panic!("no {what} in {smaps}"));
    size.trim().trim_end_matches(" kB").parse().unwrap()
}

/// --hugepages: what was asked for and not granted is reported step by step with its remedy, and
/// the stream still runs. With reserved pages the broker gets them, and readers map the same ones.
/// Each is the other's control.
#[test]
fn huge_pages_are_used_or_the_log_says_why_not() {
    let env = Environment::new(LIMIT);
    let serve = |name: &str, memory: &str| {
        let args = ["--memory", memory, "--hugepages", "--capacity", "3MiB", "--linger", "forever"];
        env.broker(name, "gen:rate=max,count=1000", &args)
    };
    let verify = |name: &str| {
        let cat = env.run("ringcat", &[name, "--from", "oldest", "-n", "1000", "--verify"]);
        assert!(cat.status.success(), "{}", String::from_utf8_lossy(&cat.stderr));
    };
    let named = serve("named", "shm");
    let said = named.process.stderr();
    assert!(said.contains("--hugepages: reserved 2 MiB pages: only with --memory memfd"), "{said}");
    assert!(
        said.contains("2 MiB pages (transparent") || said.contains("shmem_enabled is"),
        "{said}"
    );
    verify("named");
    named.end();

    let free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    if std::fs::read_to_string(free).is_ok_and(|n| n.trim() == "0") {
        let without = serve("without", "memfd");
        let said = without.process.stderr();
        assert!(said.contains("0 free: sysctl vm.nr_hugepages="), "{said}");
        assert_page_kib(without.process.pid(), "memfd:ringweir-ring", 4);
        verify("without");
        without.end();
    }
    match Reserved::at_least(8) {
        None => Part("reserved huge pages").skip("needs eight free huge pages (root, memory)"),
        Some(_given_back) => {
            let with = serve("with", "memfd");
            let said = with.process.stderr();
            assert!(
                said.contains("memfd in 2 MiB pages") && !said.contains("--hugepages:"),
                "{said}"
            );
            assert_page_kib(with.process.pid(), "memfd:ringweir-ring", HUGE_PAGE >> 10);
            verify("with");
            with.end();
        }
    }
}
