//! `ringctl completions` and `ringctl man`: the completions and pages of every program.
//!
//! Contract: each program writes its own ([`ringweir_cli::manual`]). The program beside this
//! ringctl is preferred to one on the search path, so that options and page are of the same
//! release.

use anyhow::{Context, ensure};
use clap::Args;
use clap::builder::PossibleValuesParser;
use ringweir_cli::manual::PROGRAMS;
use ringweir_cli::manual::Shell;
use std::path::PathBuf;
use std::process::Command;

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Shell to write completions for
    shell: Shell,
    /// Program, if not all of them
    #[arg(value_parser = PossibleValuesParser::new(PROGRAMS))]
    program: Option<String>,
}

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(ringctl completions bash)                        # in ~/.bashrc
  source <(ringctl completions zsh)                         # in ~/.zshrc, behind compinit
  ringctl completions fish > ~/.config/fish/completions/ringweir.fish
  ringctl completions bash ringd > /usr/share/bash-completion/completions/ringd";

#[derive(Debug, Args)]
pub(super) struct Pages {
    /// Program whose page to write to standard output
    #[arg(value_parser = PossibleValuesParser::new(PROGRAMS), default_value = "ringctl")]
    program: String,
    /// Write the pages of all programs into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "program")]
    dir: Option<PathBuf>,
}

pub(super) const PAGES_EXAMPLES: &str = "\
Examples:
  ringctl man ringcat | man -l -
  sudo ringctl man --dir /usr/local/share/man/man1";

pub(super) fn completions(options: &Completions) -> anyhow::Result<()> {
    let shell = options.shell.to_string();
    let programs = options.program.as_deref().map_or_else(|| PROGRAMS.to_vec(), |p| vec![p]);
    let texts: Vec<String> = programs
        .iter()
        .map(|program| ask(program, &["--completions", &shell]))
        .collect::<anyhow::Result<_>>()?;
    ringweir_cli::stdout::put(&texts.join("\n"))?;
    Ok(())
}

pub(super) fn pages(options: &Pages) -> anyhow::Result<()> {
    let Some(dir) = &options.dir else {
        ringweir_cli::stdout::put(&ask(&options.program, &["--man"])?)?;
        return Ok(());
    };
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for program in PROGRAMS {
        let path = dir.join(format!("{program}.1"));
        std::fs::write(&path, ask(program, &["--man"])?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        ringweir_cli::stdout::put(&format!("{}\n", path.display()))?;
    }
    Ok(())
}

fn ask(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|p| Some(p.parent()?.join(program)))
        .filter(|p| p.exists());
    let path = beside.unwrap_or_else(|| program.into());
    let done = Command::new(&path).args(args).output();
    let done = done
        .with_context(|| format!("{program} was not found beside ringctl or on the search path"))?;
    ensure!(
        done.status.success(),
        "{} {} failed: {}",
        path.display(),
        args.join(" "),
        String::from_utf8_lossy(&done.stderr).trim()
    );
    String::from_utf8(done.stdout).with_context(|| format!("the output of {program} is not text"))
}
