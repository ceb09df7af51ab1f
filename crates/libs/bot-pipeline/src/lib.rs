//! Runs what a pipeline file says, for BuildBot, TestBot and `lota run` alike: a folder per job, one command at a time
//! or several in it, limits on time, memory, processes, output and disk, and a log that names who said a line.
//!
//! Nothing here knows of messages on their way, of jobs or of stores: what a command came to is for the caller to tell.
mod copy;
mod folder;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod images;
mod limits;
mod log;
mod matrix;
mod mistakes;
mod products;
mod publishers;
mod repositories;
mod run;
mod schedule;
mod secrets;
mod services;
mod steps;

pub use copy::copy_tree;
pub use folder::{Folder, name_of, remove_tree, short_hash, size_of};
pub use images::{AllowedImages, Images};
pub use limits::CommandLimits;
pub use log::Log;
pub use matrix::Combination;
pub use products::{ProductError, Products};
pub use publishers::Publishers;
pub use repositories::{Listed, Repositories, Trust};
pub use run::{End, Ran, Runner, Task};
pub use schedule::{Schedule, needs_of};
pub use secrets::{NoSecret, Secrets, SecretsDir};
pub use services::said_by;
pub use steps::{StepBroken, StepEnd, Steps, Unit};
