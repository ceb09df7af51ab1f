//! What every bot shares. A bot implements [`Bot`], and its `main` calls [`run`]; everything between the broker and
//! its handlers is here. Only this crate speaks AMQP.

mod breaker;
mod contract;
mod effects;
mod job;
mod meta;
mod service;
mod tools;

pub use breaker::{Breaker, BreakerOptions, BreakerState, Disabled, Permit};
pub use contract::{About, Bot, Data, Handle, Has, HandlerTable, Hears, Jobs, Says, TimerDue, contract_of};
pub use effects::{Effect, Effects, Fail, Outcome};
pub use job::{GaveUp, Job, JobCx, JobPort, JobTable, Stop};
pub use meta::{Cause, Meta};
pub use service::{Observed, ServiceCx, ServicePort};
pub use tools::Tools;
