//! The object store: bytes by their SHA-256, at `objects/sha256/ab/cdef…`. What is read is verified while it is read,
//! so whoever holds a digest needs to trust neither the store nor who wrote into it. Nothing is ever changed here.
use std::{
    fs::{DirBuilder, Permissions},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use bot_messages::{Digest, ObjectRef};
use futures_util::StreamExt;
use object_store::{
    GetResult, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, local::LocalFileSystem, memory::InMemory,
    path::Path as Key,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

/// What is held in memory of one upload; larger objects go in parts of this size.
const PART_BYTES: usize = 8 << 20;
/// Of `objects/sha256/ab/cdef…`.
const KEY_PARTS: usize = 4;

/// What can go wrong with an object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It is not there.
    #[error("object {digest} is not in the store; it was never stored here, or retention removed it: build it again")]
    NotFound {
        /// Which.
        digest: Digest,
    },
    /// It is larger than the caller takes.
    #[error(
        "object {digest} has {size} bytes or more; at most {bytes_max} are taken here: raise the limit or make it smaller"
    )]
    TooLarge {
        /// Which.
        digest: Digest,
        /// Bytes seen.
        size: u64,
        /// Bytes allowed.
        bytes_max: u64,
    },
    /// The store holds other bytes than the digest names.
    #[error(
        "expected the bytes of {expected}, the store holds those of {found}; remove the damaged object and build it again"
    )]
    Damaged {
        /// What was asked for.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// The file was written to while it was stored.
    #[error(
        "{path} changed while it was stored: expected {expected}, then read {found}; store it once nobody writes to it"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// By the first reading.
        expected: Digest,
        /// By the second reading.
        found: Digest,
    },
    /// A file of ours.
    #[error("could not {doing} {path}: {source}")]
    Io {
        /// A verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The store itself.
    #[error("the object store could not {doing}: {source}")]
    Store {
        /// A verb.
        doing: &'static str,
        /// What it said.
        #[source]
        source: object_store::Error,
    },
}

/// The object store. Clones share it.
#[derive(Clone, Debug)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Where files are, if they are files: to take the right to write away.
    local: Option<Arc<LocalFileSystem>>,
}

impl Objects {
    /// In a directory that all bots of a fleet share; made if it is missing, for this user and group alone.
    pub fn directory(path: &Path) -> Result<Self, ObjectError> {
        let made = DirBuilder::new().recursive(true).mode(0o750).create(path);
        made.map_err(|source| ObjectError::Io { doing: "make the folder", path: path.to_owned(), source })?;
        // A message that names an object is durable; so is the object.
        let store = LocalFileSystem::new_with_prefix(path).map_err(store("open its folder"))?.with_fsync(true);
        let store = Arc::new(store);
        Ok(Self { store: store.clone(), local: Some(store) })
    }

    /// In memory: the fake for tests.
    pub fn in_memory() -> Self {
        Self { store: Arc::new(InMemory::new()), local: None }
    }

    /// Stores a file. Nobody sees it before it is whole; the same bytes stored twice are one object.
    pub async fn put_file(&self, path: &Path, media_type: &str) -> Result<ObjectRef, ObjectError> {
        let mut file = File::open(path).await.map_err(io("open", path))?;
        let mut first = Vec::new();
        read_part(&mut file, &mut first).await.map_err(io("read", path))?;
        if first.len() < PART_BYTES {
            return self.put_bytes(first, media_type).await;
        }
        // The name of an object is its content, so a large file is read twice: to name it, then to store it.
        let (expected, size) = hash(&mut file, first).await.map_err(io("read", path))?;
        file.rewind().await.map_err(io("read", path))?;
        let mut upload = self.store.put_multipart(&key(&expected)).await.map_err(store("begin an upload"))?;
        let sent = send(&mut file, &mut *upload, path).await;
        match sent {
            Ok(found) if found == expected => upload.complete().await.map_err(store("finish an upload"))?,
            other => {
                // What was sent so far is garbage either way; the first error is the one to tell.
                let _ = upload.abort().await;
                return Err(match other {
                    Ok(found) => ObjectError::Changed { path: path.to_owned(), expected, found },
                    Err(e) => e,
                });
            }
        };
        self.seal(&expected).await?;
        Ok(reference(expected, size, media_type))
    }

