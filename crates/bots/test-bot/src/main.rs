//! The program of `TestBot`; everything is in its library.
fn main() -> std::process::ExitCode {
    bot_core::run::<test_bot::TestBot>()
}
