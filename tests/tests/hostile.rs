//! A reader that attaches normally and then does everything wrong that it can: the stream, the
//! other readers and the broker are not affected, and the reader is named.

use ringweir::Options;
use ringweir::view::stats::{PumpCounter, ReaderFact, ReaderFigures, Snapshot, StreamFact};
use ringweir::view::{Viewer, describe};
use ringweir_harness::environment::{Daemon, Environment, NOBODY, Process, wait_for};
use ringweir_harness::proc;
use ringweir_helpers::mailbox::{Live, Mailbox};
use ringweir_helpers::pry;
use ringweir_needs::needs_root;
use ringweir_proto::control::{AttachRequest, Mode, Request};
use ringweir_proto::os::{lock, socket};
use rustix::process::Signal;
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

/// How the reader is named for an attack.
enum Named {
    /// The attack affects nothing outside the reader.
    NotNeeded,
    /// Its page is reported as implausible, in the figures and in the log.
    Implausible,
    /// The figures show that its sleep request fires again and again.
    SleepRequests,
    /// The log has one of these messages with its process and its user.
    Log(&'static [&'static str]),
}

/// The message on a machine that is fast enough to reach this limit first.
const FAST: &str = "times per second";
const ATTACKS: [(&str, Named); 19] = [
    ("cursors", Named::Implausible),
    ("future", Named::Implausible),
    ("scribble", Named::Implausible),
    ("latency", Named::NotNeeded),
    ("sleep-request", Named::SleepRequests),
    ("watchers", Named::SleepRequests),
    ("fill", Named::NotNeeded),
    ("lock", Named::NotNeeded),
    ("pry", Named::NotNeeded),
    ("handshake", Named::Log(&["it connected and sent no request", FAST])),
    ("fds", Named::Log(&["without file descriptors", FAST])),
    ("flood", Named::Log(&["control message", FAST])),
    ("talk", Named::Log(&["it sent data after its request", FAST])),
    ("linger", Named::NotNeeded),
    ("poll", Named::NotNeeded),
    ("hoard", Named::NotNeeded),
    ("unread", Named::NotNeeded),
    ("names", Named::NotNeeded),
    ("fork", Named::NotNeeded),
];

struct Siege {
    env: Environment,
    mailbox: Mailbox,
    broker: Daemon,
    watch: Viewer,
    honest: Vec<Process>,
}

impl Siege {
    /// A stream whose ring goes back further than any test machine pauses, and two readers that
    /// keep up.
    fn lay(name: &str) -> Self {
        let env = Environment::new(LIMIT * 4);
        let mailbox = Mailbox::create(2);
        let id = NOBODY.to_string();
        let more =
            ["--allow-uid", &id, "--wait-readers", "2", "--depth", "131072", "--capacity", "16MiB"];
        let broker = env.broker(
            name,
            "gen:rate=1000/s,size=24..256",
            &[&more[..], &["--max-datagram", "256"]].concat(),
        );
        let watch = Viewer::attach(broker.path()).unwrap();
        let mut siege = Self { env, mailbox, broker, watch, honest: Vec::new() };
        for (slot, kind) in ["--from=start", "--view"].into_iter().enumerate() {
            let mut command = siege.env.command("ringtest-reader");
            command.args([
                siege.broker.path(),
                "--mailbox",
                siege.mailbox.id(),
                "--slot",
                &slot.to_string(),
            ]);
            command.args(["--label", "honest", kind]);
            siege.honest.push(siege.env.start(command));
        }
        (0..2).for_each(|slot| siege.continues(slot));
        siege
    }

    /// A hostile reader of another user, with its seed in `stderr`.
    fn hostile(&self, args: &[&str]) -> Process {
        let mut command = self.env.command_as_nobody("ringtest-hostile");
        command.args(["run", self.broker.path()]).args(args).stdout(Stdio::piped());
        self.env.start(command)
    }

    /// Reader `slot` receives more than it has now.
    fn continues(&self, slot: usize) {
        let delivered = || self.mailbox.slot(slot).live(Live::Delivered);
        let before = delivered();
        let more = wait_for(LIMIT, || (delivered() > before).then_some(()));
        assert!(more.is_some(), "reader {slot} stands at {before}");
    }

    /// The stream flows, the broker answers requests, and a new reader can attach.
    fn all_is_well(&self, during: &str) {
        (0..2).for_each(|slot| self.continues(slot));
        describe(self.broker.path()).unwrap_or_else(|e| panic!("{during}: {e}"));
        let shown = self.env.run("ringstat", &[&self.broker.name, "--json"]);
        assert!(shown.status.success(), "{during}: {}", String::from_utf8_lossy(&shown.stderr));
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        // Not the sum over all readers: a plausible lie of the hostile one is believed.
        let honest: Vec<_> = shown["readers"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|r| r["label"] == "honest")
            .collect();
        assert_eq!(honest.len(), 2, "{during}: {shown}");
        assert!(
            honest.iter().all(|r| r["lost"] == 0 && r["lost_pending"] == 0),
            "{during}: {shown}"
        );
        let fresh = Options::new("fresh").attach(self.broker.path());
        fresh.unwrap_or_else(|e| panic!("{during}: {e}"));
    }

