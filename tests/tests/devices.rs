//! `ringctl devices` on planted machines: each state of a device with its cause, and beside it the
//! same machine without the cause. Nodes are real ones, with a device number that no driver has, so
//! that no device of this machine can be opened.

use ringweir_harness::{Environment, programs};
use ringweir_needs::needs_root;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::Value;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// Linux reserves it for local use: no driver of ours or of a distribution has it.
const MAJOR: u32 = 241;
const GROUP: u32 = 54_321;
const NOBODY: u32 = 65_534;

/// A machine with ringshim, without a device, and only the users root and nobody.
struct Tree<'s> {
    env: &'s Environment,
    root: PathBuf,
}

impl<'s> Tree<'s> {
    fn new(env: &'s Environment, name: &str) -> Self {
        let tree = Self { env, root: env.path(name) };
        tree.put("etc/passwd", "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n");
        tree.put("etc/group", "root:x:0:\nringweir:x:54321:\n");
        tree.put("proc/interrupts", "  CPU0\n  1:   0   IO-APIC   1-edge      i8042\n");
        tree.put("proc/sys/kernel/osrelease", "6.1.0\n");
        tree.put("proc/1/comm", "init\n");
        std::fs::create_dir_all(tree.root.join("proc/1/fd")).unwrap();
        std::fs::create_dir_all(tree.root.join("sys/class")).unwrap();
        std::fs::create_dir_all(tree.root.join("dev")).unwrap();
        tree
    }

    fn put(&self, path: &str, content: &str) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn link(&self, path: &str, to: impl AsRef<Path>) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    fn node(&self, name: &str, mode: u32, group: u32, (major, minor): (u32, u32)) -> PathBuf {
        let path = self.root.join("dev").join(name);
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from(0o600), makedev(major, minor))
            .unwrap();
        chown(&path, Some(0), Some(group)).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }

    /// Adds a PCI device with this id and a BAR 2 of 1 MiB.
    fn pci(&self, bus: &str, (vendor, device): (&str, &str), driver: Option<&str>) {
        let dir = format!("sys/bus/pci/devices/{bus}");
        self.put(&format!("{dir}/vendor"), vendor);
        self.put(&format!("{dir}/device"), device);
        let none = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
        let bar = "0x00000000fe000000 0x00000000fe0fffff 0x000000000014220c\n";
        self.put(&format!("{dir}/resource"), &format!("{none}{none}{bar}"));
        self.put(&format!("{dir}/irq"), "11\n");
        if let Some(driver) = driver {
            std::fs::create_dir_all(self.root.join("sys/bus/pci/drivers").join(driver)).unwrap();
            self.link(&format!("{dir}/driver"), format!("../../drivers/{driver}"));
        }
    }

    /// Adds device number `n` of ringshim.
    fn shim(&self, n: u32, mode: u32, group: u32) -> PathBuf {
        let bus = format!("0000:00:0{n}.0");
        self.pci(&bus, ("0x1af4", "0x1110"), Some("ringshim"));
        self.put(&format!("sys/class/ringshim/ringshim{n}/dev"), &format!("{MAJOR}:{n}\n"));
        self.link(
            &format!("sys/class/ringshim/ringshim{n}/device"),
            format!("../../../bus/pci/devices/{bus}"),
        );
        self.node(&format!("ringshim{n}"), mode, group, (MAJOR, n))
    }

    fn refcnt(&self, count: u32) {
        self.put("sys/module/ringshim/refcnt", &format!("{count}\n"));
    }

    /// Adds a process that has a node open.
    fn opens(&self, pid: u32, command: &str, node: &Path) {
        self.put(&format!("proc/{pid}/comm"), &format!("{command}\n"));
        self.link(&format!("proc/{pid}/fd/5"), node);
        self.link(&format!("proc/{pid}/fd/6"), "socket:[4711]");
    }

    fn uio(&self, (major, minor): (u32, u32), size: &str) -> PathBuf {
        self.pci("0000:00:06.0", ("0x10ee", "0x9038"), Some("uio_pci_generic"));
        self.put("sys/class/uio/uio0/dev", &format!("{major}:{minor}\n"));
        self.put("sys/class/uio/uio0/name", "my board\n");
        self.put("sys/class/uio/uio0/version", "0.01.0\n");
        self.put("sys/class/uio/uio0/maps/map0/size", size);
        self.put("sys/class/uio/uio0/maps/map0/offset", "0x0\n");
        self.link("sys/class/uio/uio0/device", "../../../bus/pci/devices/0000:00:06.0");
        self.put("sys/bus/pci/devices/0000:00:06.0/uio/uio0/name", "my board\n");
        self.node("uio0", 0o600, 0, (major, minor))
    }

    /// Runs it; returns exit status, standard output and error.
    fn said(&self, front: &[&str], args: &[&str]) -> (i32, String, String) {
        let mut command = match front {
            [] => self.env.command_at(&programs::path("ringctl")),
            [program, rest @ ..] => {
                // At a path that other users can reach.
                let copy = self.env.path("ringctl");
                if !copy.exists() {
                    programs::copy("ringctl", &copy);
                }
                let mut command = self.env.command_at(Path::new(program));
                command.args(rest).arg(copy);
                command
            }
        };
        command.args(["devices", "--root"]).arg(&self.root).args(args).stdout(Stdio::piped());
        let output = self.env.start(command).output();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().expect("an exit"), text(&output.stdout), text(&output.stderr))
    }

    fn rows(&self, front: &[&str], args: &[&str]) -> Vec<Value> {
        let (status, out, err) = self.said(front, &[&["--json"], args].concat());
        assert_eq!((status, err.as_str()), (0, ""), "{out}");
        out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
    }

    /// State and fix of the only device.
    fn state(&self, front: &[&str], args: &[&str]) -> (String, String) {
        let rows = self.rows(front, args);
        assert_eq!(rows.len(), 1, "{rows:?}");
        let text = |key: &str| rows[0][key].as_str().unwrap_or_default().to_owned();
        (text("state"), text("fix"))
    }
}

