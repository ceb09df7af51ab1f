//! Retention: removes what is old, by kind, and never what an environment needs. Goes through the store folder by folder
//! (`00` to `ff`), so that only a 256th of it is ever in memory. What is stored again meanwhile is seen just before it
//! would be removed; whoever stores between that look and the removal has to build again, which reading then says.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::Path,
};

use bot_messages::Digest;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{TryStreamExt, future::try_join_all};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, path::Path as Key};
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use super::{
    Kind, ObjectError, Objects,
    error::{is_missing_object, store},
    kind::{marker, read_marker},
};

/// Nothing younger is ever removed, whatever retention says.
const YOUNG: TimeDelta = TimeDelta::days(1);
const DAYS_MAX: u32 = 36_500;

/// How long an object of each kind stays after it was last stored. Days, 1 to 36500.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionDays {
    /// Source trees.
    pub source: u32,
    /// Artifacts, and what was stored before kinds were noted.
    pub artifact: u32,
    /// What builds keep for their tests.
    pub keep: u32,
    /// Logs of jobs.
    pub log: u32,
    /// Reports of test suites.
    pub report: u32,
    /// Commits handed over by `lota push`.
    pub bundle: u32,
}

impl Default for RetentionDays {
    fn default() -> Self {
        Self { source: 14, artifact: 90, keep: 14, log: 30, report: 30, bundle: 14 }
    }
}

impl RetentionDays {
    /// Of one kind.
    pub const fn of(&self, kind: Kind) -> u32 {
        match kind {
            Kind::Source => self.source,
            Kind::Artifact => self.artifact,
            Kind::Keep => self.keep,
            Kind::Log => self.log,
            Kind::Report => self.report,
            Kind::Bundle => self.bundle,
        }
    }

    /// All mistakes, each with what was expected.
    pub fn mistakes(&self) -> Vec<String> {
        let wrong = Kind::ALL.into_iter().filter(|kind| !(1..=DAYS_MAX).contains(&self.of(*kind)));
        wrong.map(|kind| format!("{kind} is {}: expected 1 to {DAYS_MAX} days", self.of(kind))).collect()
    }

    fn is_over(&self, kind: Kind, stored: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        now - stored >= TimeDelta::days(i64::from(self.of(kind))).max(YOUNG)
    }
}

/// So many objects with so many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// By the kind that an object was stored as last.
    pub removed: BTreeMap<Kind, Tally>,
    /// Files that were begun and never finished.
    pub unfinished: Tally,
    /// Old enough, and needed by an environment.
    pub in_use: Tally,
    /// Everything else.
    pub kept: Tally,
}

/// Who goes through the store, and by what.
struct Collector<'a> {
    objects: &'a Objects,
    retention: &'a RetentionDays,
    environments: &'a [String],
    now: DateTime<Utc>,
    dry_run: bool,
}

struct Old {
    digest: Digest,
    size: u64,
    kind: Kind,
}

impl Objects {
    /// Removes what is over by `retention`, unless `dry_run`, which only counts. `environments` are those that must have
    /// said what they need ([`Objects::write_in_use`]): while one has not, or cannot be read, nothing is removed.
    pub async fn collect(
        &self,
        retention: &RetentionDays,
        environments: &[String],
        now: DateTime<Utc>,
        dry_run: bool,
    ) -> Result<Collected, ObjectError> {
        let collector = Collector { objects: self, retention, environments, now, dry_run };
        let in_use = collector.in_use().await?;
        let mut collected = Collected::default();
        for folder in 0..=u8::MAX {
            collector.folder(&format!("{folder:02x}"), &in_use, &mut collected).await?;
        }
        collected.unfinished = collector.unfinished().await?;
        Ok(collected)
    }
}

