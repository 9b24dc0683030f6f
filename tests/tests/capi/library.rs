//! The C library installed into a prefix, and C programs built with it and run.

use ringweir_harness::{Environment, Process};
use ringweir_needs::needs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

pub const LIMIT: Duration = Duration::from_secs(240);

/// One test at a time: they wait until they are lapped or woken, on machines that may have two
/// processors.
static ALONE: Mutex<()> = Mutex::new(());

pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn root(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether the tools that install the C library and build its users are there; skips the test
/// otherwise.
pub fn can_build() -> bool {
    ["make", "pkg-config", "cc", "c++"].into_iter().all(needs)
}

/// `make -C client/c` with the profile and target directory of this test.
pub fn make(args: &[String]) -> Output {
    let this = std::env::current_exe().expect("path of the test");
    let dir = this
        .ancestors()
        .find(|d| d.file_name().is_some_and(|n| n == "deps"))
        .expect("target/PROFILE/deps");
    let built = dir.parent().expect("target/PROFILE");
    let profile = if built.file_name().is_some_and(|n| n == "release") { "release" } else { "dev" };
    let mut make = Command::new("make");
    make.arg("-C").arg(root("client/c")).arg(format!("PROFILE={profile}")).args(args);
    make.env("CARGO_TARGET_DIR", built.parent().expect("target")).env("CARGO_TERM_COLOR", "never");
    make.output().expect("make")
}

/// The prefix into which the library is installed, once.
pub fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi-prefix");
        let _none_yet = std::fs::remove_dir_all(&prefix);
        let made = make(&["install".into(), format!("PREFIX={}", prefix.display())]);
        assert!(made.status.success(), "{}", said(&made));
        prefix
    })
}

pub fn pkg_config(args: &[&str]) -> Vec<String> {
    let output = Command::new("pkg-config")
        .env("PKG_CONFIG_PATH", prefix().join("lib/pkgconfig"))
        .args(args)
        .arg("ringweir")
        .output()
        .expect("pkg-config");
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(String::from).collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Language {
    C99,
    Cpp17,
}
pub use Language::{C99, Cpp17};

/// Compiles and links a program with only the compiler and pkg-config.
pub fn build(env: &Environment, source: &str, language: Language, extra: &[&str]) -> PathBuf {
    let (compiler, standard) = match language {
        C99 => ("cc", ["-xc", "-std=c99"]),
        Cpp17 => ("c++", ["-xc++", "-std=c++17"]),
    };
    let stem = Path::new(source).file_stem().unwrap().to_string_lossy().into_owned();
    let program =
        env.path(&format!("{stem}-{language:?}{}", extra.concat().replace(['/', '=', ','], "_")));
    let mut command = Command::new(compiler);
    command.args(standard).args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-O1"]);
    // Strict C99 leaves out sleeping, which the tests need and the samples do not.
    if source.starts_with("tests/") {
        command.arg("-D_POSIX_C_SOURCE=200809L");
    }
    command.arg(root(source)).arg("-xnone").args(extra).arg("-o").arg(&program);
    let linking: &[&str] = if extra.contains(&"-static") { &["--static"] } else { &[] };
    command.args(pkg_config(&[&["--cflags", "--libs"], linking].concat()));
    let built = command.output().expect(compiler);
    assert!(built.status.success(), "{source} as {language:?} {extra:?}: {}", said(&built));
    program
}

pub fn start(env: &Environment, program: &Path, args: &[&str], stdout: Stdio) -> Process {
    let mut command = env.command_at(program);
    command.args(args).stdout(stdout).env("LD_LIBRARY_PATH", prefix().join("lib"));
    env.start(command)
}

pub fn run(env: &Environment, program: &Path, args: &[&str]) -> Output {
    start(env, program, args, Stdio::piped()).output()
}

pub fn passes(env: &Environment, program: &Path, args: &[&str]) -> String {
    let output = run(env, program, args);
    assert!(output.status.success(), "{program:?} {args:?}: {}: {}", output.status, said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program under valgrind: exit status 9 if it finds an error or a leak.
pub fn valgrind(env: &Environment, program: &Path, args: &[&str]) -> Output {
    let checks = ["--quiet", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=all"];
    let kinds = ["--errors-for-leak-kinds=all", program.to_str().unwrap()];
    run(env, Path::new("valgrind"), &[&checks[..], &kinds, args].concat())
}