fn pair(state: &str, fix: &str) -> (String, String) {
    (state.into(), fix.into())
}

/// The user nobody, with these additional groups.
fn nobody(groups: &'static str) -> [&'static str; 6] {
    let groups = if groups.is_empty() { "--clear-groups" } else { groups };
    ["setpriv", "--reuid", "65534", "--regid", "65534", groups]
}

#[test]
fn without_devices_one_line_says_where_it_looked_and_what_to_do() {
    let env = Environment::new(LIMIT);
    let tree = Tree::new(&env, "empty");
    // Not ours: another device of the same vendor.
    tree.pci("0000:00:04.0", ("0x1af4", "0x1000"), Some("virtio-pci"));
    let (status, out, err) = tree.said(&[], &[]);
    assert_eq!((status, out.as_str(), err.lines().count()), (1, "", 1), "{err}");
    for part in ["/sys/class/ringshim", "/sys/class/uio", "1af4:1110", "new_id", "ringctl demo"] {
        assert!(err.contains(part), "{part}: {err}");
    }
    std::fs::remove_dir_all(tree.root.join("sys")).unwrap();
    assert!(tree.said(&[], &["--json"]).2.contains("mount -t sysfs sysfs /sys"));
    assert_eq!(tree.said(&[], &["--jsn"]).0, 2);
}

