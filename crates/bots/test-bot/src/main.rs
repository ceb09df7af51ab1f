//! The program of `TestBot`; everything is in its library.
fn main() -> std::process::ExitCode {
    bot_sandbox::launcher().unwrap_or_else(bot_core::run::<test_bot::TestBot>)
}
