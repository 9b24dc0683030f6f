//! `ringctl doctor` on a machine with each fault planted in turn: first in a tree of files, where
//! everything can be planted and a healthy tree gives no finding at all; then for real, where the
//! fix that it names is run and the finding disappears.

use ringweir_harness::{Environment, programs, wait_for};
use ringweir_needs::{Part, needs, needs_mount_namespaces, needs_root};
use ringweir_proto::os::paths;
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);
const ALL: &str = "CapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-3";
/// Only the right to read files, so that root finds what any user would.
const NONE: &str = "CapEff:\t0000000000000000\nCpus_allowed_list:\t0-3";

fn rows(json: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(json).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

/// Findings that are not ok: check, state, fix.
fn bad(rows: &[Value]) -> Vec<(String, String, String)> {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let bad = rows.iter().filter(|r| r["state"] != "ok");
    bad.map(|r| (text(r, "check"), text(r, "state"), text(r, "fix"))).collect()
}

fn of<'r>(rows: &'r [Value], check: &str) -> &'r Value {
    rows.iter().find(|r| r["check"] == check).unwrap_or_else(|| panic!("no {check} in {rows:?}"))
}

/// A healthy machine as a tree of files.
struct Tree<'s> {
    env: &'s Environment,
    root: PathBuf,
}

