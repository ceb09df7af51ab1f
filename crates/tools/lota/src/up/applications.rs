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
        collections::BTreeSet,
        fs, io,
        path::{Path, PathBuf},
        time::Duration,
    };

    use anyhow::Context;
    use bot_sandbox::Served;
    use serde_json::Value;

    use crate::{home::Home, up::say::say};

    const GRACE: Duration = Duration::from_secs(5);
    /// How deep below a bot's folder the record of an application may lie.
    const RECORD_DEPTH: usize = 6;
    /// In the folder of an environment, as DeployBot lays it out.
    const RECORD: &str = "serve.json";
    /// What was deployed, and what it wrote, is not ours: a record in there may say anything.
    const NOT_OURS: [&str; 2] = ["releases", "data"];

    /// Stops every application that DeployBot has a record of: in the folders of the environments that are configured,
    /// and in those below its own folder that once were.
    pub(crate) async fn stop(home: &Home) -> anyhow::Result<usize> {
        let own = home.bot("deploy-bot");
        let mut records = BTreeSet::new();
        find_records(&own, RECORD_DEPTH, &mut records);
        match targets(home, &own) {
            Ok(targets) => records.extend(targets.into_iter().map(|target| target.join(RECORD))),
            Err(e) => say(format_args!("{e:#}; applications outside of {} may go on", own.display())),
        }
        let mut stopped = 0;
        for record in records {
            if let Some(served) = Served::adopt(&record)? {
                served.stop(GRACE).await?;
                stopped += 1;
            }
        }
        Ok(stopped)
    }

    fn find_records(dir: &Path, depth: usize, out: &mut BTreeSet<PathBuf>) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            if kind.is_dir() && depth > 0 && !NOT_OURS.iter().any(|other| name == *other) {
                find_records(&entry.path(), depth - 1, out);
            } else if kind.is_file() && name == RECORD {
                out.insert(entry.path());
            }
        }
    }

    /// The folders that the operator's file names; those that are relative start from DeployBot's.
    fn targets(home: &Home, own: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let settings = read(&home.join("config/deploy-bot.yaml"))?;
        let name = settings.pointer("/settings/environments").and_then(Value::as_str).unwrap_or("environments.yaml");
        let environments = read(&home.join("config").join(name))?;
        let all = environments.as_object().into_iter().flatten();
        let paths = all.filter_map(|(_, environment)| environment.pointer("/target/path")?.as_str());
        Ok(paths.map(|path| own.join(path).components().collect()).collect())
    }

    /// Null where there is no file.
    fn read(path: &Path) -> anyhow::Result<Value> {
        match fs::read_to_string(path) {
            Ok(text) => serde_saphyr::from_str(&text).with_context(|| format!("{} is wrong", path.display())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Value::Null),
            Err(e) => Err(e).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn records_are_looked_for_where_environments_are() {
            let dir = tempfile::tempdir().unwrap();
            let home = Home::new(dir.path()).unwrap();
            home.create().unwrap();
            let own = home.bot("deploy-bot");
            assert_eq!(targets(&home, &own).unwrap(), Vec::<PathBuf>::new());
            let text =
                "local: {target: {type: directory, path: environments/./local}}\nout: {target: {path: /srv/out}}\n";
            fs::write(home.join("config/mine.yaml"), text).unwrap();
            fs::write(home.join("config/deploy-bot.yaml"), "settings: {environments: mine.yaml}\n").unwrap();
            assert_eq!(targets(&home, &own).unwrap(), [own.join("environments/local"), "/srv/out".into()]);
            fs::write(home.join("config/mine.yaml"), "{").unwrap();
            assert!(targets(&home, &own).is_err());

            for folder in ["environments/gone", "environments/gone/data", "environments/gone/releases/1"] {
                let folder = own.join(folder);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join(RECORD), "{}").unwrap();
            }
            let mut found = BTreeSet::new();
            find_records(&own, RECORD_DEPTH, &mut found);
            assert_eq!(found.into_iter().collect::<Vec<_>>(), [own.join("environments/gone/serve.json")]);
        }
    }
}
