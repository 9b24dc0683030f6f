//! `ringd`: see [`ringweir_broker::program`].

fn main() -> std::process::ExitCode {
    ringweir_cli::run(ringweir_broker::program::main)
}
