//! What the fleet says: event payloads (one file per domain), names, contracts, the pipeline file, and the
//! topology that follows from the contracts. Pure data: no I/O, no clock, no async runtime.

pub mod alert;
pub mod approval;
pub mod bot;
pub mod build;
pub mod catalogue;
pub mod config;
pub mod contract;
pub mod control;
pub mod deploy;
mod event;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod incident;
pub mod message;
mod names;
mod object;
pub mod objects;
pub mod pipeline;
pub mod repository;
pub mod telemetry;
pub mod test;
pub mod topology;

pub use contract::{Category, Contract, Feature, MeantLoop, OutsidePublisher, Tap};
pub use event::{Event, Kind, Priority};
pub use failure::{Code, FailureReason, Reply, SafeError, Severity};
pub use names::{BotName, InvalidName, Tier, is_event_type, keys};
pub use object::{CommitId, Digest, InvalidDigest, ObjectRef, Revision};
