//! Retention on a directory and on the fake. Days pass by naming a later time.
use std::{fs::File, path::PathBuf, time::SystemTime};

use bot_messages::ObjectRef;
use object_store::PutPayload;

use super::*;
use crate::InUse;

struct Shelf {
    objects: Objects,
    _dir: Option<tempfile::TempDir>,
}

impl Shelf {
    fn directory() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { objects: Objects::directory(dir.path()).unwrap(), _dir: Some(dir) }
    }

    fn both() -> [Self; 2] {
        [Self::directory(), Self { objects: Objects::in_memory(), _dir: None }]
    }

    async fn put(&self, text: &str, kind: Kind) -> ObjectRef {
        self.objects.put_bytes(text.as_bytes().to_vec(), kind, "x/y").await.unwrap()
    }

    async fn needs(&self, environment: &str, digests: &[&Digest]) {
        let digests = digests.iter().map(|digest| (*digest).clone()).collect();
        let before = self.objects.said_in_use(environment).await.unwrap();
        self.objects.write_in_use(environment, &InUse { digests, token: 1 }, &before).await.unwrap();
    }

    /// So long after an object was stored.
    async fn after(&self, object: &ObjectRef, span: TimeDelta) -> DateTime<Utc> {
        self.objects.store.head(&super::super::key(&object.digest)).await.unwrap().last_modified + span
    }

    async fn collect(&self, now: DateTime<Utc>, dry_run: bool) -> Result<Collected, ObjectError> {
        self.objects.collect(&RetentionDays::default(), &["live".to_owned()], now, dry_run).await
    }

    async fn has(&self, object: &ObjectRef) -> bool {
        self.objects.exists(&object.digest).await.unwrap()
    }

    fn file(&self, key: &Key) -> PathBuf {
        self.objects.folder.as_ref().unwrap().files.path_to_filesystem(key).unwrap()
    }
}

fn age(path: &Path, days: u64) {
    let then = path.metadata().unwrap().modified().unwrap() - std::time::Duration::from_secs(days * 86_400);
    File::open(path).unwrap().set_modified(then).unwrap();
}

fn counts(collected: &Collected) -> Vec<(Kind, u64)> {
    collected.removed.iter().map(|(kind, tally)| (*kind, tally.count)).collect()
}

#[tokio::test]
async fn each_kind_stays_for_its_days() {
    for shelf in Shelf::both() {
        shelf.needs("live", &[]).await;
        let mut last = None;
        for kind in Kind::ALL {
            last = Some(shelf.put(kind.as_str(), kind).await);
        }
        let (last, second) = (last.unwrap(), TimeDelta::minutes(1));
        let early = shelf.collect(shelf.after(&last, TimeDelta::days(14) - second).await, false).await.unwrap();
        assert_eq!((counts(&early), early.kept.count), (vec![], 6));
        let fortnight = [(Kind::Source, 1), (Kind::Keep, 1), (Kind::Bundle, 1)];
        let at = shelf.after(&last, TimeDelta::days(14) + second).await;
        for dry_run in [true, true, false] {
            let found = shelf.collect(at, dry_run).await.unwrap();
            assert_eq!((counts(&found).as_slice(), found.kept.count), (fortnight.as_slice(), 3), "{dry_run}");
            assert_eq!(found.removed[&Kind::Source].bytes, "source".len() as u64);
            assert_eq!(shelf.has(&last).await, dry_run);
        }
        assert_eq!(counts(&shelf.collect(at, false).await.unwrap()), []);
        let month = shelf.collect(at + TimeDelta::days(16), false).await.unwrap();
        assert_eq!(counts(&month), [(Kind::Log, 1), (Kind::Report, 1)]);
        let quarter = shelf.collect(at + TimeDelta::days(76), false).await.unwrap();
        assert_eq!(counts(&quarter), [(Kind::Artifact, 1)]);
        let left: Vec<ObjectMeta> = shelf.objects.store.list(None).try_collect().await.unwrap();
        let left: Vec<&str> =
            left.iter().map(|file| file.location.as_ref()).filter(|name| *name != "in-use.lock").collect();
        assert_eq!(left, ["in-use/live.json"]);
    }
}

