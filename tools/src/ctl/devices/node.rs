//! The node of a device in /dev: whether it is the right one, who owns it, and whether this user
//! may open it.
//!
//! Contract: reads the node's metadata, and does not open it.

use super::row::{Row, State};
use crate::machine::Machine;
use rustix::fs::{
    Access, AtFlags, CWD, Dev, FileType, Stat, accessat, major, makedev, minor, stat,
};
use std::path::{Path, PathBuf};

/// Class of the devices that ringshim.ko has.
pub(super) const RINGSHIM: &str = "ringshim";

/// A state with its description and the command that fixes it.
pub(super) type Verdict = (State, String, Option<String>);

/// The node of a device of class `class`.
pub(super) struct Node {
    class: &'static str,
    /// "ringshim0".
    name: String,
    /// Its number in sysfs; `None` if that cannot be read.
    pub device: Option<Dev>,
    stat: Option<Stat>,
}

impl Node {
    pub fn find(m: &Machine, class: &'static str, name: &str) -> Self {
        let number = m.text(&format!("/sys/class/{class}/{name}/dev"));
        let device = number.and_then(|text| {
            let (major, minor) = text.split_once(':')?;
            Some(makedev(major.parse().ok()?, minor.parse().ok()?))
        });
        let stat = stat(m.at(&format!("/dev/{name}"))).ok();
        Self { class, name: name.into(), device, stat }
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    fn is_right(&self) -> bool {
        let this = self
            .stat
            .is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::CharacterDevice);
        this && self.device.is_some() && self.stat.map(|s| s.st_rdev) == self.device
    }

    /// Adds type, rights and owner, as `ls -l` shows them.
    pub fn describe(&self, m: &Machine, row: &mut Row) {
        row.node = Some(self.path());
        let Some(stat) = self.stat else { return };
        let name = |file, id| m.called(file, id).map_or_else(|| id.to_string(), |(name, _)| name);
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => 'c',
            FileType::BlockDevice => 'b',
            FileType::Directory => 'd',
            FileType::RegularFile => '-',
            _ => '?',
        };
        let right = |bit: u32, letter: char| if stat.st_mode & bit == 0 { '-' } else { letter };
        let rights = (0..9).map(|i| right(0o400 >> i, ['r', 'w', 'x'][i % 3]));
        row.mode = Some(std::iter::once(kind).chain(rights).collect());
        row.owner = Some(name("/etc/passwd", stat.st_uid));
        row.group = Some(name("/etc/group", stat.st_gid));
    }

    /// What prevents this user from opening it, if anything does.
    pub fn hindrance(&self, m: &Machine) -> Option<Verdict> {
        let (path, sudo) = (self.path(), m.sudo());
        if !self.is_right() {
            let device = self.device.unwrap_or_default();
            let text = match self.stat {
                None => format!("no node {}", path.display()),
                Some(_) => {
                    format!("{} is not device {}:{}", path.display(), major(device), minor(device))
                }
            };
            // Without udev, devtmpfs makes the nodes; without either (in a container), the user has
            // to.
            let (major, minor, path) = (major(device), minor(device), path.display());
            let fix = format!("{sudo}rm -f {path} && {sudo}mknod -m 600 {path} c {major} {minor}");
            return Some((State::NoNode, text, self.device.map(|_| fix)));
        }
        let may = accessat(
            CWD,
            m.at(&path.to_string_lossy()),
            Access::READ_OK | Access::WRITE_OK,
            AtFlags::EACCESS,
        );
        may.err().map(|_| {
            (State::NoPermission, format!("no permission for uid {}", m.uid), Some(self.let_in(m)))
        })
    }

    /// The command that lets this user open it: it adds the user to the group of the node, or
    /// changes the node.
    fn let_in(&self, m: &Machine) -> String {
        let sudo = m.sudo();
        let shared = self.stat.filter(|s| s.st_mode & 0o060 == 0o060 && s.st_gid != 0);
        if let Some((group, members)) = shared.and_then(|s| m.called("/etc/group", s.st_gid)) {
            let me = m.called("/etc/passwd", m.uid).map(|(name, _)| name);
            let in_it = me.is_some_and(|me| members.split(',').any(|member| member == me));
            // A login session older than the membership does not have it.
            let join = if in_it {
                String::new()
            } else {
                format!("{sudo}usermod -aG {group} \"$(id -un)\" && ")
            };
            return format!("{join}newgrp {group}");
        }
        if self.class != RINGSHIM {
            return format!("{sudo}setfacl -m u:{}:rw {}", m.uid, self.path().display());
        }
        let trigger = format!("{sudo}udevadm trigger --subsystem-match=ringshim");
        match m.exists("/etc/udev/rules.d/60-ringshim.rules") {
            true => trigger,
            false => format!("{sudo}make -C kmod-shim install && {trigger}"),
        }
    }
}
