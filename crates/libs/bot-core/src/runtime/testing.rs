//! A bot inside of a test's own process, on a broker in memory: the runtime is the real one, from the bus to the store.
use std::{collections::BTreeMap, path::Path, thread, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Ending, live, settings};
use crate::{
    bus::memory::MemoryBroker,
    config,
    contract::{Bot, contract_of},
};

/// A bot that runs, on threads of its own. It is stopped with the value.
pub struct InProcess {
    broker: MemoryBroker,
    stop: CancellationToken,
    kill: CancellationToken,
    life: Option<thread::JoinHandle<Result<(), String>>>,
}

impl InProcess {
    /// Starts a bot whose state lies in `home`, with the configuration file `config`; `variables` as in the environment
    /// of a process of its own.
    pub fn start<B: Bot>(
        broker: &MemoryBroker,
        home: &Path,
        config: &Path,
        variables: &[(&str, String)],
    ) -> Result<Self, String> {
        let contract = contract_of::<B>();
        let mut vars: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        for (name, path) in [("LOTA_HOME", home), ("LOTA_CONFIG", config), ("LOTA_CONFIG_DIR", home)] {
            vars.insert(name.to_owned(), path.display().to_string());
        }
        let settings = settings::read(&contract, &[], &vars).map_err(|instead| format!("{instead:?}"))?;
        let loaded = config::load::<B::Config>(&settings.config_file, &settings.overrides, &contract);
        let loaded = loaded.map_err(|e| e.to_string())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|e| e.to_string())?;
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let (line, told, killed) = (broker.clone(), stop.clone(), kill.clone());
        let live = move || {
            let told = async move {
                told.cancelled().await;
                "the test is over".to_owned()
            };
            let connect = |lines: Vec<_>, _, tasks: &_, cancelled| line.bus(lines, tasks, cancelled);
            let life = live::<B>(contract, settings, loaded.config, loaded.hash, connect, told);
            let lived = runtime.block_on(killed.run_until_cancelled(life)).unwrap_or(Ok(()));
            // Whatever still ran is dropped where it stands.
            runtime.shutdown_timeout(Duration::from_secs(2));
            lived.map_err(|(Ending::Config(why) | Ending::Failed(why) | Ending::Unavailable(why))| why)
        };
        let life = thread::Builder::new().name("bot".to_owned()).spawn(live).map_err(|e| e.to_string())?;
        Ok(Self { broker: broker.clone(), stop, kill, life: Some(life) })
    }

    /// As SIGTERM does; returns when it has ended.
    pub fn stop(&mut self) -> Result<(), String> {
        self.stop.cancel();
        self.join()
    }

    /// Ends it where it stands, as SIGKILL does, but for a statement that the database is in the middle of; what it had in
    /// hand comes again.
    pub fn kill(&mut self) -> Result<(), String> {
        self.kill.cancel();
        let ended = self.join();
        self.broker.cut_off();
        ended
    }

    fn join(&mut self) -> Result<(), String> {
        let Some(life) = self.life.take() else { return Ok(()) };
        life.join().map_err(|_| "its thread panicked".to_owned())?
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}