#[tokio::test]
async fn what_was_stored_before_kinds_were_noted_is_an_artifact() {
    for shelf in Shelf::both() {
        shelf.needs("live", &[]).await;
        let old = shelf.put("old", Kind::Log).await;
        shelf.objects.store.delete(&marker(&old.digest, Kind::Log)).await.unwrap();
        let at = shelf.after(&old, TimeDelta::days(89)).await;
        assert_eq!(counts(&shelf.collect(at, false).await.unwrap()), []);
        let removed = shelf.collect(at + TimeDelta::days(1), false).await.unwrap();
        assert_eq!(counts(&removed), [(Kind::Artifact, 1)]);
    }
}

#[tokio::test]
async fn the_same_bytes_stay_as_long_as_the_kind_that_stays_longest() {
    for shelf in Shelf::both() {
        shelf.needs("live", &[]).await;
        let both = shelf.put("both", Kind::Artifact).await;
        assert_eq!(shelf.put("both", Kind::Log).await.digest, both.digest);
        let at = shelf.after(&both, TimeDelta::days(89)).await;
        assert_eq!(counts(&shelf.collect(at, false).await.unwrap()), []);
        shelf.collect(at + TimeDelta::days(2), false).await.unwrap();
        assert!(!shelf.has(&both).await);
    }
}

#[tokio::test]
async fn what_an_environment_needs_stays() {
    for shelf in Shelf::both() {
        let (needed, other) = (shelf.put("needed", Kind::Artifact).await, shelf.put("other", Kind::Artifact).await);
        shelf.needs("live", &[&needed.digest]).await;
        let at = shelf.after(&other, TimeDelta::days(1000)).await;
        let found = shelf.collect(at, false).await.unwrap();
        assert_eq!((counts(&found), found.in_use.count), (vec![(Kind::Artifact, 1)], 1));
        assert!(shelf.has(&needed).await && !shelf.has(&other).await);
        shelf.needs("live", &[]).await;
        shelf.collect(at, false).await.unwrap();
        assert!(!shelf.has(&needed).await);
    }
}

#[tokio::test]
async fn nothing_is_removed_while_it_is_not_known_what_is_needed() {
    for shelf in Shelf::both() {
        let old = shelf.put("old", Kind::Log).await;
        let at = shelf.after(&old, TimeDelta::days(1000)).await;
        let silent = shelf.collect(at, false).await.unwrap_err().to_string();
        assert!(silent.contains("live") && silent.contains("DeployBot"), "{silent}");
        shelf.needs("live", &[]).await;
        let torn = Key::from("in-use/gone.json");
        for text in ["", "{\"digests\": [\"sha256:", "{\"digests\": [\"nonsense\"]}", "{}"] {
            shelf.objects.store.put(&torn, PutPayload::from(text.as_bytes().to_vec())).await.unwrap();
            let refused = shelf.collect(at, false).await.unwrap_err();
            assert!(matches!(&refused, ObjectError::InUse { environment, .. } if environment == "gone"), "{refused}");
        }
        let huge = PutPayload::from(vec![b' '; (1 << 20) + 1]);
        shelf.objects.store.put(&torn, huge).await.unwrap();
        assert!(matches!(shelf.collect(at, false).await, Err(ObjectError::InUse { .. })));
        assert!(shelf.has(&old).await);
        shelf.objects.store.delete(&torn).await.unwrap();
        assert_eq!(counts(&shelf.collect(at, false).await.unwrap()), [(Kind::Log, 1)]);
    }
}

#[tokio::test]
async fn what_is_stored_again_is_young_again() {
    let shelf = Shelf::directory();
    shelf.needs("live", &[]).await;
    let stored = shelf.put("twice", Kind::Log).await;
    let (file, mark) = (shelf.file(&super::super::key(&stored.digest)), shelf.file(&marker(&stored.digest, Kind::Log)));
    let now = shelf.after(&stored, TimeDelta::zero()).await;
    for path in [&file, &mark] {
        age(path, 40);
    }
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let before = inode(&file);
    shelf.put("twice", Kind::Log).await;
    assert_eq!(inode(&file), before, "not written again");
    assert_eq!(counts(&shelf.collect(now + TimeDelta::days(1), false).await.unwrap()), []);
    // Young on a look just before the removal is enough, whatever the listing said.
    let (retention, now) = (RetentionDays::default(), now + TimeDelta::days(1));
    let collector =
        Collector { objects: &shelf.objects, retention: &retention, environments: &[], now, dry_run: false };
    assert!(!collector.remove(&stored.digest).await.unwrap() && shelf.has(&stored).await);
    age(&mark, 40);
    assert_eq!(counts(&shelf.collect(now, false).await.unwrap()), [(Kind::Log, 1)]);
}

