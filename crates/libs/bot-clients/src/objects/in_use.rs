//! What must stay although it is old: one file an environment, at `in-use/<environment>.json`, written by whoever puts
//! objects there and read by whoever removes old ones.
use std::collections::{BTreeMap, BTreeSet};

use bot_messages::Digest;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStoreExt, PutPayload, path::Path as Key};
use serde::{Deserialize, Serialize};

use super::{ObjectError, Objects, error::store};

const FOLDER: &str = "in-use";
/// Of one environment's file; an entry has about 75 bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
const ENVIRONMENTS_MAX: usize = 1000;

/// What one environment needs: what is there, and what it can go back to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InUse {
    /// The objects.
    pub digests: BTreeSet<Digest>,
}

impl Objects {
    /// Says what an environment needs, in place of what was said before. To be said before an object is fetched.
    pub async fn write_in_use(&self, environment: &str, in_use: &InUse) -> Result<(), ObjectError> {
        let broken = |why: String| ObjectError::InUse { environment: environment.to_owned(), why };
        let text = serde_json::to_vec_pretty(in_use).map_err(|e| broken(e.to_string()))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(broken(format!("it would have {} bytes, more than {FILE_BYTES_MAX}", text.len())));
        }
        let key = Key::from_iter([FOLDER.to_owned(), format!("{environment}.json")]);
        self.store.put(&key, PutPayload::from(text)).await.map_err(store("note what is in use"))?;
        self.seal(&key).await
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
            let broken = |why: String| ObjectError::InUse { environment: environment.clone(), why };
            if file.size > FILE_BYTES_MAX {
                return Err(broken(format!("it has {} bytes, more than {FILE_BYTES_MAX}", file.size)));
            }
            let found = self.store.get(&file.location).await.map_err(store("read what is in use"))?;
            let bytes = found.bytes().await.map_err(store("read what is in use"))?;
            let in_use = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
            all.insert(environment, in_use);
        }
        Ok(all)
    }
}
