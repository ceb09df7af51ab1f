//! The program of the toy bot, which tests start and kill.
fn main() -> std::process::ExitCode {
    bot_core::run::<tests::toy::ToyBot>()
}
