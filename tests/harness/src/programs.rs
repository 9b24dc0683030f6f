//! The project's programs, built once per test process, with the profile and target directory of
//! the running test.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

static BUILT: OnceLock<PathBuf> = OnceLock::new();

/// Makes this process use programs that are built already.
///
/// # Panics
/// If it already uses another directory.
pub fn at(dir: PathBuf) {
    assert_eq!(
        BUILT.get_or_init(|| dir.clone()),
        &dir,
        "this process already uses programs of another directory"
    );
}

/// Environment variable with the directory of programs that are built already: `tests/run` sets it,
/// so that no test waits for cargo.
pub const PROGRAMS_ENV: &str = "RINGWEIR_PROGRAMS";

/// Directory of the programs; builds them first if this process has not done so yet.
///
/// # Panics
/// If they do not build.
pub fn build() -> &'static PathBuf {
    BUILT.get_or_init(|| {
        if let Some(dir) = std::env::var_os(PROGRAMS_ENV) {
            return dir.into();
        }
        // target/PROFILE/deps/test-… or target/PROFILE/soak
        let this = std::env::current_exe().expect("path of the running program");
        let dir = this
            .ancestors()
            .skip(1)
            .find(|d| d.file_name().is_none_or(|n| n != "deps"))
            .expect("a target directory");
        let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        cargo
            .args(["build", "--workspace", "--bins", "--examples", "--quiet"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        cargo.arg("--target-dir").arg(dir.parent().expect("a profile lies in a target directory"));
        if dir.file_name().is_some_and(|n| n == "release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo").success(), "the programs do not build");
        dir.to_path_buf()
    })
}

/// `ringd` with crash points; builds it first if this process has not done so yet.
///
/// # Panics
/// If it does not build.
pub fn crashing() -> &'static PathBuf {
    static CRASHING: OnceLock<PathBuf> = OnceLock::new();
    CRASHING.get_or_init(|| {
        let dir = build();
        let built = dir.join("ringd-crash");
        if std::env::var_os(PROGRAMS_ENV).is_some() && built.exists() {
            return built;
        }
        let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        // Built like the others, so that only the crates with crash points are built twice.
        cargo
            .args([
                "build",
                "--workspace",
                "--features",
                "ringweir-broker/crash",
                "--bin",
                "ringd-crash",
                "--quiet",
            ])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        cargo.arg("--target-dir").arg(dir.parent().expect("a profile lies in a target directory"));
        if dir.file_name().is_some_and(|n| n == "release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo").success(), "ringd-crash does not build");
        built
    })
}

/// Path of an example of the documentation.
pub fn example(name: &str) -> PathBuf {
    build().join("examples").join(name)
}

/// Path of one program.
pub fn path(name: &str) -> PathBuf {
    build().join(name)
}

/// Copies a program to a place that other users reach. Another process copies: a file that is open
/// for writing here while another thread forks cannot be executed ("text file busy").
///
/// # Panics
/// If it cannot be copied.
pub fn copy(name: &str, to: &std::path::Path) {
    let done = Command::new("cp").arg(path(name)).arg(to).status().expect("cp");
    assert!(done.success(), "cp {name} {}", to.display());
}

/// A command that runs one program.
pub fn command(name: &str) -> Command {
    Command::new(path(name))
}
