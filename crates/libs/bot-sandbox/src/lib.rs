//! Starts what bots run: `run` (a command that dies with its caller) and `serve` (an application that outlives it).
//! Nothing here reads the environment or the clock of the day, and nothing else in the workspace starts processes.
//!
//! Three kinds of sandbox, chosen by a trial ([`Sandbox::detect`]):
//! - **bubblewrap**: namespaces. The child sees system folders read-only, its workspace, its home, what it was given,
//!   and nothing else; no network unless asked for; no capabilities. Ending the pid namespace ends all in it.
//! - **landlock**: the same folders by rules of the kernel, and a filter of system calls, where namespaces cannot be had.
//!   The child is confined by a launcher ([`launcher`]), which also adopts and ends whatever it leaves behind.
//! - **process group**: no isolation, only order: clean environment, limits, and a hunt by parent, session, group and
//!   marker ([`RUN_MARKER`]) that ends what the command left behind. Code that wants to escape it can.
//!
//! A command that names an image ([`Command::image`]) runs in a container of it instead, whichever kind there is.

pub mod attacks;
mod bound;
mod bubblewrap;
mod command;
mod container;
mod detect;
mod engine;
mod error;
mod family;
mod landlock;
mod launcher;
mod network;
mod output;
mod plan;
mod proc;
mod process_group;
mod run;
mod serve;
mod spawn;
mod stop;
mod syscalls;
mod toolchains;
mod weigh;

pub use bound::ProcessBound;
pub use command::{Bind, Command, Ending, Image, Limits, Line, Outcome, Program, Stream, Workspace};
pub use detect::{Options, Sandbox, SandboxKind};
pub use engine::{Engine, EngineChoice, EngineError};
pub use error::SandboxError;
pub use family::{APP_MARKER, RUN_MARKER};
pub use launcher::launcher;
pub use network::NetworkEnv;
pub use serve::{Application, ServeLimits};
pub use stop::{Served, Usage};
pub use toolchains::{Search, Toolchains, split_path};