    fn snapshot(&self) -> Snapshot {
        wait_for(LIMIT, || self.watch.snapshot()).expect("figures")
    }

    /// Waits until `shown` holds. Fails at once if the culprit has ended, because it ends only if
    /// it could do what it must not.
    fn until(&self, culprit: &Process, during: &str, shown: impl Fn(&Self) -> bool) {
        let over = || matches!(proc::state(culprit.pid()), Some('Z') | None);
        let found = wait_for(LIMIT, || (shown(self) || over()).then_some(()));
        let (its, log) = (culprit.stderr(), self.broker.process.stderr());
        assert!(
            found.is_some() && !over(),
            "{during}: not shown: {:?}\n{log}\n{its}",
            self.snapshot().readers
        );
    }

    fn named(&self, culprit: &Process, attack: &str, how: &Named) {
        let (pid, uid) = (format!("pid {},", culprit.pid()), format!("uid {NOBODY})"));
        let by_log = |says: &[&str]| {
            let who = |line: &str| line.replace(" (uid", ", uid").contains(&format!("{pid} {uid}"));
            let line = |l: &str| says.iter().any(|says| l.contains(says)) && who(l);
            self.until(culprit, attack, |s| s.broker.process.stderr().lines().any(line));
        };
        let its =
            |r: &ReaderFigures| r.label == "hostile" && r.get(ReaderFact::Uid) == u64::from(NOBODY);
        let by_figure = |fact: Option<ReaderFact>, least: u64| {
            let one = |r: &ReaderFigures| its(r) && fact.is_none_or(|fact| r.get(fact) >= least);
            self.until(culprit, attack, |s| s.snapshot().readers.iter().any(one));
        };
        match how {
            Named::NotNeeded => by_figure(None, 0),
            Named::Implausible => {
                by_figure(Some(ReaderFact::Implausible), 1);
                by_log(&["reader hostile (index "]);
            }
            Named::SleepRequests => by_figure(Some(ReaderFact::SleepRequests), 100),
            Named::Log(says) => by_log(says),
        }
    }

    /// Ends it; returns how often it made each attack.
    fn enough(&self, culprit: Process) -> String {
        culprit.signal(Signal::TERM);
        let output = culprit.output();
        let (said, did) =
            (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}: {said}", output.status);
        did.lines().filter(|line| !line.ends_with(" 0")).collect::<Vec<_>>().join(", ")
    }

    /// Ends the stream. The accounts of the honest readers close over all of it, and nothing was
    /// lost.
    fn close(self) -> u64 {
        self.broker.process.signal(Signal::TERM);
        let published = self.broker.published();
        for (slot, mut process) in self.honest.into_iter().enumerate() {
            let status = process.wait();
            assert!(status.success(), "reader {slot}: {status}: {}", process.stderr());
            let report = self.mailbox.slot(slot).take();
            report.check(published).unwrap();
            assert_eq!(
                (report.delivered, report.lost, report.end),
                (published, 0, 1),
                "reader {slot}: {report:?}"
            );
        }
        published
    }
}

