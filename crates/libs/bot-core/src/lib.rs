//! What every bot shares. A bot implements [`Bot`], and its `main` calls [`run`]; everything between the broker and
//! its handlers is here. Only this crate speaks AMQP.

mod breaker;
mod bus;
mod clock;
mod config;
mod contract;
mod crash;
mod effects;
mod envelope;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod guard;
mod hash;
mod job;
mod meta;
mod outside;
mod retry;
mod runtime;
mod schedule;
mod service;
pub mod telemetry;
mod tools;
mod trace;

pub use breaker::{Breaker, BreakerOptions, BreakerState, Disabled, Permit};
#[cfg(feature = "testing")]
pub use bus::memory::{MemoryBroker, Stored};
pub use bus::{
    Bus, BusOptions, DeadLetters, GivenUp, Letter, Link, Password, Properties, PublishError, TlsFiles, Why, watch,
};
pub use config::{BotConfig, Constraints, Place, Places, schema as config_schema};
pub use contract::{
    About, Bot, Data, Feature, Handle, HandlerTable, Has, Heard, Hears, Jobs, Says, TimerDue, contract_of,
};
pub use crash::{arm_crash_points, crash_point};
pub use effects::{Effect, Effects, Fail, Outcome};
pub use envelope::{BODY_BYTES_MAX, DecodeError, Destination, Envelope};
pub use job::{Again, Asked, Boxed, Claim, DoAgain, ErasedJob, GaveUp, Job, JobCx, JobPort, JobTable, RunJob, Stop};
pub use meta::{Cause, Meta};
#[cfg(feature = "testing")]
pub use runtime::InProcess;
pub use runtime::{bus_options, run};
pub use service::{Observed, ServiceCx, ServicePort};
pub use tools::{Optional, Tools};
