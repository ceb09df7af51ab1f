//! Every promise of the store on a directory and on the fake; `tests/s3.rs` holds the same on an S3 server.
use super::*;

const MAX: u64 = 64 << 20;

/// Every test runs on the real store and on the fake.
async fn on_both(test: impl AsyncFn(Objects, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    test(Objects::directory(&dir.path().join("store")).unwrap(), dir.path()).await;
    test(Objects::in_memory(), dir.path()).await;
}

fn none() -> Digest {
    ObjectRef::example("text/plain").digest
}

#[tokio::test]
async fn bytes_come_back_under_their_digest() {
    on_both(async |objects, _| {
        for bytes in [Vec::new(), b"hello".to_vec()] {
            let stored = objects.put_bytes(bytes.clone(), Kind::Log, "text/plain").await.unwrap();
            assert_eq!(stored.digest, digest_of(Sha256::new().chain_update(&bytes)));
            assert_eq!((stored.size, stored.media_type.as_str()), (bytes.len() as u64, "text/plain"));
            assert_eq!(objects.get_bytes(&stored.digest, MAX).await.unwrap(), bytes);
            assert_eq!(objects.put_bytes(bytes, Kind::Log, "text/plain").await.unwrap(), stored, "twice is once");
            assert!(objects.exists(&stored.digest).await.unwrap());
        }
    })
    .await;
}

#[tokio::test]
async fn files_of_every_size_come_back() {
    on_both(async |objects, dir| {
        for size in [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 5] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let (from, to) = (dir.join("from"), dir.join("to"));
            std::fs::write(&from, &bytes).unwrap();
            let stored = objects.put_file(&from, Kind::Source, "x/y").await.unwrap();
            assert_eq!(stored.size, size as u64);
            assert_eq!(stored.digest, digest_of(Sha256::new().chain_update(&bytes)));
            assert_eq!(objects.get_file(&stored.digest, &to, MAX).await.unwrap(), size as u64);
            assert!(std::fs::read(&to).unwrap() == bytes, "{size} bytes");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_and_what_is_too_large_is_said() {
    on_both(async |objects, dir| {
        let to = dir.join("missing");
        assert!(!objects.exists(&none()).await.unwrap());
        let missing = objects.get_file(&none(), &to, MAX).await.unwrap_err();
        assert!(matches!(missing, ObjectError::NotFound { .. }), "{missing}");
        let stored = objects.put_bytes(vec![7; 100], Kind::Log, "x/y").await.unwrap();
        let large = objects.get_file(&stored.digest, &to, 99).await.unwrap_err();
        assert!(matches!(large, ObjectError::TooLarge { size: 100, bytes_max: 99, .. }), "{large}");
        assert!(!to.exists() && !dir.join("missing.partial").exists());
    })
    .await;
}

#[tokio::test]
async fn other_bytes_than_promised_leave_nothing_behind() {
    on_both(async |objects, dir| {
        let lie = PutPayload::from_static(b"evil");
        objects.store.put(&key(&none()), lie).await.unwrap();
        let to = dir.join("verified");
        let told = objects.get_file(&none(), &to, MAX).await.unwrap_err().to_string();
        let found = digest_of(Sha256::new().chain_update(b"evil"));
        assert!(told.contains(none().as_str()) && told.contains(found.as_str()), "{told}");
        assert!(!to.exists() && !dir.join("verified.partial").exists());
        assert!(objects.get_bytes(&none(), MAX).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_stored_file_cannot_be_written_and_heals_when_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::directory(&dir.path().join("store")).unwrap();
    let stored = objects.put_bytes(b"right".to_vec(), Kind::Log, "x/y").await.unwrap();
    let path = objects.folder.as_ref().unwrap().files.path_to_filesystem(&key(&stored.digest)).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o440);
    assert_eq!(dir.path().join("store").metadata().unwrap().permissions().mode() & 0o027, 0);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "wrong").unwrap();
    assert!(objects.get_bytes(&stored.digest, MAX).await.is_err());
    objects.put_bytes(b"right".to_vec(), Kind::Log, "x/y").await.unwrap();
    assert_eq!(objects.get_bytes(&stored.digest, MAX).await.unwrap(), b"right");
}

#[tokio::test]
async fn what_root_stores_is_its_owners() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::directory(&dir.path().join("store")).unwrap();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT RUN: only root can store in another user's store");
        return;
    }
    lchown(dir.path().join("store"), Some(65534), Some(65534)).unwrap();
    let stored = objects.put_bytes(b"for another".to_vec(), Kind::Log, "x/y").await.unwrap();
    let path = objects.folder.as_ref().unwrap().files.path_to_filesystem(&key(&stored.digest)).unwrap();
    for part in path.ancestors().take(4) {
        assert_eq!(part.metadata().unwrap().uid(), 65534, "{}", part.display());
    }
    assert_eq!(dir.path().metadata().unwrap().uid(), 0);
}

#[tokio::test]
async fn folders_are_open_to_whom_the_store_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let objects = Objects::directory(&store).unwrap();
    std::fs::set_permissions(&store, Permissions::from_mode(0o2770)).unwrap();
    let stored = objects.put_bytes(b"of a group".to_vec(), Kind::Log, "x/y").await.unwrap();
    let path = objects.folder.as_ref().unwrap().files.path_to_filesystem(&key(&stored.digest)).unwrap();
    for part in path.ancestors().skip(1).take(4).chain([&*store.join("kinds/sha256")]) {
        assert_eq!(part.metadata().unwrap().permissions().mode() & 0o7777, 0o2770, "{}", part.display());
    }
}

#[tokio::test]
async fn who_was_taken_over_cannot_say_what_is_in_use() {
    on_both(async |objects, _| {
        let says = |token| InUse { digests: [none()].into(), token };
        let nothing = objects.said_in_use("live").await.unwrap();
        objects.write_in_use("live", &says(7), &nothing).await.unwrap();
        let first = objects.write_in_use("live", &says(9), &nothing).await.unwrap_err();
        assert!(matches!(first, ObjectError::Overtaken { .. }), "both would be the first: {first}");
        let seven = objects.said_in_use("live").await.unwrap();
        objects.write_in_use("live", &says(8), &seven).await.unwrap();
        let changed = objects.write_in_use("live", &says(9), &seven).await.unwrap_err();
        assert!(matches!(changed, ObjectError::Overtaken { .. }), "it looked before the other wrote: {changed}");
        let eight = objects.said_in_use("live").await.unwrap();
        let stale = objects.write_in_use("live", &says(7), &eight).await.unwrap_err();
        assert!(matches!(stale, ObjectError::Stale { token: 7, held: 8, .. }), "{stale}");
        assert_eq!(objects.in_use().await.unwrap()["live"], says(8));
    })
    .await;
}