#[tokio::test]
async fn nothing_young_is_removed_whatever_retention_says() {
    let shelf = Shelf::directory();
    let stored = shelf.put("young", Kind::Log).await;
    let retention = RetentionDays { log: 0, ..RetentionDays::default() };
    assert_eq!(retention.mistakes(), ["log is 0: expected 1 to 36500 days"]);
    let at = shelf.after(&stored, TimeDelta::hours(23)).await;
    shelf.objects.collect(&retention, &[], at, false).await.unwrap();
    assert!(shelf.has(&stored).await);
    // Nor where only the marker or only the object is old, as while it is stored again.
    let now = shelf.after(&stored, TimeDelta::zero()).await;
    let mark = shelf.file(&marker(&stored.digest, Kind::Log));
    age(&mark, 400);
    shelf.objects.collect(&retention, &[], at, false).await.unwrap();
    assert!(shelf.has(&stored).await);
    shelf.put("young", Kind::Log).await;
    age(&shelf.file(&super::super::key(&stored.digest)), 400);
    shelf.objects.collect(&retention, &[], now + TimeDelta::hours(23), false).await.unwrap();
    assert!(shelf.has(&stored).await);
}

#[tokio::test]
async fn files_that_were_never_finished_go_after_a_day_and_strange_ones_stay() {
    let shelf = Shelf::directory();
    shelf.needs("live", &[]).await;
    let stored = shelf.put("whole", Kind::Artifact).await;
    let file = shelf.file(&super::super::key(&stored.digest));
    let [begun, fresh, strange] = ["#1", "#2", ".txt"].map(|end| PathBuf::from(format!("{}{end}", file.display())));
    for path in [&begun, &fresh, &strange] {
        std::fs::write(path, "half").unwrap();
    }
    age(&begun, 2);
    let now = DateTime::<Utc>::from(fresh.metadata().unwrap().modified().unwrap_or(SystemTime::UNIX_EPOCH));
    for dry_run in [true, false] {
        let found = shelf.collect(now, dry_run).await.unwrap();
        assert_eq!(found.unfinished, Tally { count: 1, bytes: 4 });
        assert_eq!(begun.exists(), dry_run);
    }
    assert!(fresh.exists() && strange.exists() && shelf.has(&stored).await);
    shelf.collect(now + TimeDelta::days(400), false).await.unwrap();
    assert!(!fresh.exists() && strange.exists() && !shelf.has(&stored).await);
}

#[tokio::test]
async fn markers_without_an_object_go_when_they_are_old() {
    for shelf in Shelf::both() {
        shelf.needs("live", &[]).await;
        let stored = shelf.put("cut short", Kind::Log).await;
        let at = shelf.after(&stored, TimeDelta::days(29)).await;
        shelf.objects.store.delete(&super::super::key(&stored.digest)).await.unwrap();
        shelf.collect(at, false).await.unwrap();
        assert!(shelf.objects.store.head(&marker(&stored.digest, Kind::Log)).await.is_ok());
        shelf.collect(at + TimeDelta::days(2), false).await.unwrap();
        assert!(shelf.objects.store.head(&marker(&stored.digest, Kind::Log)).await.is_err());
    }
}

#[tokio::test]
async fn what_is_of_use_again_counts_as_stored_anew() {
    let shelf = Shelf::directory();
    shelf.needs("live", &[]).await;
    let [idle, renewed] = [shelf.put("idle", Kind::Keep).await, shelf.put("renewed", Kind::Keep).await];
    for object in [&idle, &renewed] {
        age(&shelf.file(&super::super::key(&object.digest)), 20);
        age(&shelf.file(&marker(&object.digest, Kind::Keep)), 20);
    }
    assert!(shelf.objects.renew(&renewed.digest, Kind::Keep).await.unwrap());
    let now = shelf.after(&idle, TimeDelta::days(20)).await;
    assert_eq!(counts(&shelf.collect(now, false).await.unwrap()), [(Kind::Keep, 1)]);
    assert!(shelf.has(&renewed).await && !shelf.objects.renew(&idle.digest, Kind::Keep).await.unwrap());
}
