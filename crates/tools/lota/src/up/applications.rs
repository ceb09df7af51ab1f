//! The applications that a fleet deployed. They outlive its bots, so whoever wants them gone says so.
#[cfg(target_os = "linux")]
pub(crate) use linux::stop;

/// None were ever served where no fleet runs.
#[cfg(not(target_os = "linux"))]
pub(crate) async fn stop(_home: &crate::home::Home) -> anyhow::Result<usize> {
    Ok(0)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        path::{Path, PathBuf},
        time::Duration,
    };

    use bot_sandbox::Served;

    use crate::home::Home;

    const GRACE: Duration = Duration::from_secs(5);
    /// How deep below a bot's folder the record of an application may lie.
    const RECORD_DEPTH: usize = 6;

    /// Stops every application whose record lies below DeployBot's folder.
    pub(crate) async fn stop(home: &Home) -> anyhow::Result<usize> {
        let mut records = Vec::new();
        find_records(&home.bot("deploy-bot"), RECORD_DEPTH, &mut records);
        let mut stopped = 0;
        for record in records {
            if let Some(served) = Served::adopt(&record)? {
                served.stop(GRACE).await?;
                stopped += 1;
            }
        }
        Ok(stopped)
    }

    fn find_records(dir: &Path, depth: usize, out: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(dir) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            // What was deployed is the repository's, not ours: a serve.json in there is none of our records.
            if kind.is_dir() && depth > 0 && entry.file_name() != "releases" {
                find_records(&entry.path(), depth - 1, out);
            } else if kind.is_file() && entry.file_name() == "serve.json" {
                out.push(entry.path());
            }
        }
    }
}