#[test]
fn a_ringshim_device_is_ready_until_a_process_opens_it() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let tree = Tree::new(&env, "shim");
    let first = tree.shim(0, 0o660, GROUP);
    tree.shim(1, 0o660, GROUP);
    tree.refcnt(0);
    tree.put(
        "proc/interrupts",
        "CPU0\n 24:  2  PCI-MSI 65536-edge   ringshim0\n 11:  0  IO-APIC 11-fasteoi   eth0, \
        ringshim1\n",
    );
    tree.put("sys/bus/pci/devices/0000:00:00.0/msi_irqs/24", "msix\n");

    let rows = tree.rows(&[], &[]);
    assert_eq!(
        (&rows[0]["source"], &rows[0]["bus"]),
        (&"shim:/dev/ringshim0".into(), &"0000:00:00.0".into())
    );
    assert_eq!((&rows[0]["id"], &rows[0]["driver"]), (&"1af4:1110".into(), &"ringshim".into()));
    assert_eq!(rows[0]["memory"], serde_json::json!([{ "name": "BAR2", "bytes": 1 << 20 }]));
    assert_eq!((&rows[0]["mode"], &rows[0]["group"]), (&"crw-rw----".into(), &"ringweir".into()));
    assert_eq!((&rows[0]["interrupts"], &rows[1]["interrupts"]), (&"MSI-X".into(), &"INTx".into()));
    assert!(rows.iter().all(|r| r["state"] == "ready"), "{rows:?}");

    tree.opens(4121, "ringd", &first);
    tree.refcnt(1);
    let (status, out, _) = tree.said(&[], &[]);
    assert!(
        status == 0 && out.lines().nth(1).unwrap().ends_with("  busy: drained by 4121 ringd"),
        "{out}"
    );
    assert!(out.lines().nth(2).unwrap().ends_with("  ready"), "only the one that is open: {out}");
    assert_eq!(tree.rows(&[], &[])[0]["held_by"][0]["pid"], 4121);

    // One more open file than the processes account for.
    tree.refcnt(2);
    let rows = tree.rows(&[], &[]);
    assert_eq!((&rows[0]["state"], &rows[1]["state"]), (&"busy".into(), &"perhaps-busy".into()));
    assert_eq!(rows[1]["fix"], "ringctl devices --probe");

    // The interrupt line of a device with a similar name does not count for this one.
    tree.put(
        "proc/interrupts",
        "CPU0\n 12:  2  IO-APIC 12-edge   ringshim0\n 24:  2  PCI-MSI 65536-edge   ringshim01\n",
    );
    assert!(tree.rows(&[], &[]).iter().all(|r| r["interrupts"] == "none"));
}

#[test]
fn without_a_module_count_unseen_processes_leave_the_state_unsure() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let tree = Tree::new(&env, "unseen");
    tree.shim(0, 0o666, 0);
    let user = nobody("");
    assert_eq!(tree.state(&user, &[]), pair("ready", ""));
    std::fs::set_permissions(tree.root.join("proc/1/fd"), PermissionsExt::from_mode(0o500))
        .unwrap();
    assert_eq!(tree.state(&user, &[]), pair("perhaps-busy", "sudo ringctl devices"));
    tree.refcnt(0);
    assert_eq!(tree.state(&user, &[]), pair("ready", ""), "the count needs no rights");
    tree.refcnt(1);
    assert_eq!(tree.state(&user, &[]).0, "perhaps-busy");
}

#[test]
fn without_permission_the_fix_is_named() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let tree = Tree::new(&env, "group");
    tree.shim(0, 0o660, GROUP);
    tree.refcnt(0);
    let join = "sudo usermod -aG ringweir \"$(id -un)\" && newgrp ringweir";
    assert_eq!(tree.state(&nobody(""), &[]), pair("no-permission", join));
    assert_eq!(tree.state(&nobody("--groups=54321"), &[]), pair("ready", ""));
    tree.put("etc/group", "ringweir:x:54321:daemon,nobody\n");
    assert_eq!(tree.state(&nobody(""), &[]).1, "newgrp ringweir", "in it since the last login");

    let tree = Tree::new(&env, "root-only");
    tree.shim(0, 0o600, 0);
    tree.refcnt(0);
    let fix = tree.state(&nobody(""), &[]).1;
    assert!(fix.starts_with("sudo make -C kmod-shim install && sudo udevadm trigger"), "{fix}");
    tree.put("etc/udev/rules.d/60-ringshim.rules", "");
    assert_eq!(tree.state(&nobody(""), &[]).1, "sudo udevadm trigger --subsystem-match=ringshim");
    assert_eq!(tree.state(&[], &[]), pair("ready", ""));
}

#[test]
fn a_missing_or_foreign_node_is_reported() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let tree = Tree::new(&env, "node");
    let node = tree.shim(3, 0o660, GROUP);
    tree.refcnt(0);
    assert_eq!(tree.state(&[], &[]).0, "ready");
    let fix = format!("rm -f /dev/ringshim3 && mknod -m 600 /dev/ringshim3 c {MAJOR} 3");
    std::fs::remove_file(&node).unwrap();
    assert_eq!(tree.state(&[], &[]), pair("no-node", &fix));
    tree.node("ringshim3", 0o660, 0, (MAJOR, 4));
    assert_eq!(tree.state(&[], &[]), pair("no-node", &fix));
    // No driver behind it: the kernel's error is reported.
    std::fs::remove_file(&node).unwrap();
    tree.node("ringshim3", 0o660, 0, (MAJOR, 3));
    let row = &tree.rows(&[], &["--probe"])[0];
    assert!(row["text"].as_str().unwrap().starts_with("cannot open it: No such device"), "{row}");
}

