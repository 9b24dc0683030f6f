//! What a test needs from the machine: programs, rights, features of the kernel.
//!
//! Contract: a test asks first and returns early if the answer is `false`:
//!
//! ```ignore
//! if !needs("socat") || !needs_root() {
//!     return;
//! }
//! ```
//!
//! Every `false` is recorded with the name of the test and the reason. If the environment variable
//! [`SKIPPED_FILE`] names a file, the record is appended to it, and `tests/run` prints the list at
//! its end; otherwise the record goes to standard error. With `CI=true` everything must be there:
//! a skip is then a failure, unless the file `tests/needs/not-in-ci` lists it with the reason.
//! Each answer is found once: two tests with the same need get the same answer.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// Environment variable with the path of the file that skips are appended to.
pub const SKIPPED_FILE: &str = "RINGWEIR_SKIPPED_FILE";

/// The list that `tests/run` installs from: a program (or file, or Python module) and its package.
const PROGRAMS: &str = include_str!("../programs");

/// What continuous integration may skip.
const NOT_IN_CI: &str = include_str!("../not-in-ci");

/// Whether `program` is installed; the running test is skipped otherwise.
///
/// # Panics
/// If `program` is not in the list `tests/needs/programs`; with `CI=true` also if it is missing.
#[must_use]
pub fn needs(program: &str) -> bool {
    THE_TEST.needs(program)
}

/// Whether the test runs as root; it is skipped otherwise.
#[must_use]
pub fn needs_root() -> bool {
    THE_TEST.needs_root()
}

/// Whether programs can be started with real-time priority; the running test is skipped otherwise.
#[must_use]
pub fn needs_realtime() -> bool {
    THE_TEST.needs_realtime()
}

/// Whether an ordinary user may make namespaces, as a container does; skipped otherwise.
#[must_use]
pub fn needs_user_namespaces() -> bool {
    THE_TEST.needs_user_namespaces()
}

/// Whether a process may have its own mounts (root in most places); skipped otherwise.
#[must_use]
pub fn needs_mount_namespaces() -> bool {
    THE_TEST.needs_mount_namespaces()
}

/// Whether a process may have its own network (root in most places); skipped otherwise.
#[must_use]
pub fn needs_network_namespaces() -> bool {
    THE_TEST.needs_network_namespaces()
}

/// Skips the running test for a reason that it found out itself.
pub fn skip(reason: impl Display) {
    THE_TEST.skip(reason);
}

const THE_TEST: Part<'static> = Part("");

/// A part of a test that can be skipped alone. It is listed as `TEST (PART)`.
#[derive(Clone, Copy, Debug)]
pub struct Part<'p>(pub &'p str);

impl Part<'_> {
    /// See [`needs`](fn@needs).
    #[must_use]
    pub fn needs(self, program: &str) -> bool {
        self.check(missing_program(program))
    }

    /// See [`needs_root`].
    #[must_use]
    pub fn needs_root(self) -> bool {
        self.check((!is_root()).then(|| "needs root".into()))
    }

    /// See [`needs_realtime`].
    #[must_use]
    pub fn needs_realtime(self) -> bool {
        const ALLOWED: &str = "needs real-time priority (root, CAP_SYS_NICE or an rtprio limit)";
        self.needs("chrt") && self.check(refused(&["chrt", "-f", "80", "true"], ALLOWED))
    }

    /// See [`needs_user_namespaces`].
    #[must_use]
    pub fn needs_user_namespaces(self) -> bool {
        // As a user that is not root: root may make any namespace.
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let make = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork"];
        let become_nobody: &[&str] = if is_root() { &nobody } else { &[] };
        let probe = [become_nobody, &make, &["--mount-proc", "--ipc", "--net", "true"]].concat();
        const ALLOWED: &str = "needs user namespaces (sysctl kernel.unprivileged_userns_clone=1)";
        self.needs("unshare") && self.needs("setpriv") && self.check(refused(&probe, ALLOWED))
    }

    /// See [`needs_mount_namespaces`].
    #[must_use]
    pub fn needs_mount_namespaces(self) -> bool {
        let probe = ["unshare", "--mount", "--propagation", "private", "true"];
        self.needs("unshare")
            && self.check(refused(&probe, "needs mount namespaces (root, CAP_SYS_ADMIN)"))
    }

    /// See [`needs_network_namespaces`].
    #[must_use]
    pub fn needs_network_namespaces(self) -> bool {
        let probe = ["unshare", "--net", "ip", "link", "set", "lo", "up"];
        self.needs("unshare")
            && self.needs("ip")
            && self.check(refused(&probe, "needs network namespaces (root, CAP_SYS_ADMIN)"))
    }

    /// Skips this part for a reason that the test found out itself.
    ///
    /// # Panics
    /// With `CI=true`, unless `tests/needs/not-in-ci` lists it.
    #[track_caller]
    pub fn skip(self, reason: impl Display) {
        let test = if self.0.is_empty() { name() } else { format!("{} ({})", name(), self.0) };
        record(&test, &reason.to_string().replace(['\n', '\t'], " "));
    }

    #[track_caller]
    fn check(self, reason: Option<String>) -> bool {
        if let Some(reason) = &reason {
            self.skip(reason);
        }
        reason.is_none()
    }
}

