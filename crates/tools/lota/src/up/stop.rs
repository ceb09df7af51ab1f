//! Being told to stop: by ctrl-C, by `kill`, by a terminal that closes. Listened for before anything is started, so
//! that whatever was started is also ended.
use std::{fs, io};

use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::exit::Exit;

/// May be waited for by several, and again and again.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<Option<Signal>>);

impl Stop {
    /// From here on these signals end nothing by themselves.
    pub(crate) fn install() -> io::Result<Self> {
        let (tell, told) = watch::channel(None);
        for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().filter(|s| !is_ignored(*s)) {
            let mut stream = signal(SignalKind::from_raw(number as i32))?;
            let tell = tell.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    tell.send_if_modified(|first| {
                        let is_first = first.is_none();
                        first.get_or_insert(number);
                        is_first
                    });
                }
            });
        }
        Ok(Self(told))
    }

    pub(super) fn is_told(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Once told: the first signal.
    pub(crate) async fn told(&self) -> Signal {
        let mut told = self.0.clone();
        let found = told.wait_for(Option::is_some).await.map(|first| *first);
        match found {
            Ok(Some(signal)) => signal,
            // All are ignored: nobody will tell.
            _ => std::future::pending().await,
        }
    }
}

/// The error of what was stopped before it was done.
pub(super) fn stopped(signal: Signal, before: &str) -> anyhow::Error {
    let number = u8::try_from(signal as i32).unwrap_or(u8::MAX);
    Exit::Stopped(number).of(anyhow::anyhow!("stopped by {signal} before {before}"))
}

/// Whether whoever started this wants the signal ignored, as nohup does, and a shell for what it runs in the background.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal as i32 - 1)) != 0
}
