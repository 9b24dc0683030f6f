//! What guests boot from: the directory that `tests/vm/prepare` fills, once per test process.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// The stock one.
    Amd64,
    /// PREEMPT_RT.
    RtAmd64,
}

impl Flavour {
    /// Debian's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::RtAmd64 => "rt-amd64",
        }
    }
}

/// Kernels, initramfs, programs.
#[derive(Debug)]
pub struct Prepared {
    dir: PathBuf,
}

impl Prepared {
    /// Prepares once, and skips the running test (`None`) if there is no QEMU and no way to get it.
    ///
    /// # Panics
    /// If anything else is missing or does not build.
    pub fn get() -> Option<&'static Self> {
        static DONE: OnceLock<Option<Prepared>> = OnceLock::new();
        let done = DONE.get_or_init(|| {
            let here = std::env::current_exe().expect("path of the running program");
            // target/[TRIPLE/]PROFILE/deps/vm-…
            let target = here
                .ancestors()
                .find(|d| d.join(".rustc_info.json").exists())
                .expect("a target directory");
            let said = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/prepare"))
                .env("CARGO_TARGET_DIR", target)
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output()
                .expect("tests/vm/prepare");
            match said.status.code() {
                Some(0) => {
                    let dir = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
                    Some(Self { dir })
                }
                Some(77) => None,
                other => panic!("tests/vm/prepare failed ({other:?})"),
            }
        });
        if done.is_none() {
            ringweir_needs::skip("needs QEMU, which cannot be installed; see tests/vm/prepare");
        }
        done.as_ref()
    }

    /// A kernel of the flavour, as an ELF file.
    pub fn kernel(&self, flavour: Flavour) -> PathBuf {
        self.dir.join(flavour.name()).join("vmlinux")
    }

    /// The initramfs for that kernel.
    pub fn initramfs(&self, flavour: Flavour) -> PathBuf {
        self.dir.join(flavour.name()).join("initramfs.cpio")
    }
}
