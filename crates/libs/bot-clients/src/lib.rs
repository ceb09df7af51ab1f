//! Clients of what bots share outside the broker: the object store, archives of file trees, and the reading of a
//! source tree's pipeline. No bot logic, no processes; of the environment only
//! what every S3 client reads there (`objects/s3.rs`).

pub mod archive;
pub mod detect;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod objects;
mod trees;

pub use archive::{
    ArchiveError, ArchiveLimits, Packed, Part, Times, Unpacked, list_tree, open_beneath, pack, pack_parts, unpack,
    unpack_with,
};
pub use detect::{Detected, PipelineProblem, detect, read_pipeline};
pub use objects::{Collected, InUse, Kind, ObjectError, ObjectSettings, Objects, RetentionDays, Said, Tally};
pub use trees::remove_tree;
