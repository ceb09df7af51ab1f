//! What fails outside of a bot, told apart by its error: the one place that reads errors for that.
use std::io::{self, ErrorKind};

use bot_messages::Code;

/// Words by which libraries and programs tell what no error type says.
const WORDS: [(&str, Code); 10] = [
    ("connection refused", Code::ConnectionRefused),
    // As curl says it, and git with it.
    ("couldn't connect to server", Code::ConnectionRefused),
    ("could not resolve host", Code::HostNotFound),
    ("dns error", Code::HostNotFound),
    ("failed to lookup address", Code::HostNotFound),
    ("name or service not known", Code::HostNotFound),
    ("nodename nor servname", Code::HostNotFound),
    ("cannot allocate memory", Code::OutOfMemory),
    ("out of memory", Code::OutOfMemory),
    ("no space left on device", Code::OutOfMemory),
];

/// How it failed: by the first cause that says so, else by words; what says nothing did not answer.
pub(crate) fn code_of(error: &anyhow::Error) -> Code {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    let by_kind = kinds.filter_map(|kind| match kind {
        ErrorKind::ConnectionRefused => Some(Code::ConnectionRefused),
        ErrorKind::OutOfMemory | ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(Code::OutOfMemory),
        ErrorKind::NotFound => Some(Code::NotFound),
        ErrorKind::AlreadyExists => Some(Code::ConstraintViolated),
        _ => None,
    });
    by_kind.into_iter().next().unwrap_or_else(|| {
        let told = format!("{error:#}").to_lowercase();
        WORDS.iter().find(|(words, _)| told.contains(words)).map_or(Code::Unavailable, |(_, code)| *code)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn an_error_is_told_apart_by_its_causes_and_then_by_its_words() {
        let io = |kind| anyhow::Error::from(io::Error::from(kind)).context("the forge").context("fetching");
        for (error, code) in [
            (io(ErrorKind::ConnectionRefused), Code::ConnectionRefused),
            (io(ErrorKind::StorageFull), Code::OutOfMemory),
            (io(ErrorKind::NotFound), Code::NotFound),
            (io(ErrorKind::TimedOut), Code::Unavailable),
            (anyhow::anyhow!("fatal: Could not resolve host: git.example.org"), Code::HostNotFound),
            (anyhow::anyhow!("connect: Connection refused (os error 111)"), Code::ConnectionRefused),
            (anyhow::anyhow!("it hung up"), Code::Unavailable),
        ] {
            assert_eq!(code_of(&error), code, "{error:#}");
        }
    }

    #[test]
    fn a_real_refusal_is_one() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = std::net::TcpStream::connect(free).context("the forge").unwrap_err();
        assert_eq!(code_of(&refused), Code::ConnectionRefused);
    }
}
