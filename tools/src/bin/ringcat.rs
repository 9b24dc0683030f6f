//! `ringcat`: see [`ringweir_tools::cat`].

fn main() -> std::process::ExitCode {
    ringweir_cli::run(ringweir_tools::cat::main)
}
