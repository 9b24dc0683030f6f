//! `ringd`: see [`ringweir_broker`].

fn main() -> std::process::ExitCode {
    ringweir_broker::main()
}
