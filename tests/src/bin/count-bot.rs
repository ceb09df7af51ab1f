//! The program of the second bot of the chain, which chaos kills and starts again.
fn main() -> std::process::ExitCode {
    bot_core::run::<tests::chain::CountBot>()
}
