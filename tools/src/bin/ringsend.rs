//! `ringsend`: see [`ringweir_tools::send`].

fn main() -> std::process::ExitCode {
    ringweir_cli::run(ringweir_tools::send::main)
}