    /// Stores bytes.
    pub async fn put_bytes(&self, bytes: Vec<u8>, media_type: &str) -> Result<ObjectRef, ObjectError> {
        let (digest, size) = (digest_of(Sha256::new().chain_update(&bytes)), bytes.len() as u64);
        self.store.put(&key(&digest), PutPayload::from(bytes)).await.map_err(store("store bytes"))?;
        self.seal(&digest).await?;
        Ok(reference(digest, size, media_type))
    }

    /// Reads an object into a file, which is there only once it is verified. Says how many bytes it has.
    pub async fn get_file(&self, digest: &Digest, to: &Path, bytes_max: u64) -> Result<u64, ObjectError> {
        let mut partial_name = to.file_name().unwrap_or_default().to_owned();
        partial_name.push(".partial");
        let partial = Partial(to.with_file_name(partial_name));
        let mut file = File::create(&partial.0).await.map_err(io("create", &partial.0))?;
        let size = self.read(digest, bytes_max, &mut Sink::File(&mut file, &partial.0)).await?;
        file.flush().await.map_err(io("write", &partial.0))?;
        tokio::fs::rename(&partial.0, to).await.map_err(io("rename to", to))?;
        Ok(size)
    }

    /// Reads an object into memory.
    pub async fn get_bytes(&self, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>, ObjectError> {
        let mut all = Vec::new();
        self.read(digest, bytes_max, &mut Sink::Memory(&mut all)).await?;
        Ok(all)
    }

    /// Whether it is there; not whether it is sound, which only reading it tells.
    pub async fn exists(&self, digest: &Digest) -> Result<bool, ObjectError> {
        match self.store.head(&key(digest)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(store("look for an object")(e)),
        }
    }

    /// Hands the bytes on as they come; an error at the end means that what came before was not the object.
    async fn read(&self, digest: &Digest, bytes_max: u64, sink: &mut Sink<'_>) -> Result<u64, ObjectError> {
        let too_large = |size| ObjectError::TooLarge { digest: digest.clone(), size, bytes_max };
        let found: GetResult = self.store.get(&key(digest)).await.map_err(|e| match e {
            object_store::Error::NotFound { .. } => ObjectError::NotFound { digest: digest.clone() },
            e => store("open an object")(e),
        })?;
        if found.meta.size > bytes_max {
            return Err(too_large(found.meta.size));
        }
        let (mut hasher, mut size) = (Sha256::new(), 0);
        let mut stream = found.into_stream();
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(store("read an object"))?;
            size += bytes.len() as u64;
            if size > bytes_max {
                return Err(too_large(size));
            }
            hasher.update(&bytes);
            match sink {
                Sink::File(file, path) => file.write_all(&bytes).await.map_err(io("write", path))?,
                Sink::Memory(all) => all.extend_from_slice(&bytes),
            }
        }
        let found = digest_of(hasher);
        if found == *digest { Ok(size) } else { Err(ObjectError::Damaged { expected: digest.clone(), found }) }
    }

    /// Takes the right to write away: a stored object never changes.
    async fn seal(&self, digest: &Digest) -> Result<(), ObjectError> {
        let Some(local) = &self.local else { return Ok(()) };
        let path = local.path_to_filesystem(&key(digest)).map_err(store("name a file"))?;
        hand_over(&path).map_err(io("hand over", &path))?;
        tokio::fs::set_permissions(&path, Permissions::from_mode(0o440)).await.map_err(io("seal", &path))
    }
}

