//! `ringctl completions` and `ringctl man`: the completions and pages of every program.
//!
//! Contract: each program writes its own page ([`ringweir_cli::manual`]). The program beside this
//! ringctl is preferred to one on the search path, so that options and page are of the same
//! release. Completions are asked of the program that the shell would run.

use anyhow::{Context, ensure};
use clap::Args;
use clap::builder::PossibleValuesParser;
use ringweir_cli::completion::{self, Shell};
use ringweir_cli::manual::{OTHER_PAGES, PROGRAMS};
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
    /// Page to write to standard output: that of a program, or ringd.toml
    #[arg(value_parser = PossibleValuesParser::new(names()), default_value = "ringctl")]
    page: String,
    /// Write all pages below this directory instead, in man1 and man5
    #[arg(long, value_name = "DIR", conflicts_with = "page")]
    dir: Option<PathBuf>,
}

pub(super) const PAGES_EXAMPLES: &str = "\
Examples:
  ringctl man ringcat | man -l -
  ringctl man ringd.toml | man -l -
  sudo ringctl man --dir /usr/local/share/man";

/// Every page, with its section.
fn all() -> impl Iterator<Item = (&'static str, u8)> {
    let programs = PROGRAMS.iter().map(|program| (*program, 1));
    programs.chain(OTHER_PAGES.iter().map(|(name, section, _program)| (*name, *section)))
}

fn names() -> Vec<&'static str> {
    all().map(|(name, _section)| name).collect()
}

pub(super) fn completions(options: &Completions) -> anyhow::Result<()> {
    let programs = options.program.as_deref().map_or_else(|| PROGRAMS.to_vec(), |p| vec![p]);
    let scripts: String =
        programs.into_iter().map(|p| completion::registration(options.shell, p)).collect();
    ringweir_cli::stdout::put(&scripts)?;
    Ok(())
}

pub(super) fn pages(options: &Pages) -> anyhow::Result<()> {
    let Some(dir) = &options.dir else {
        ringweir_cli::stdout::put(&text(&options.page)?)?;
        return Ok(());
    };
    for (name, section) in all() {
        let dir = dir.join(format!("man{section}"));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(format!("{name}.{section}"));
        std::fs::write(&path, text(name)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        ringweir_cli::stdout::put(&format!("{}\n", path.display()))?;
    }
    Ok(())
}

/// The text of a page, which its program writes.
fn text(page: &str) -> anyhow::Result<String> {
    match OTHER_PAGES.iter().find(|(name, ..)| *name == page) {
        Some((name, _section, program)) => ask(program, &["--man", name]),
        None => ask(page, &["--man"]),
    }
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
