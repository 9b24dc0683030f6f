//! `ringctl`: see [`ringweir_tools::ctl`].

fn main() -> std::process::ExitCode {
    ringweir_tools::ctl::main()
}
