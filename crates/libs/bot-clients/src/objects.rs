//! The object store: bytes by their SHA-256, at `objects/sha256/ab/cdef…`, in a directory or on an S3 server. What is
//! read is verified while it is read, so whoever holds a digest needs to trust neither the store nor who wrote into it.
//! An object never changes; only retention (`collect`) removes one.
mod collect;
mod error;
mod in_use;
mod kind;
mod place;
mod s3;
mod settings;

use std::{
    fmt,
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

pub use self::{
    collect::{Collected, RetentionDays, Tally},
    error::ObjectError,
    in_use::{InUse, Said},
    kind::Kind,
    settings::ObjectSettings,
};
use self::{
    error::{io, is_missing_object, store},
    place::Place,
};

/// What is held in memory of one upload; larger objects go in parts of this size.
const PART_BYTES: usize = 8 << 20;

/// The object store. Clones share it.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Where the files are, if they are files.
    folder: Option<Folder>,
}

#[derive(Clone)]
struct Folder {
    root: PathBuf,
    files: Arc<LocalFileSystem>,
}

impl Objects {
    /// Where the fleet's settings say: a folder, or such as
    /// `s3://bucket/prefix?endpoint=https://minio.example.org&region=eu-central-1` (see `place.rs`). Asks nobody yet.
    pub fn open(place: &str) -> Result<Self, ObjectError> {
        match Place::parse(place)? {
            Place::Folder(path) => Self::directory(&path),
            Place::S3(bucket) => Ok(Self { store: s3::connect(&bucket)?, folder: None }),
        }
    }

    /// In a directory that all bots of a fleet share; made if it is missing, for this user and group alone.
    pub fn directory(path: &Path) -> Result<Self, ObjectError> {
        DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(io("make the folder", path))?;
        // A message that names an object is durable; so is the object.
        let files = LocalFileSystem::new_with_prefix(path).map_err(store("open its folder"))?.with_fsync(true);
        let files = Arc::new(files);
        Ok(Self { store: files.clone(), folder: Some(Folder { root: path.to_owned(), files }) })
    }

    /// In memory: the fake for tests.
    pub fn in_memory() -> Self {
        Self { store: Arc::new(InMemory::new()), folder: None }
    }

    /// Stores a file. Nobody sees it before it is whole; what is there already is not sent again.
    pub async fn put_file(&self, path: &Path, kind: Kind, media_type: &str) -> Result<ObjectRef, ObjectError> {
        let mut file = File::open(path).await.map_err(io("open", path))?;
        let mut first = Vec::new();
        read_part(&mut file, &mut first).await.map_err(io("read", path))?;
        if first.len() < PART_BYTES {
            return self.put_bytes(first, kind, media_type).await;
        }
        // The name of an object is its content, so a large file is read twice: to name it, then to store it.
        let (expected, size) = hash(&mut file, first).await.map_err(io("read", path))?;
        self.mark(&expected, kind).await?;
        if !self.holds(&expected, size).await? {
            file.rewind().await.map_err(io("read", path))?;
            self.upload(&mut file, path, &expected).await?;
            self.seal(&key(&expected)).await?;
        }
        Ok(reference(expected, size, media_type))
    }

    /// Stores bytes.
    pub async fn put_bytes(&self, bytes: Vec<u8>, kind: Kind, media_type: &str) -> Result<ObjectRef, ObjectError> {
        let (digest, size) = (digest_of(Sha256::new().chain_update(&bytes)), bytes.len() as u64);
        self.mark(&digest, kind).await?;
        if !self.holds(&digest, size).await? {
            self.store.put(&key(&digest), PutPayload::from(bytes)).await.map_err(store("store bytes"))?;
            self.seal(&key(&digest)).await?;
        }
        Ok(reference(digest, size, media_type))
    }

    /// Sends a file in parts; it has to have the expected bytes still.
    async fn upload(&self, file: &mut File, path: &Path, expected: &Digest) -> Result<(), ObjectError> {
        let mut upload = self.store.put_multipart(&key(expected)).await.map_err(store("begin an upload"))?;
        let sent = send(file, &mut *upload, path).await;
        if let Ok(found) = &sent
            && found == expected
        {
            upload.complete().await.map_err(store("finish an upload"))?;
            return Ok(());
        }
        // What was sent so far is garbage either way; the first error is the one to tell.
        let _ = upload.abort().await;
        let (path, expected) = (path.to_owned(), expected.clone());
        Err(sent.map_or_else(|e| e, |found| ObjectError::Changed { path, expected, found }))
    }