/// Each attack by itself, then all at random while the process is stopped and continued, then its
/// death. No other reader loses anything, the pump makes at most one wake-up per batch, the culprit
/// is named, and in the end the broker has the resources that it had before. Controls: the honest
/// readers beside it are never named, and the kernel's answers differ for the broker's own user.
#[test]
fn a_hostile_reader_harms_no_other_and_is_named() {
    if !needs_root() {
        return;
    }
    let siege = Siege::lay("hostile-siege");
    let pid = siege.broker.process.pid();
    let (fds, memory) = (proc::settled_fds(pid), proc::resident(pid));
    let (probe, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let refused_by_kernel = socket::refuse_descriptors(&probe);
    for (attack, how) in &ATTACKS {
        let culprit = siege.hostile(&["--only", attack, "--slice", "100ms"]);
        let is_stopped = *attack == "fds" && refused_by_kernel;
        siege.named(&culprit, attack, if is_stopped { &Named::NotNeeded } else { how });
        siege.all_is_well(attack);
        eprintln!("{}", siege.enough(culprit));
    }
    let mut culprit = siege.hostile(&["--slice", "50ms"]);
    for _ in 0..5 {
        siege.named(&culprit, "all at random", &Named::NotNeeded);
        culprit.stop();
        siege.all_is_well("while it is stopped");
        culprit.signal(Signal::CONT);
        siege.all_is_well("all at random");
        // It ends by itself only if it could do what it must not.
        assert_eq!(culprit.ended(), None, "{}", culprit.stderr());
    }
    culprit.kill();

    let now = siege.snapshot();
    let (batches, wakes) = (
        now.pump(PumpCounter::Batches),
        now.pump(PumpCounter::WakesInline) + now.pump(PumpCounter::WakeEvents),
    );
    assert!(wakes <= batches, "{wakes} wake-ups for {batches} batches");
    // What it was given is kept for the next reader of its user: four each, for as many as there
    // may be readers.
    let is_back = || {
        let more = proc::open_fds(pid).checked_sub(fds);
        siege.snapshot().get(StreamFact::Readers) == 2
            && more.is_some_and(|more| more % 4 == 0 && more <= 4 * 64)
    };
    let back = wait_for(LIMIT, || is_back().then_some(()));
    assert!(back.is_some(), "{fds} fds before, {} after", proc::open_fds(pid));
    let after = proc::resident(pid);
    assert!(after < memory + (16 << 20), "{memory} bytes resident before, {after} after");

    let honest = |r: &ReaderFigures| r.label == "honest" && r.get(ReaderFact::Implausible) == 0;
    assert!(siege.snapshot().readers.iter().all(honest), "{:?}", siege.snapshot().readers);
    let mut owner = siege.env.command("ringtest-hostile");
    owner.args(["run", siege.broker.path(), "--only", "pry", "--judge"]);
    let owner = siege.env.start(owner).output();
    let said = String::from_utf8_lossy(&owner.stderr);
    assert!(
        !owner.status.success() && said.contains("ring: reopen through /proc/self/fd: Ok(())"),
        "{said}"
    );
    eprintln!("{} published, nothing lost", siege.close());
}

/// A reader that never reads is lapped, a cursor ahead of the stream is not believed, and `ringstat
/// --why` reports each. Control: an honest reader beside them is not named.
#[test]
fn a_mute_reader_is_lapped_and_a_lying_one_not_believed() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let id = NOBODY.to_string();
    let small =
        ["--allow-uid", &id, "--depth", "64", "--capacity", "64KiB", "--max-datagram", "256"];
    let broker = env.broker("hostile-mute", "gen:rate=1000/s,size=24..256", &small);
    let start = |attack: &str| {
        let mut command = env.command_as_nobody("ringtest-hostile");
        command.args(["run", broker.path(), "--only", attack]).stdout(Stdio::null());
        env.start(command)
    };
    let (mute, liar) = (start("mute"), start("future"));
    let mut command = env.command("ringcat");
    let honest = env.start({
        command.args([broker.path(), "--verify"]).stdout(Stdio::null());
        command
    });
    let kind = |verdict: &Value, of: &Process| {
        let findings = verdict["findings"].as_array().cloned().unwrap_or_default();
        let kind = findings.iter().find(|f| f["pid"] == of.pid()).map(|f| f["kind"].clone());
        kind.and_then(|kind| kind.as_str().map(str::to_string))
    };
    let mut last = Value::Null;
    let reported = wait_for(LIMIT, || {
        let why = env.run("ringstat", &[&broker.name, "--why", "--json"]);
        last = serde_json::from_slice(&why.stdout).ok()?;
        let named = (kind(&last, &mute)?, kind(&last, &liar)?);
        (named == ("lapped".into(), "implausible".into())).then_some(())
    });
    assert!(reported.is_some(), "{last}");
    assert!(kind(&last, &honest).is_none_or(|k| k != "implausible"), "{last}");
    broker.end();
}

/// Whatever locks a reader holds on the ring when the broker is dead, the next broker adopts it,
/// and a dead ring does not look alive. Control: `proto/src/os/lock.rs`, where the lock of a broker
/// does keep another one out.
#[test]
fn locks_of_a_reader_do_not_prevent_adoption() {
    let env = Environment::new(LIMIT);
    let serve =
        || env.broker("hostile-locks", "gen:rate=1000/s,size=24..256", &["--max-datagram", "256"]);
    let mut broker = serve();
    let attach =
        Request::Attach(AttachRequest { label: "locks".into(), mode: Mode::Lossy, parks: true });
    let connection = socket::connect(&broker.socket).unwrap();
    socket::send(&connection, &attach.encode(), &[]).unwrap();
    let ring = socket::receive(&connection).unwrap().fds.remove(0);
    broker.process.kill();
    pry::take_locks(&ring);
    let again = std::fs::File::open(env.objects().remove(0)).unwrap();
    let free = rustix::fs::flock(&again, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert_eq!(free, Err(rustix::io::Errno::WOULDBLOCK), "it holds what it can");
    assert!(!lock::object_is_held(&again).unwrap(), "the lock of a reader passes for a broker's");
    let broker = serve();
    assert!(
        broker.process.stderr().contains("hostile-locks gen 2 (adopted"),
        "{}",
        broker.process.stderr()
    );
    drop((ring, again));
    broker.end();
}
