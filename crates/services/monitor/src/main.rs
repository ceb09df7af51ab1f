//! The program of `MonitorBot`; everything is in its library.
fn main() -> std::process::ExitCode {
    bot_core::run::<monitor::MonitorBot>()
}
