//! The process of BuildBot.
fn main() -> std::process::ExitCode {
    bot_sandbox::launcher().unwrap_or_else(bot_core::run::<build_bot::BuildBot>)
}
