//! `ringd`: see [`ringweir_broker::program`].

fn main() -> std::process::ExitCode {
    ringweir_broker::program::main()
}
