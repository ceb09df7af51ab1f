//! The process of DeployBot.
fn main() -> std::process::ExitCode {
    bot_core::run::<deploy_bot::DeployBot>()
}
