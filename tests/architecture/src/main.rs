//! `cargo run -p ringweir-architecture` draws `docs/architecture.md` again. With `--check` it only
//! reports whether the page is up to date and free of circles.

use ringweir_architecture::picture::{self, PAGE};
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: architecture [--check] [DIR]

Draws the dependency picture of the workspace DIR (default: this one) from its code
into docs/architecture.md.

  --check    change nothing; fail if the page is not up to date
  --circles  list every circle, those of crates that may still have some too

Exit status: 0 done, 1 there is a circle or the page is stale, 2 it could not be drawn.
";

fn main() -> ExitCode {
    let mut check = false;
    let mut circles = false;
    let mut dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--check" => check = true,
            "--circles" => circles = true,
            "--help" | "-h" => {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            option if option.starts_with('-') => {
                eprint!("architecture: unknown option {option}\n\n{USAGE}");
                return ExitCode::from(2);
            }
            other => dir = other.into(),
        }
    }
    match if circles { list(&dir) } else { run(&dir, check) } {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("architecture: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(dir: &std::path::Path, check: bool) -> Result<bool, String> {
    let picture = picture::draw(dir)?;
    let path = dir.join(PAGE);
    let old = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let new = picture::insert(&old, &picture.text)
        .ok_or_else(|| format!("{PAGE} lacks the line \"{}\"", picture::BEGIN))?;
    let errors = picture.errors();
    for error in &errors {
        eprintln!("architecture: {error}");
    }
    let stale = picture::difference(&old, &new);
    if !check {
        std::fs::write(&path, new).map_err(|e| format!("{}: {e}", path.display()))?;
        return Ok(errors.is_empty());
    }
    if let Some(difference) = &stale {
        eprintln!("architecture: {PAGE} is stale: {difference}");
        eprintln!("draw it anew: cargo run -p ringweir-architecture");
    }
    Ok(errors.is_empty() && stale.is_none())
}

fn list(dir: &std::path::Path) -> Result<bool, String> {
    let faults = picture::draw(dir)?.faults;
    for fault in &faults {
        println!("{}\n", fault.text);
    }
    Ok(faults.is_empty())
}
