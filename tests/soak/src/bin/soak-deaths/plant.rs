//! Names planted where a broker makes its files.
//!
//! Contract: what was planted is as it was when it is taken away again, and so is what it leads to.

use anyhow::{Context, ensure};
use ringweir_harness::Environment;
use ringweir_proto::os::paths;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};

/// Where something is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Lock,
    Socket,
    /// In /dev/shm. A broker that may remove it does so.
    Ring,
}

/// What is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Fifo,
    /// A FIFO that somebody has open and locked.
    HeldFifo,
    Directory,
    /// A symbolic link to a file.
    Link,
    /// A file of another user.
    Foreign,
}

const ALL: [What; 5] = [What::Fifo, What::HeldFifo, What::Directory, What::Link, What::Foreign];
const STRANGER: u32 = 4711;
const CONTENT: &str = "precious";

/// Something planted.
pub struct Plant {
    path: PathBuf,
    target: PathBuf,
    place: Place,
    what: What,
    _held: Option<OwnedFd>,
}

impl Plant {
    /// Plants something at this place of stream `name`, instead of what is there.
    pub fn at(
        env: &Environment,
        place: Place,
        name: &str,
        random: &mut fastrand::Rng,
    ) -> anyhow::Result<Self> {
        let root = rustix::process::geteuid().is_root();
        let path = match place {
            Place::Lock => paths::lock_path(&env.run_dir(), name),
            Place::Socket => paths::socket_path(&env.run_dir(), name),
            Place::Ring => format!("/dev/shm{}", paths::object_name(&env.run_dir(), name)).into(),
        };
        let _old = std::fs::remove_file(&path);
        let target = env.path(&format!("precious-{name}"));
        std::fs::write(&target, CONTENT)?;
        // Only root can make a file of another user.
        let what = ALL[random.usize(..if root { 5 } else { 4 })];
        let mut held = None;
        match what {
            What::Fifo | What::HeldFifo => {
                rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
                if what == What::HeldFifo {
                    let flags = OFlags::RDWR | OFlags::CLOEXEC;
                    let fd = rustix::fs::open(&path, flags, Mode::empty())?;
                    rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
                    held = Some(fd);
                }
            }
            What::Directory => std::fs::create_dir(&path)?,
            What::Link => symlink(&target, &path)?,
            What::Foreign => {
                std::fs::write(&path, CONTENT)?;
                chown(&path, Some(STRANGER), None)?;
            }
        }
        Ok(Self { path, target, place, what, _held: held })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For figures.
    pub fn describe(&self) -> String {
        format!("{:?} as {:?}", self.what, self.place).to_lowercase()
    }

    /// Takes it away.
    pub fn remove(self) -> anyhow::Result<()> {
        let kept = std::fs::read_to_string(&self.target)?;
        ensure!(kept == CONTENT, "{} leads to {kept:?} now", self.path.display());
        std::fs::remove_file(&self.target)?;
        if self.place == Place::Ring && std::fs::symlink_metadata(&self.path).is_err() {
            return Ok(());
        }
        let removed = match self.what {
            What::Directory => std::fs::remove_dir(&self.path),
            _ => std::fs::remove_file(&self.path),
        };
        removed.with_context(|| format!("{} was to stay as it was", self.path.display()))
    }
}
