//! Secrets: a type that shows nothing ([`Secret`]), the name that stands for one in a file ([`Handle`]), where values come
//! from ([`Sources`]), and what takes them out of everything that is written ([`Redactor`], [`known`]).
//!
//! Nothing here knows of messages, jobs or processes.
mod forms;
mod handle;
mod known;
mod redactor;
mod secret;
mod shapes;
mod sources;
mod stream;

pub use handle::{Handle, NoHandle};
pub use known::{Known, known};
pub use redactor::{Redactor, SHOWN};
pub use secret::Secret;
pub use sources::{SECRET_BYTES_MAX, SecretError, Sources, VARIABLE_PREFIX, read_private};
pub use stream::Stream;
