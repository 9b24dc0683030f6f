//! Compiles and runs a C program that prints a header's layout.

use std::process::Command;

/// The lines that a C11 program prints. Its files are `files` (name, text); the first one is
/// compiled.
///
/// # Panics
/// If the compiler reports an error or a warning.
pub fn printed(files: &[(&str, String)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let program = dir.path().join("program");
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(dir.path().join(files[0].0));
    let cc = cc.output().expect("a C compiler, `cc`");
    assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
    let output = Command::new(&program).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect()
}
