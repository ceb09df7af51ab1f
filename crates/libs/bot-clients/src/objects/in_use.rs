//! What must stay although it is old: one file an environment, at `in-use/<environment>.json`, written by whoever puts
//! objects there and read by whoever removes old ones.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
};

use bot_messages::Digest;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{
    Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion, path::Path as Key,
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::{
    Folder, ObjectError, Objects,
    error::{io, is_missing_object, store},
};

const FOLDER: &str = "in-use";
/// Of a store in a folder: held by whoever compares and writes.
const LOCK: &str = "in-use.lock";
/// Of one environment's file; an entry has about 75 bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
const ENVIRONMENTS_MAX: usize = 1000;

/// What one environment needs: what is there, and what it can go back to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InUse {
    /// The objects.
    pub digests: BTreeSet<Digest>,
    /// The fencing token under which it was said. Before there were any: 0.
    #[serde(default)]
    pub token: i64,
}

/// What was said of an environment, and when: what is to take its place says so.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// It; nothing, where nothing was said.
    pub in_use: InUse,
    version: Option<UpdateVersion>,
}

impl Objects {
    /// Says what an environment needs, in place of `before` and of nothing else, and under no lower token than that. To be said
    /// before an object is fetched.
    pub async fn write_in_use(&self, environment: &str, in_use: &InUse, before: &Said) -> Result<(), ObjectError> {
        let broken = |why: String| ObjectError::InUse { environment: environment.to_owned(), why };
        if in_use.token < before.in_use.token {
            let (token, held) = (in_use.token, before.in_use.token);
            return Err(ObjectError::Stale { environment: environment.to_owned(), token, held });
        }
        let text = serde_json::to_vec_pretty(in_use).map_err(|e| broken(e.to_string()))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(broken(format!("it would have {} bytes, more than {FILE_BYTES_MAX}", text.len())));
        }
        let (key, payload) = (key(environment), PutPayload::from(text));
        let doing = "note what is in use";
        let Some(folder) = &self.folder else {
            let mode = before.version.clone().map_or(PutMode::Create, PutMode::Update);
            return match self.store.put_opts(&key, payload, PutOptions::from(mode)).await {
                Ok(_) => Ok(()),
                Err(Error::Precondition { .. } | Error::AlreadyExists { .. } | Error::NotFound { .. }) => {
                    Err(ObjectError::Overtaken { environment: environment.to_owned() })
                }
                Err(e) => Err(store(doing)(e)),
            };
        };
        // A folder knows no condition: its writers take turns, so that nothing comes between the look and the write.
        let _lock = folder.take_turn().await?;
        if e_tag(&self.said_in_use(environment).await?) != e_tag(before) {
            return Err(ObjectError::Overtaken { environment: environment.to_owned() });
        }
        self.store.put(&key, payload).await.map_err(store(doing))?;
        self.seal(&key).await
    }

    /// What was said last of an environment.
    pub async fn said_in_use(&self, environment: &str) -> Result<Said, ObjectError> {
        let found = match self.store.get(&key(environment)).await {
            Ok(found) => found,
            Err(e) if is_missing_object(&e) => return Ok(Said::default()),
            Err(e) => return Err(store("read what is in use")(e)),
        };
        let meta = found.meta.clone();
        if meta.size > FILE_BYTES_MAX {
            let why = format!("it has {} bytes, more than {FILE_BYTES_MAX}", meta.size);
            return Err(ObjectError::InUse { environment: environment.to_owned(), why });
        }
        let bytes = found.bytes().await.map_err(store("read what is in use"))?;
        let version = Some(UpdateVersion { e_tag: meta.e_tag, version: meta.version });
        let broken =
            |e: serde_json::Error| ObjectError::InUse { environment: environment.to_owned(), why: e.to_string() };
        Ok(Said { in_use: serde_json::from_slice(&bytes).map_err(broken)?, version })
    }

    /// What each environment needs. One that cannot be read is an error: nobody may guess what it held.
    pub async fn in_use(&self) -> Result<BTreeMap<String, InUse>, ObjectError> {
        let files: Vec<ObjectMeta> = self
            .store
            .list(Some(&Key::from(FOLDER)))
            .take(ENVIRONMENTS_MAX + 1)
            .try_collect()
            .await
            .map_err(store("list what is in use"))?;
        if files.len() > ENVIRONMENTS_MAX {
            let why = format!("there are more than {ENVIRONMENTS_MAX} of them");
            return Err(ObjectError::InUse { environment: "all environments".to_owned(), why });
        }
        let mut all = BTreeMap::new();
        for file in files {
            let name = file.location.filename().unwrap_or_default();
            let environment = name.strip_suffix(".json").unwrap_or(name).to_owned();
            let in_use = self.said_in_use(&environment).await?.in_use;
            all.insert(environment, in_use);
        }
        Ok(all)
    }
}

impl Folder {
    /// Waits until nobody else writes what is in use. The lock ends with the file.
    async fn take_turn(&self) -> Result<File, ObjectError> {
        let path = self.root.join(LOCK);
        let locked = {
            let path = path.clone();
            spawn_blocking(move || {
                let mut options = OpenOptions::new();
                let lock = options.write(true).create(true).truncate(false).mode(0o660).open(&path)?;
                super::hand_over(&path, 1)?;
                lock.lock().map(|()| lock)
            })
        };
        locked.await.map_err(std::io::Error::other).flatten().map_err(io("lock", &path))
    }
}

fn key(environment: &str) -> Key {
    Key::from_iter([FOLDER.to_owned(), format!("{environment}.json")])
}

fn e_tag(said: &Said) -> Option<&str> {
    said.version.as_ref()?.e_tag.as_deref()
}