#[test]
fn devices_for_ringshim_come_with_the_command_that_binds_them() {
    let env = Environment::new(LIMIT);
    let root = rustix::process::geteuid().is_root();
    let sudo = |line: &str| match root {
        true => line.to_owned(),
        false if line.contains(['>', '&']) => format!("sudo sh -c '{line}'"),
        false => format!("sudo {line}"),
    };
    let tree = Tree::new(&env, "unbound");
    let bus = "0000:00:04.0";
    tree.pci(bus, ("0x1234", "0x11e8"), None);
    assert_eq!(
        tree.state(&[], &[]),
        pair("not-bound", &sudo("make -C kmod-shim install && modprobe ringshim"))
    );
    tree.put("lib/modules/6.1.0/modules.dep", "extra/ringshim.ko:\n");
    assert_eq!(tree.state(&[], &[]), pair("not-bound", &sudo("modprobe ringshim")));
    std::fs::create_dir_all(tree.root.join("sys/bus/pci/drivers/ringshim")).unwrap();
    let bind = format!("echo {bus} > /sys/bus/pci/drivers/ringshim/bind");
    assert_eq!(tree.state(&[], &[]), pair("not-bound", &sudo(&bind)));

    let tree = Tree::new(&env, "bound");
    tree.pci(bus, ("0x1af4", "0x1110"), Some("vfio-pci"));
    std::fs::create_dir_all(tree.root.join("sys/bus/pci/drivers/ringshim")).unwrap();
    let unbind = format!("echo {bus} > /sys/bus/pci/drivers/vfio-pci/unbind && {bind}");
    assert_eq!(tree.state(&[], &[]), pair("bound", &sudo(&unbind)));
    tree.put(&format!("sys/bus/pci/devices/{bus}/driver_override"), "(null)\n");
    assert_eq!(tree.state(&[], &[]).1, sudo(&unbind));
    let dir = format!("sys/bus/pci/devices/{bus}/driver_override");
    tree.put(&dir, "vfio-pci\n");
    assert_eq!(tree.state(&[], &[]).1, sudo(&format!("echo > /{dir} && {unbind}")));
    // Without BAR 2 there is no address for the map.
    tree.put(
        &format!("sys/bus/pci/devices/{bus}/resource"),
        "0x0 0x0 0x0\n0x0 0x0 0x0\n0x0 0x0 0x0\n",
    );
    assert_eq!(tree.said(&[], &[]).0, 1);
}

#[test]
fn uio_devices_are_read_only_on_request() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    // Like /dev/zero: it can be mapped, and has no register map.
    let tree = Tree::new(&env, "uio");
    let node = tree.uio((1, 5), "0x0000000000010000\n");
    let row = &tree.rows(&[], &[])[0];
    assert_eq!((&row["source"], &row["state"]), (&"uio:/dev/uio0".into(), &"not-looked-at".into()));
    assert_eq!((&row["name"], &row["driver_version"]), (&"my board".into(), &"0.01.0".into()));
    assert_eq!(row["memory"], serde_json::json!([{ "name": "map0", "bytes": 65536 }]));
    assert_eq!(row["fix"], "ringctl devices --probe");
    let row = &tree.rows(&[], &["--probe"])[0];
    assert!(
        row["state"] == "unusable"
            && row["text"].as_str().unwrap().contains("first register is 0x00000000"),
        "{row}"
    );
    let fix = format!("sudo setfacl -m u:{NOBODY}:rw /dev/uio0");
    assert_eq!(tree.state(&nobody(""), &["--probe"]), pair("no-permission", &fix));
    // A process that uses it is not disturbed, with or without `--probe`.
    tree.opens(77, "dpdk", &node);
    assert_eq!(tree.state(&[], &["--probe"]), pair("busy", ""));
    std::fs::remove_dir_all(tree.root.join("proc/77")).unwrap();
    std::fs::remove_dir_all(tree.root.join("sys/class/uio/uio0/maps")).unwrap();
    assert_eq!(tree.state(&[], &["--probe"]), pair("unusable", ""));
}
