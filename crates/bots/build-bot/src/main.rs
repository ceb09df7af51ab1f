//! The process of BuildBot.
fn main() -> std::process::ExitCode {
    bot_core::run::<build_bot::BuildBot>()
}