impl<'s> Tree<'s> {
    fn healthy(env: &'s Environment, name: &str) -> Self {
        let tree = Self { env, root: env.path(name) };
        std::fs::create_dir_all(tree.root.join("dev/shm")).unwrap();
        tree.put("proc/self/status", ALL);
        tree.limits("unlimited", "99", "1048576");
        tree.put(
            "proc/self/mounts",
            "tmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
        );
        tree.put("proc/self/cgroup", "0::/a/b\n");
        tree.put("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
        tree.put("sys/fs/cgroup/a/b/memory.max", "max\n");
        tree.put("proc/sys/kernel/sched_rt_runtime_us", "-1\n");
        tree.put("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
        tree.put("proc/sys/net/core/rmem_max", "67108864\n");
        tree.put("sys/devices/system/cpu/online", "0-3\n");
        tree.put("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n");
        let clock = "sys/devices/system/clocksource/clocksource0";
        tree.put(&format!("{clock}/current_clocksource"), "tsc\n");
        tree.put(&format!("{clock}/available_clocksource"), "tsc hpet acpi_pm\n");
        tree.put(
            "proc/meminfo",
            "HugePages_Total: 64\nHugePages_Free: 64\nHugePages_Rsvd: 0\nHugepagesize: 2048 kB\n",
        );
        tree
    }

    fn put(&self, path: &str, content: &str) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn limits(&self, memlock: &str, rtprio: &str, files: &str) {
        let line = |name: &str, value: &str| format!("{name:<26}{:<21}{:<21}units\n", value, value);
        let text = line("Max locked memory", memlock) + &line("Max realtime priority", rtprio);
        self.put("proc/self/limits", &(text + &line("Max open files", files)));
    }

    fn doctor(&self, front: &[&str], args: &[&str]) -> (i32, Vec<Value>) {
        let ringctl = programs::path("ringctl");
        let mut command = match front {
            [] => self.env.command_at(&ringctl),
            [program, rest @ ..] => {
                // At a path that other users can reach.
                let copy = self.env.path("ringctl");
                programs::copy("ringctl", &copy);
                let mut command = self.env.command_at(Path::new(program));
                command.args(rest).arg(copy);
                command
            }
        };
        command
            .args(["doctor", "--json", "--root"])
            .arg(&self.root)
            .args(args)
            .stdout(Stdio::piped());
        let output = self.env.start(command).output();
        (output.status.code().expect("an exit"), rows(&output.stdout))
    }
}

type Plant = fn(&Tree);

/// Each fault gives exactly its finding, with its fix; `healthy` is the control of them all.
#[test]
fn each_planted_fault_gives_its_finding_and_no_other() {
    let env = Environment::new(LIMIT);
    let huge = ["--hugepages"];
    let healthy = Tree::healthy(&env, "healthy");
    assert_eq!(healthy.doctor(&[], &huge), (0, healthy.doctor(&[], &huge).1));
    assert_eq!(bad(&healthy.doctor(&[], &huge).1), [], "a healthy machine has no finding");

    let faults: &[(&str, &str, &str, Plant)] = &[
        ("locked-memory", "warn", "prlimit --pid $$ --memlock=", |t| {
            t.put("proc/self/status", &ALL.replace("ffffffffff\n", "ffffffbfff\n"));
            t.limits("65536", "99", "1048576");
        }),
        ("real-time", "warn", "prlimit --pid $$ --rtprio=60:60", |t| {
            t.put("proc/self/status", &ALL.replace("ffffffffff\n", "ffff7fffff\n"));
            t.limits("unlimited", "0", "1048576");
        }),
        ("open-files", "warn", "prlimit --pid $$ --nofile=1632:1632", |t| {
            t.limits("unlimited", "99", "128")
        }),
        ("packet-capture", "warn", "setcap cap_net_raw+ep", |t| t.put("proc/self/status", NONE)),
        ("receive-buffers", "warn", "sysctl -w net.core.rmem_max=8388608", |t| {
            t.put("proc/self/status", &ALL.replace("ffffffffff\n", "ffffffefff\n"));
            t.put("proc/sys/net/core/rmem_max", "212992\n");
        }),
        ("throttling", "warn", "sysctl -w kernel.sched_rt_runtime_us=-1", |t| {
            t.put("proc/sys/kernel/sched_rt_runtime_us", "950000\n");
        }),
        ("throttling", "warn", "fair_server/cpu*/runtime", |t| {
            t.put("proc/sys/kernel/sched_rt_runtime_us", "950000\n");
            t.put("proc/sys/kernel/osrelease", "6.12.1\n");
            t.put("sys/kernel/debug/sched/fair_server/cpu0/runtime", "0\n");
            t.put("sys/kernel/debug/sched/fair_server/cpu1/runtime", "50000000\n");
        }),
        ("real-time-group", "fail", "echo 950000 > /cg/cpu/x/cpu.rt_runtime_us", |t| {
            t.put("proc/self/cgroup", "1:cpuacct,cpu:/x\n");
            t.put(
                "proc/self/mounts",
                "tmpfs /dev/shm tmpfs rw 0 0\ncgroup /cg/cpu cgroup rw,cpu,cpuacct 0 0\n",
            );
            t.put("cg/cpu/x/cpu.rt_runtime_us", "0\n");
        }),
        ("cpu-limit", "warn", "echo -1 > /cg/cpu/x/cpu.cfs_quota_us", |t| {
            t.put("proc/self/cgroup", "1:cpu:/x\n");
            t.put(
                "proc/self/mounts",
                "tmpfs /dev/shm tmpfs rw 0 0\ncgroup /cg/cpu cgroup rw,cpu 0 0\n",
            );
            t.put("cg/cpu/x/cpu.cfs_quota_us", "50000\n");
            t.put("cg/cpu/x/cpu.cfs_period_us", "100000\n");
        }),
        ("cpu-limit", "warn", "echo max > /sys/fs/cgroup/a/cpu.max", |t| {
            t.put("sys/fs/cgroup/a/cpu.max", "50000 100000\n");
        }),
        ("memory-limit", "fail", "echo max > /sys/fs/cgroup/a/b/memory.max", |t| {
            t.put("sys/fs/cgroup/a/b/memory.max", "67108864\n");
            t.put("sys/fs/cgroup/a/b/memory.current", "66000000\n");
        }),
        ("processors", "warn", "taskset -pc 0-3 $$", |t| {
            t.put("proc/self/status", &ALL.replace("0-3", "2"))
        }),
        (
            "governor",
            "warn",
            "echo performance | tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
            |t| {
                t.put("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n");
            },
        ),
        (
            "clock",
            "warn",
            "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource",
            |t| {
                t.put("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
            },
        ),
        ("shared-memory", "fail", "mount -t tmpfs", |t| t.put("proc/self/mounts", "")),
        ("shared-memory", "fail", "mount -o remount,rw /dev/shm", |t| {
            t.put(
                "proc/self/mounts",
                "tmpfs /dev/shm tmpfs rw 0 0\ntmpfs /dev/shm tmpfs ro,nosuid 0 0\n",
            );
        }),
        ("shared-memory", "fail", "mount -t tmpfs", |t| {
            t.put("proc/self/mounts", "/dev/sda1 /dev/shm ext4 rw 0 0\n")
        }),
        ("huge-pages", "warn", "sysctl -w vm.nr_hugepages=67", |t| {
            t.put(
                "proc/meminfo",
                "HugePages_Total: 64\nHugePages_Free: 2\nHugePages_Rsvd: \
                0\nHugepagesize: 2048 kB\n",
            );
        }),
    ];
    for (i, (check, state, fix, plant)) in faults.iter().enumerate() {
        let tree = Tree::healthy(&env, &format!("fault{i}"));
        plant(&tree);
        let (status, rows) = tree.doctor(&[], &huge);
        let found = bad(&rows);
        assert_eq!(found.len(), 1, "{check}: {found:?}");
        let (found_check, found_state, found_fix) = &found[0];
        assert_eq!((found_check.as_str(), found_state.as_str()), (*check, *state), "{found:?}");
        // A user's fix has `sudo`, and writes a value through `tee`; root's fix writes it directly.
        let lines = [found_fix.replace("sudo ", ""), found_fix.replace("| sudo tee ", "> ")];
        assert!(lines.iter().any(|line| line.contains(fix)), "{check}: {found_fix}");
        assert_eq!(status, i32::from(*state == "fail"), "{check}");
        assert_eq!(tree.doctor(&[], &["--hugepages", "--strict"]).0, 1, "{check}: --strict");
    }
    // A limit with room, and servers that are off, are no faults.
    let roomy = Tree::healthy(&env, "roomy");
    roomy.put("sys/fs/cgroup/a/b/memory.max", "1073741824\n");
    roomy.put("proc/sys/kernel/sched_rt_runtime_us", "950000\n");
    roomy.put("proc/sys/kernel/osrelease", "6.12.1\n");
    roomy.put("sys/kernel/debug/sched/fair_server/cpu0/runtime", "0\n");
    assert_eq!(bad(&roomy.doctor(&[], &huge).1), []);
    assert_eq!(bad(&roomy.doctor(&[], &["--ring", "2GiB"]).1)[0].0, "memory-limit");
}

/// logind's configuration in all its places: the last setting counts, and it concerns ordinary
/// users only.
#[test]
fn remove_ipc_is_found_in_every_configuration_file() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let user = ["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups"];
    let (yes, no) = ("[Login]\nRemoveIPC=yes\n", "[Login]\n#RemoveIPC=yes\n RemoveIPC = no\n");
    let conf = "etc/systemd/logind.conf";
    let drop = |dir: &str, name: &str| format!("{dir}/systemd/logind.conf.d/{name}");
    let table: Vec<(Vec<(String, &str)>, bool)> = vec![
        (vec![], true),
        (vec![(conf.into(), no)], false),
        (vec![(conf.into(), "[Other]\nRemoveIPC=no\n")], true),
        (vec![(conf.into(), no), (drop("usr/lib", "10-a.conf"), yes)], true),
        (vec![(drop("usr/lib", "10-a.conf"), yes), (drop("etc", "zz-ringweir.conf"), no)], false),
        (vec![(drop("etc", "10-a.conf"), no), (drop("run", "20-b.conf"), yes)], true),
        (vec![(drop("usr/lib", "10-a.conf"), yes), (drop("etc", "10-a.conf"), no)], false),
        (vec![(drop("etc", "10-a.txt"), no)], true),
    ];
    for (i, (files, removes)) in table.into_iter().enumerate() {
        let tree = Tree::healthy(&env, &format!("logind{i}"));
        tree.put("run/systemd/seats/seat0", "");
        files.iter().for_each(|(path, content)| tree.put(path, content));
        let (_, rows) = tree.doctor(&user, &[]);
        let found = of(&rows, "remove-ipc");
        assert_eq!(found["state"], if removes { "warn" } else { "ok" }, "{files:?}: {found}");
        assert_eq!(
            found["fix"]
                .as_str()
                .is_some_and(|f| f.contains("RemoveIPC=no") && f.contains("zz-ringweir")),
            removes
        );
        assert_eq!(
            of(&tree.doctor(&[], &[]).1, "remove-ipc")["state"],
            "ok",
            "root is a system user"
        );
        std::fs::remove_dir_all(tree.root.join("run")).unwrap();
        assert_eq!(of(&tree.doctor(&user, &[]).1, "remove-ipc")["state"], "ok", "no logind");
    }
}

/// Runs in one shell: `plant`, doctor, the fix that it names for `check`, and doctor again. Returns
/// both findings.
fn mended(
    env: &Environment,
    front: &[&str],
    plant: &str,
    check: &str,
    args: &str,
) -> (Vec<Value>, String, Vec<Value>) {
    let dir = env.path(&format!("mended-{check}"));
    std::fs::create_dir_all(&dir).unwrap();
    let script = format!(
        "{plant}\n\
         ringctl doctor --json {args} > {0}/before || true\n\
         fix=$(python3 -c 'import json,sys; print([r[\"fix\"] for r in map(json.loads, sys.stdin) \
         if r[\"check\"] == sys.argv[1]][0] or \"\")' {check} < {0}/before)\n\
         eval \"$fix\" > {0}/mending 2>&1 || true\n\
         ringctl doctor --json {args} > {0}/after || true",
        dir.display()
    );
    let words = [front, &["bash", "-ec", &script]].concat();
    let mut command: Command = env.command_at(Path::new(words[0]));
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .args(&words[1..])
        .env("PATH", format!("{}:{path}", programs::build().display()))
        .stdout(Stdio::piped());
    let output: Output = env.start(command).output();
    assert!(output.status.success(), "{plant}: {}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    (
        rows(&read("before")),
        String::from_utf8_lossy(&read("mending")).into_owned(),
        rows(&read("after")),
    )
}

/// Planted for real, and fixed by that very line. Control: on the machine as it is, each check is
/// ok.
#[test]
fn the_named_fix_mends_the_planted_fault() {
    if !needs_root() || !needs("python3") || !needs_mount_namespaces() {
        return;
    }
    let env = Environment::new(LIMIT);
    let mount = ["unshare", "--mount", "--propagation", "private"];
    let without = |capability: &'static str| ["setpriv", "--bounding-set", capability];
    let missing = format!("export {}={}/x/y", paths::RUN_DIR_ENV, env.path("nowhere").display());
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    // Whether a hard limit can be raised again; root in a container may not.
    let raise = Command::new("bash")
        .args(["-c", "ulimit -n 100 && prlimit --pid $$ --nofile=200:200"])
        .output();
    let raise = raise.is_ok_and(|o| o.status.success());
    let mut plants: Vec<(&[&str], &str, &str, &str, &str)> = vec![
        (&mount, "mount -t tmpfs -o size=4m tmpfs /dev/shm", "shared-memory", "fail", ""),
        (&mount, "mount -t tmpfs -o ro tmpfs /dev/shm", "shared-memory", "fail", ""),
        (&mount, "while umount -l /dev/shm 2> /dev/null; do :; done", "shared-memory", "fail", ""),
        (&["bash", "-c", "exec \"$@\"", "-"], &missing, "run-directory", "fail", ""),
    ];
    let no_lock = without("-ipc_lock");
    let (no_nice, no_raw) = (without("-sys_nice"), without("-net_raw"));
    plants.push((&no_lock, "ulimit -S -l 64", "locked-memory", "warn", "--ring 1MiB"));
    if online.trim() != "0" {
        plants.push((&["taskset", "-c", "0"], ":", "processors", "warn", ""));
    }
    let raw = format!(
        "mkdir -p {0}; cp $(command -v ringd) {0}/ringd; PATH={0}:$PATH",
        env.path("capable").display()
    );
    if Part("packet-capture").needs("setcap") {
        plants.push((&no_raw, &raw, "packet-capture", "warn", ""));
    }
    if raise {
        plants.push((&["env"], "ulimit -n 128", "open-files", "warn", ""));
        plants.push((&no_nice, "ulimit -r 0", "real-time", "warn", ""));
    } else {
        Part("open-files, real-time").skip("needs to raise hard limits (CAP_SYS_RESOURCE)");
        let (before, ..) = mended(&env, &["env"], "ulimit -n 128", "open-files", "");
        assert_eq!(of(&before, "open-files")["state"], "warn");
        let (before, ..) = mended(&env, &no_nice, "ulimit -r 0", "real-time", "");
        assert_eq!(of(&before, "real-time")["state"], "warn");
    }
    let as_it_is = rows(&env.run("ringctl", &["doctor", "--json", "--ring", "1MiB"]).stdout);
    for (front, plant, check, state, args) in plants {
        assert_eq!(of(&as_it_is, check)["state"], "ok", "control");
        let (before, mending, after) = mended(&env, front, plant, check, args);
        assert_eq!(of(&before, check)["state"], state, "{plant}: {before:?}");
        assert_eq!(
            of(&after, check)["state"],
            "ok",
            "{plant}: {} said {mending}",
            of(&before, check)["fix"]
        );
    }
}

/// Control groups of the kernel itself, made for the test and removed again.
#[test]
fn limits_of_control_groups_are_found_and_lifted() {
    if !needs_root() || !needs("python3") {
        return;
    }
    let env = Environment::new(LIMIT);
    for (controller, plant, check, state, args) in [
        ("memory", "echo 64M > $g/memory.limit_in_bytes", "memory-limit", "fail", "--ring 100MiB"),
        ("cpu", ":", "real-time-group", "fail", ""),
        ("cpu", "echo 50000 > $g/cpu.cfs_quota_us", "cpu-limit", "warn", ""),
    ] {
        let group = PathBuf::from(format!(
            "/sys/fs/cgroup/{controller}/ringweir-test-{}",
            std::process::id()
        ));
        if std::fs::create_dir(&group).is_err() {
            Part(check).skip(format_args!("needs control groups of version 1 ({controller})"));
            continue;
        }
        let plant = format!("g={}; echo $$ > $g/cgroup.procs; {plant}", group.display());
        let known = controller != "cpu"
            || check != "real-time-group"
            || group.join("cpu.rt_runtime_us").exists();
        let done = std::panic::catch_unwind(|| mended(&env, &["env"], &plant, check, args));
        // The kernel frees a process's group a moment after the process has ended.
        wait_for(Duration::from_secs(10), || std::fs::remove_dir(&group).is_ok().then_some(()))
            .expect("rmdir");
        let (before, mending, after) = done.unwrap_or_else(|e| std::panic::resume_unwind(e));
        if !known {
            Part(check).skip("needs a kernel that limits real time by control group");
            continue;
        }
        assert_eq!(of(&before, check)["state"], state, "{before:?}");
        assert_eq!(of(&after, check)["state"], "ok", "{}: {mending}", of(&before, check)["fix"]);
    }
}

fn doctor(env: &Environment, args: &[&str]) -> Vec<Value> {
    rows(&env.run("ringctl", &[&["doctor", "--json", "--window", "0.3"], args].concat()).stdout)
}

fn shell(line: &str) {
    let output = Command::new("bash").args(["-c", line]).output().expect("bash");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A running stream: class of its pump, its memory, its readers, its broker; the fix of each works.
#[test]
fn faults_of_a_running_stream_are_found_and_fixed() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let nothing = env.run("ringctl", &["doctor", "doc-none"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("no stream \"doc-none\""));
    let fix =
        |rows: &[Value], check: &str| of(rows, check)["fix"].as_str().expect("a line").to_owned();

    let args = ["--depth", "1024", "--capacity", "256KiB", "--max-datagram", "1KiB"];
    let broker = env.broker("doc-run", "gen:rate=2000/s,size=64", &args);
    let mut command = env.command("ringcat");
    command.args(["doc-run", "--verify", "--label", "monitor"]).stdout(Stdio::null());
    let reader = env.start(command);
    let attached = || {
        doctor(&env, &["doc-run"]).iter().any(|r| r["text"].as_str().unwrap().contains("1 readers"))
    };
    wait_for(Duration::from_secs(20), || attached().then_some(())).expect("attached");
    let before = doctor(&env, &["doc-run"]);
    for check in ["pump-faults", "ring-memory", "readers", "sockets", "leftovers"] {
        assert_eq!(of(&before, check)["state"], "ok", "{before:?}");
    }

    assert_eq!(of(&before, "pump-class")["state"], "warn");
    if Part("pump-class").needs_realtime() {
        shell(&fix(&before, "pump-class"));
        let after = doctor(&env, &["doc-run"]);
        assert_eq!(of(&after, "pump-class")["state"], "ok");
        assert!(of(&after, "pump-class")["text"].as_str().unwrap().contains("FIFO/60"));
    }

    reader.stop();
    let behind =
        || Some(doctor(&env, &["doc-run"])).filter(|r| of(r, "readers")["state"] == "warn");
    let found = wait_for(Duration::from_secs(20), behind).expect("a stopped reader is found");
    assert!(of(&found, "readers")["text"].as_str().unwrap().contains("monitor"));
    assert_eq!(fix(&found, "readers"), format!("kill -CONT {}", reader.pid()));
    shell(&fix(&found, "readers"));
    wait_for(Duration::from_secs(20), || behind().is_none().then_some(())).expect("it catches up");

    // A stopped broker does not answer until it is continued.
    broker.process.stop();
    let found = doctor(&env, &[]);
    assert_eq!(of(&found, "sockets")["state"], "fail");
    assert_eq!(fix(&found, "sockets"), format!("kill -CONT {}", broker.process.pid()));
    shell(&fix(&found, "sockets"));
    wait_for(Duration::from_secs(20), || {
        (of(&doctor(&env, &[]), "sockets")["state"] == "ok").then_some(())
    })
    .expect("on");
    drop(reader);
    broker.end();

    // A broker that may not lock memory, and one that is dead.
    let mut command = env.command_at(Path::new("setpriv"));
    command.args(["--bounding-set", "-ipc_lock", "bash", "-c", "ulimit -l 64; exec \"$@\"", "-"]);
    command.arg(programs::path("ringd")).args([
        "run",
        "--name",
        "doc-swap",
        "--source",
        "gen:rate=100/s,size=64",
    ]);
    let mut loose = env.broker_of("doc-swap", command);
    let found = doctor(&env, &["doc-swap"]);
    assert_eq!(of(&found, "ring-memory")["state"], "warn", "{found:?}");
    assert!(fix(&found, "ring-memory").starts_with("ulimit -l unlimited"));
    loose.process.signal(Signal::KILL);
    loose.process.wait();
    let found = doctor(&env, &[]);
    assert_eq!(fix(&found, "leftovers"), "ringctl gc");
    assert!(env.run("ringctl", &["gc"]).status.success());
    assert_eq!(of(&doctor(&env, &[]), "leftovers")["state"], "ok");
}

/// Sockets that keep this user out: by mode, by group, by the broker's list.
#[test]
fn a_user_who_may_not_attach_gets_the_fix() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let _closed = env.broker("doc-closed", "gen:rate=10/s,size=64", &[]);
    let _grouped = env.broker("doc-group", "gen:rate=10/s,size=64", &["--group", "daemon"]);
    let _listed = env.broker("doc-listed", "gen:rate=10/s,size=64", &["--socket-mode", "0666"]);
    let _open = env.broker("doc-open", "gen:rate=10/s,size=64", &["--allow-uid", "1234"]);
    let tree = Tree::healthy(&env, "sockets");
    tree.put("etc/group", "root:x:0:\ndaemon:x:1:\n");
    let (_, rows) =
        tree.doctor(&["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups"], &[]);
    let fix = |name: &str| {
        let found = rows
            .iter()
            .find(|r| r["check"] == "sockets" && r["text"].as_str().unwrap().contains(name));
        found.map(|r| r["fix"].as_str().expect("a line").to_owned())
    };
    assert!(fix("doc-closed").is_some_and(|f| f.contains("--group")), "{rows:?}");
    assert!(fix("doc-group").is_some_and(|f| f.contains("usermod -aG daemon")), "{rows:?}");
    assert!(fix("doc-listed").is_some_and(|f| f.contains("--allow-uid 1234")), "{rows:?}");
    assert_eq!(fix("doc-open"), None, "{rows:?}");
    assert_eq!(of(&tree.doctor(&[], &[]).1, "sockets")["state"], "ok", "root may");
}
