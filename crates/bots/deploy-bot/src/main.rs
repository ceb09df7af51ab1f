//! The process of DeployBot.
fn main() -> std::process::ExitCode {
    bot_sandbox::launcher().unwrap_or_else(bot_core::run::<deploy_bot::DeployBot>)
}
