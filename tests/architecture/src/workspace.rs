//! The crates of the workspace, as cargo sees them.
//!
//! Contract: reads `cargo metadata --no-deps`, which needs neither network nor a build.

use crate::modules::Root;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One crate.
#[derive(Debug)]
pub struct Crate {
    /// Name of the package.
    pub name: String,
    /// Folder, relative to the workspace.
    pub dir: String,
    /// What it is for: the `description` of its manifest.
    pub description: String,
    /// `src/`
    pub src: PathBuf,
    /// Library and programs; tests, examples and benches are left out.
    pub roots: Vec<Root>,
    /// Crates of the workspace that it is built with.
    pub uses: Vec<String>,
    /// Crates of the workspace that only its tests are built with.
    pub test_uses: Vec<String>,
}

/// Reads the workspace whose root is `dir`.
pub fn read(dir: &Path) -> Result<Vec<Crate>, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(dir)
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
    let packages = list(&metadata["packages"]);
    let names: Vec<String> = packages.iter().map(|p| text(&p["name"])).collect();
    let base = PathBuf::from(text(&metadata["workspace_root"]));
    let mut crates = Vec::new();
    for package in &packages {
        let dir = PathBuf::from(text(&package["manifest_path"]));
        let dir = dir.parent().unwrap_or(&base);
        let src = dir.join("src");
        let mut roots = Vec::new();
        for target in list(&package["targets"]) {
            let kinds: Vec<String> = list(&target["kind"]).iter().map(text).collect();
            let is = |wanted: &[&str]| kinds.iter().any(|k| wanted.contains(&k.as_str()));
            let library = is(&["lib", "rlib", "cdylib", "staticlib"]);
            let path = PathBuf::from(text(&target["src_path"]));
            if (library || is(&["bin"])) && !roots.iter().any(|r: &Root| r.path == path) {
                let name = text(&target["name"]).replace('-', "_");
                roots.push(Root { path, library: library.then_some(name) });
            }
        }
        let uses = |tests: bool| {
            let mut uses: Vec<String> = list(&package["dependencies"])
                .iter()
                .filter(|d| (d["kind"] == "dev") == tests)
                .map(|d| text(&d["name"]))
                .filter(|name| names.contains(name))
                .collect();
            uses.sort();
            uses.dedup();
            uses
        };
        crates.push(Crate {
            name: text(&package["name"]),
            dir: dir.strip_prefix(&base).unwrap_or(dir).display().to_string(),
            description: text(&package["description"]),
            src,
            roots,
            uses: uses(false),
            test_uses: uses(true),
        });
    }
    crates.sort_by(|a, b| a.dir.cmp(&b.dir));
    Ok(crates)
}
