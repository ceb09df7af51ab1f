//! The workspace's own tasks: generate, tidy, new-bot.
fn main() {}
