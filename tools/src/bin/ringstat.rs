//! `ringstat`: see [`ringweir_tools::stat`].

fn main() -> std::process::ExitCode {
    ringweir_cli::run(ringweir_tools::stat::main)
}
