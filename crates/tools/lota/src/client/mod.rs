//! What an operator says to a running fleet and asks of it: one file per group of commands, and what they share.
//! Nothing here starts or stops a fleet.

mod clock;
pub(crate) mod configuration;
pub(crate) mod connection;
pub(crate) mod control;
pub(crate) mod dlq;
pub(crate) mod environments;
mod flow;
mod follow;
pub(crate) mod gc;
pub(crate) mod git;
pub(crate) mod logs;
mod monitor;
mod operator;
pub(crate) mod publish;
pub(crate) mod push;
pub(crate) mod rerun;
pub(crate) mod show;
mod sight;
pub(crate) mod status;
mod story;
mod table;
pub(crate) mod terminal;
pub(crate) mod test_report;
pub(crate) mod watch;