    /// Whether it need not be sent again. A file is read for that, so that a damaged one heals; of an S3 server's the
    /// size is enough, since the server has checked what it was sent.
    async fn holds(&self, digest: &Digest, size: u64) -> Result<bool, ObjectError> {
        match self.store.head(&key(digest)).await {
            Ok(found) if found.size != size => Ok(false),
            Ok(_) if self.folder.is_none() => Ok(true),
            Ok(_) => match self.read(digest, size, &mut Sink::Nothing).await {
                Err(ObjectError::NotFound { .. } | ObjectError::Damaged { .. } | ObjectError::TooLarge { .. }) => {
                    Ok(false)
                }
                read => read.map(|_| true),
            },
            Err(e) if is_missing_object(&e) => Ok(false),
            Err(e) => Err(store("look for an object")(e)),
        }
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
            Err(e) if is_missing_object(&e) => Ok(false),
            Err(e) => Err(store("look for an object")(e)),
        }
    }

    /// Whether it is there; then it counts as stored now, and its retention begins anew.
    pub async fn renew(&self, digest: &Digest, kind: Kind) -> Result<bool, ObjectError> {
        if !self.exists(digest).await? {
            return Ok(false);
        }
        self.mark(digest, kind).await?;
        // Retention may have come in between.
        self.exists(digest).await
    }

    /// Hands the bytes on as they come; an error at the end means that what came before was not the object.
    async fn read(&self, digest: &Digest, bytes_max: u64, sink: &mut Sink<'_>) -> Result<u64, ObjectError> {
        let too_large = |size| ObjectError::TooLarge { digest: digest.clone(), size, bytes_max };
        let found: GetResult = self.store.get(&key(digest)).await.map_err(|e| match e {
            e if is_missing_object(&e) => ObjectError::NotFound { digest: digest.clone() },
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
                Sink::Nothing => {}
            }
        }
        let found = digest_of(hasher);
        if found == *digest { Ok(size) } else { Err(ObjectError::Damaged { expected: digest.clone(), found }) }
    }

    /// Takes the right to write away: what is stored never changes, it is only replaced.
    async fn seal(&self, key: &Key) -> Result<(), ObjectError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let path = folder.files.path_to_filesystem(key).map_err(store("name a file"))?;
        hand_over(&path, key.parts().count()).map_err(io("hand over", &path))?;
        tokio::fs::set_permissions(&path, Permissions::from_mode(0o440)).await.map_err(io("seal", &path))
    }
}

impl fmt::Debug for Objects {
    /// Where it is, and no more: an S3 client also knows credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Objects({})", self.store)
    }
}

/// What root stores in another user's store is that user's to read; and folders have the store's own rights, so that users who
/// share it by a group can write beside each other. `parts` are the file and the folders below the store.
fn hand_over(path: &Path, parts: usize) -> std::io::Result<()> {
    let made: Vec<&Path> = path.ancestors().take(parts + 1).collect();
    let Some((top, made)) = made.split_last() else { return Ok(()) };
    let (store, own) = (std::fs::metadata(top)?, nix::unistd::geteuid());
    for part in made {
        let found = std::fs::symlink_metadata(part)?;
        if own.is_root() && found.uid() != store.uid() {
            lchown(part, Some(store.uid()), Some(store.gid()))?;
        }
        let may = own.is_root() || found.uid() == own.as_raw();
        if found.is_dir() && may && found.mode() != store.mode() {
            std::fs::set_permissions(part, store.permissions())?;
        }
    }
    Ok(())
}

/// Where an object is read to.
enum Sink<'a> {
    File(&'a mut File, &'a Path),
    Memory(&'a mut Vec<u8>),
    /// Only to see whether it is sound.
    Nothing,
}

/// A file that is removed unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Of `objects/sha256/ab/cdef…`.
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
mod tests;