impl Collector<'_> {
    async fn in_use(&self) -> Result<BTreeSet<Digest>, ObjectError> {
        let all = self.objects.in_use().await?;
        if let Some(silent) = self.environments.iter().find(|name| !all.contains_key(*name)) {
            let why =
                "it has not said yet what it needs: let DeployBot run once, which says so when it starts".to_owned();
            return Err(ObjectError::InUse { environment: silent.clone(), why });
        }
        Ok(all.into_values().flat_map(|in_use| in_use.digests).collect())
    }

    async fn list(&self, prefix: String) -> Result<Vec<ObjectMeta>, ObjectError> {
        let listed = self.objects.store.list(Some(&Key::from(prefix))).try_collect().await;
        listed.map_err(store("list its objects"))
    }

    async fn folder(
        &self,
        folder: &str,
        in_use: &BTreeSet<Digest>,
        collected: &mut Collected,
    ) -> Result<(), ObjectError> {
        let mut markers: HashMap<Digest, Vec<(Kind, DateTime<Utc>)>> = HashMap::new();
        for found in self.list(format!("kinds/sha256/{folder}")).await? {
            if let Some((digest, kind)) = read_marker(folder, found.location.filename().unwrap_or_default()) {
                markers.entry(digest).or_default().push((kind, found.last_modified));
            }
        }
        let mut old = Vec::new();
        for found in self.list(format!("objects/sha256/{folder}")).await? {
            let name = found.location.filename().unwrap_or_default();
            // What bears no digest's name is not ours to remove.
            let Ok(digest) = Digest::from_hex(&format!("{folder}{name}")) else { continue };
            let kinds = markers.remove(&digest).unwrap_or_else(|| vec![(Kind::Artifact, found.last_modified)]);
            match self.verdict(&kinds, found.last_modified) {
                None => collected.kept.add(found.size),
                Some(_) if in_use.contains(&digest) => collected.in_use.add(found.size),
                Some(kind) => old.push(Old { digest, size: found.size, kind }),
            }
        }
        if !old.is_empty() && !self.dry_run {
            // An environment may have come to need one of them since.
            let in_use = self.in_use().await?;
            let mut removed = Vec::new();
            for object in old {
                let stays = in_use.contains(&object.digest) || !self.remove(&object.digest).await?;
                if stays { collected.kept.add(object.size) } else { removed.push(object) }
            }
            old = removed;
        }
        for object in old {
            collected.removed.entry(object.kind).or_default().add(object.size);
        }
        // A marker whose object is gone: its removal was cut short, or its storing never ended.
        for (digest, kinds) in markers {
            if !self.dry_run && self.verdict(&kinds, DateTime::UNIX_EPOCH).is_some() {
                self.remove(&digest).await?;
            }
        }
        Ok(())
    }

    /// The kind that an object was stored as last, if it is over by all of its kinds.
    fn verdict(&self, kinds: &[(Kind, DateTime<Utc>)], stored: DateTime<Utc>) -> Option<Kind> {
        let is_over =
            self.now - stored >= YOUNG && kinds.iter().all(|(kind, at)| self.retention.is_over(*kind, *at, self.now));
        kinds.iter().max_by_key(|(_, at)| at).filter(|_| is_over).map(|(kind, _)| *kind)
    }

    /// Removes an object with its markers, the markers last: without them it would pass for an artifact. Not if it was
    /// stored again since it was listed.
    async fn remove(&self, digest: &Digest) -> Result<bool, ObjectError> {
        let stored = Kind::ALL.map(|kind| async move {
            match self.objects.store.head(&marker(digest, kind)).await {
                Ok(found) => Ok(Some((kind, found.last_modified))),
                Err(e) if is_missing_object(&e) => Ok(None),
                Err(e) => Err(store("look for the kind of an object")(e)),
            }
        });
        let kinds: Vec<_> = try_join_all(stored).await?.into_iter().flatten().collect();
        if kinds.iter().any(|(kind, at)| !self.retention.is_over(*kind, *at, self.now)) {
            return Ok(false);
        }
        self.delete(&super::key(digest)).await?;
        for (kind, _) in kinds {
            self.delete(&marker(digest, kind)).await?;
        }
        Ok(true)
    }

    async fn delete(&self, key: &Key) -> Result<(), ObjectError> {
        match self.objects.store.delete(key).await {
            Err(e) if !is_missing_object(&e) => Err(store("remove an object")(e)),
            _ => Ok(()),
        }
    }

    /// Files of a directory that were begun more than a day ago. Of an S3 server's a rule of the bucket takes care.
    async fn unfinished(&self) -> Result<Tally, ObjectError> {
        let Some(folder) = &self.objects.folder else { return Ok(Tally::default()) };
        let (root, now, dry_run) = (folder.root.clone(), self.now, self.dry_run);
        let walked = tokio::task::spawn_blocking(move || unfinished(&root, now, dry_run)).await;
        let walked = walked.unwrap_or_else(|e| Err(io::Error::other(e)));
        walked.map_err(|source| ObjectError::Io {
            doing: "look for unfinished files in",
            path: folder.root.clone(),
            source,
        })
    }
}

/// A file is written under its name and `#` and a number, and then renamed.
fn unfinished(root: &Path, now: DateTime<Utc>, dry_run: bool) -> io::Result<Tally> {
    let mut tally = Tally::default();
    for entry in WalkDir::new(root) {
        let entry = match entry {
            Ok(entry) => entry,
            // Renamed or removed meanwhile.
            Err(e) if e.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => continue,
            Err(e) => return Err(e.into()),
        };
        let name = entry.file_name().to_string_lossy();
        let is_begun = name.rsplit_once('#').is_some_and(|(_, number)| number.parse::<u64>().is_ok());
        if !entry.file_type().is_file() || !is_begun {
            continue;
        }
        let meta = entry.metadata()?;
        if now - DateTime::<Utc>::from(meta.modified()?) < YOUNG {
            continue;
        }
        if !dry_run {
            fs::remove_file(entry.path())?;
        }
        tally.add(meta.len());
    }
    Ok(tally)
}

#[cfg(test)]
mod tests;
