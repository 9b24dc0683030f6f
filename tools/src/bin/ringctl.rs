//! `ringctl`: see [`ringweir_tools::ctl`].

fn main() -> std::process::ExitCode {
    ringweir_cli::run(ringweir_tools::ctl::main)
}
