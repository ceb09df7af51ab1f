//! Files of the monitor's own: what it has to know after a restart, and the address of its API. Written whole or not.
use std::{io, path::Path};

use crate::watch::Memory;

/// In the bot's own folder.
pub(crate) const MEMORY_FILE: &str = "memory.json";
/// In the bot's own folder: host and port, nothing else. There while the API is served.
pub(crate) const ADDRESS_FILE: &str = "http-address";

/// What an earlier run wrote. A file that cannot be read is told, set aside and counts as none: the monitor must run
/// above all.
pub(crate) async fn read(dir: &Path) -> Memory {
    let path = dir.join(MEMORY_FILE);
    let bytes = match tokio::fs::read(&path).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Memory::default(),
        Err(e) => {
            tracing::warn!(path = %path.display(), error = %e, "what an earlier run knew cannot be read; beginning anew");
            return Memory::default();
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(memory) => memory,
        Err(e) => {
            let aside = path.with_extension("broken");
            tracing::warn!(path = %path.display(), error = %e, aside = %aside.display(), "what an earlier run knew is broken; beginning anew");
            let _ = tokio::fs::rename(&path, &aside).await;
            Memory::default()
        }
    }
}

/// Writes a file so that a reader sees the old or the new content, never a part.
pub(crate) async fn write(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let (part, whole) = (dir.join(format!("{name}.part")), dir.join(name));
    tokio::fs::create_dir_all(dir).await?;
    tokio::fs::write(&part, content).await?;
    tokio::fs::File::open(&part).await?.sync_all().await?;
    tokio::fs::rename(&part, &whole).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_and_what_is_broken_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).await, Memory::default());
        let memory = Memory { bots: vec!["BuildBot".into()], ..Memory::default() };
        write(dir.path(), MEMORY_FILE, &serde_json::to_vec(&memory).unwrap()).await.unwrap();
        assert_eq!(read(dir.path()).await, memory);
        write(dir.path(), MEMORY_FILE, b"{").await.unwrap();
        assert_eq!(read(dir.path()).await, Memory::default());
        assert!(dir.path().join("memory.broken").exists() && !dir.path().join("memory.json.part").exists());
    }
}