/// Whether the effective user is root.
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a Uid line");
    uids.split_whitespace().nth(1) == Some("0")
}

/// Records the skip, or fails where nothing may be skipped.
#[track_caller]
fn record(test: &str, reason: &str) {
    let may_skip = NOT_IN_CI.lines().any(|line| line.split('\t').next() == Some(test));
    let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(
        !ci || may_skip,
        "{test} is skipped: {reason}. With CI=true this is a failure: install what is missing, or \
         list the test in tests/needs/not-in-ci"
    );
    let listed = std::env::var_os(SKIPPED_FILE).is_some_and(|file| {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
        // One write: other tests append at the same time.
        file.and_then(|mut f| f.write_all(format!("{reason}\t{test}\n").as_bytes())).is_ok()
    });
    if !listed {
        // Not `eprintln`, which the test harness catches and drops when the test passes.
        let _ignored =
            std::io::stderr().write_all(format!("SKIPPED {test}: {reason}\n").as_bytes());
    }
}

/// `binary::test` of the running test, as `cargo nextest` lists it; the harness names threads so.
fn name() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let file = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // target/debug/deps/NAME-0123456789abcdef
    let binary = match file.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 => name.to_string(),
        _ => file,
    };
    let thread = std::thread::current().name().unwrap_or("main").to_string();
    let test = if thread == "main" {
        std::env::var("NEXTEST_TEST_NAME").unwrap_or(thread)
    } else {
        thread
    };
    format!("{binary}::{test}")
}

/// Why `program`, which is on the list, cannot be used; `None` if it can.
fn missing_program(program: &str) -> Option<String> {
    let lines = PROGRAMS.lines().filter(|line| !line.starts_with('#'));
    let (_, package) = lines
        .filter_map(|line| line.split_once(' '))
        .find(|(known, _)| *known == program)
        .unwrap_or_else(|| panic!("{program:?} is not in tests/needs/programs: add it"));
    let found = match program.split_once(':') {
        Some((python, module)) => works(&[python, "-c", &format!("import {module}")]),
        None if program.starts_with('/') => Path::new(program).exists(),
        None => find(program).is_some(),
    };
    let package = if package == "-" { program } else { package };
    (!found).then(|| format!("needs {program} (apt-get install {package})"))
}

/// Where a program is in PATH.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// `reason` if the command does not succeed.
fn refused(command: &[&str], reason: &str) -> Option<String> {
    (!works(command)).then(|| reason.to_string())
}

/// Whether a command succeeds. Each is run once per process.
fn works(command: &[&str]) -> bool {
    static ANSWERS: OnceLock<Mutex<HashMap<String, bool>>> = OnceLock::new();
    let mut answers = ANSWERS.get_or_init(Mutex::default).lock().expect("a map of answers");
    *answers.entry(command.join(" ")).or_insert_with(|| {
        let mut process = Command::new(command[0]);
        process.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        process.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line has the form that `tests/run` and [`missing_program`] read.
    #[test]
    fn lists_are_well_formed() {
        for line in PROGRAMS.lines().filter(|line| !line.starts_with('#')) {
            assert_eq!(line.split(' ').filter(|word| !word.is_empty()).count(), 2, "{line:?}");
        }
        for line in NOT_IN_CI.lines().filter(|line| !line.starts_with('#')) {
            let (test, reason) = line.split_once('\t').unwrap_or_default();
            assert!(test.contains("::") && reason.len() > 10, "{line:?}");
        }
    }

    /// An installed program is found; for a missing one, the reason has the line that installs it.
    #[test]
    fn programs_are_found_in_path() {
        assert_eq!(missing_program("bash"), None);
        assert!(find("no-such-program").is_none());
        let unknown = std::panic::catch_unwind(|| missing_program("no-such-program"));
        assert!(unknown.is_err(), "a program that no list knows");
        assert!(name().ends_with("tests::programs_are_found_in_path"), "{}", name());
    }

    /// A skip fails with `CI=true`, and is appended to the list otherwise. In a process of its
    /// own: the environment belongs to all threads.
    #[test]
    fn a_skip_is_listed_or_fails() {
        const ROLE: &str = "RINGWEIR_NEEDS_TEST_SKIPS";
        if std::env::var_os(ROLE).is_some() {
            return skip("the reason");
        }
        let list = std::env::temp_dir().join(format!("ringweir-needs-{}", std::process::id()));
        let run = |ci: &str| {
            let mut test = Command::new(std::env::current_exe().expect("this test"));
            test.args(["--exact", "tests::a_skip_is_listed_or_fails"]);
            test.env(ROLE, "1").env("CI", ci).env(SKIPPED_FILE, &list);
            test.output().expect("this test").status.success()
        };
        assert!(run("false") && !run("true"));
        let listed = std::fs::read_to_string(&list).expect("a list");
        std::fs::remove_file(&list).expect("remove the list");
        assert_eq!(listed, "the reason\tringweir_needs::tests::a_skip_is_listed_or_fails\n");
    }
}
