//! A launcher and nothing else, for tests: a test's own program cannot be one.
fn main() -> std::process::ExitCode {
    bot_sandbox::launcher().unwrap_or(std::process::ExitCode::FAILURE)
}