/// What root stores in another user's store is that user's to read.
fn hand_over(path: &Path) -> std::io::Result<()> {
    let made: Vec<&Path> = path.ancestors().take(KEY_PARTS + 1).collect();
    let Some((top, made)) = made.split_last().filter(|_| nix::unistd::geteuid().is_root()) else {
        return Ok(());
    };
    let owner = std::fs::metadata(top)?;
    for part in made {
        if std::fs::symlink_metadata(part)?.uid() != owner.uid() {
            lchown(part, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}

/// Where an object is read to.
enum Sink<'a> {
    File(&'a mut File, &'a Path),
    Memory(&'a mut Vec<u8>),
}

/// A file that is removed unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn key(digest: &Digest) -> Key {
    let (folder, name) = digest.hex().split_at(2);
    Key::from(format!("objects/sha256/{folder}/{name}"))
}

fn reference(digest: Digest, size: u64, media_type: &str) -> ObjectRef {
    ObjectRef { uri: Some(format!("object:{digest}")), digest, size, media_type: media_type.to_owned() }
}

fn digest_of(hasher: Sha256) -> Digest {
    match Digest::from_hex(&hex::encode(hasher.finalize())) {
        Ok(digest) => digest,
        Err(e) => unreachable!("32 bytes in hex are a digest: {e}"),
    }
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ObjectError {
    move |source| ObjectError::Io { doing, path: path.to_owned(), source }
}

fn store(doing: &'static str) -> impl FnOnce(object_store::Error) -> ObjectError {
    move |source| ObjectError::Store { doing, source }
}

/// Up to one part; fewer bytes only at the end of the file.
async fn read_part(file: &mut File, part: &mut Vec<u8>) -> std::io::Result<()> {
    part.clear();
    file.take(PART_BYTES as u64).read_to_end(part).await.map(|_| ())
}

async fn hash(file: &mut File, mut part: Vec<u8>) -> std::io::Result<(Digest, u64)> {
    let (mut hasher, mut size) = (Sha256::new(), 0);
    while !part.is_empty() {
        size += part.len() as u64;
        hasher.update(&part);
        read_part(file, &mut part).await?;
    }
    Ok((digest_of(hasher), size))
}

async fn send(file: &mut File, upload: &mut dyn MultipartUpload, path: &Path) -> Result<Digest, ObjectError> {
    let mut hasher = Sha256::new();
    let mut part = Vec::new();
    loop {
        read_part(file, &mut part).await.map_err(io("read", path))?;
        if part.is_empty() {
            return Ok(digest_of(hasher));
        }
        hasher.update(&part);
        upload.put_part(PutPayload::from(std::mem::take(&mut part))).await.map_err(store("upload a part"))?;
    }
}

#[cfg(test)]
mod tests {
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
                let stored = objects.put_bytes(bytes.clone(), "text/plain").await.unwrap();
                assert_eq!(stored.digest, digest_of(Sha256::new().chain_update(&bytes)));
                assert_eq!((stored.size, stored.media_type.as_str()), (bytes.len() as u64, "text/plain"));
                assert_eq!(objects.get_bytes(&stored.digest, MAX).await.unwrap(), bytes);
                assert_eq!(objects.put_bytes(bytes, "text/plain").await.unwrap(), stored, "twice is once");
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
                let stored = objects.put_file(&from, "x/y").await.unwrap();
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
            let stored = objects.put_bytes(vec![7; 100], "x/y").await.unwrap();
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
        let stored = objects.put_bytes(b"right".to_vec(), "x/y").await.unwrap();
        let path = objects.local.as_ref().unwrap().path_to_filesystem(&key(&stored.digest)).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o440);
        assert_eq!(dir.path().join("store").metadata().unwrap().permissions().mode() & 0o027, 0);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "wrong").unwrap();
        assert!(objects.get_bytes(&stored.digest, MAX).await.is_err());
        objects.put_bytes(b"right".to_vec(), "x/y").await.unwrap();
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
        let stored = objects.put_bytes(b"for another".to_vec(), "x/y").await.unwrap();
        let path = objects.local.as_ref().unwrap().path_to_filesystem(&key(&stored.digest)).unwrap();
        for part in path.ancestors().take(KEY_PARTS) {
            assert_eq!(part.metadata().unwrap().uid(), 65534, "{}", part.display());
        }
        assert_eq!(dir.path().metadata().unwrap().uid(), 0);
    }
}
