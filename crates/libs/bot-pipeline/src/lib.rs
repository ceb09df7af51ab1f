//! Runs what a pipeline file says, for BuildBot, TestBot and `lota run` alike: a folder per job, one command at a time
//! or several in it, limits on time, memory, processes, output and disk, and a log that names who said a line.
//!
//! Nothing here knows of messages on their way, of jobs or of stores: what a command came to is for the caller to tell.
mod folder;
mod log;
mod run;

pub use folder::{Folder, name_of, remove_tree, short_hash, size_of};
pub use log::Log;
pub use run::{End, Ran, Runner, Task};
