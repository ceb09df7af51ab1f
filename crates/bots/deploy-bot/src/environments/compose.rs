//! A project of docker's compose plugin on this machine: as scripts, like those an operator would write, around a compose
//! file that is resolved and looked at first.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use bot_messages::pipeline::Span;
use serde::Deserialize;

use super::{
    fields::Fields,
    target::{Scripts, check_names, default_timeout},
};
use crate::compose::{COUNT_LABEL, DIGEST_LABEL, RUNS_LABEL};

/// What a resolved file is called in the folder of a run.
pub(crate) const RESOLVED: &str = "compose.json";
/// And what an archive says of itself.
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const INDEX: &str = "index.json";

/// A target as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Compose {
    project: String,
    /// In the release; with `image` the operator's own, where a relative path starts from the configuration folder.
    file: String,
    image: Option<Archive>,
    /// What the release's file may have of this machine: everything.
    #[serde(default)]
    allow_host: bool,
    #[serde(default = "default_socket")]
    socket: PathBuf,
    /// docker's own folder of configuration: its plugins, and what it signs in to registries with.
    docker_config: Option<PathBuf>,
    #[serde(default)]
    secrets: BTreeSet<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default = "default_timeout")]
    timeout: Span,
    url: Option<String>,
}

/// An image that a release holds as `docker save` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Archive {
    /// In the release.
    pub(crate) archive: String,
    /// The only name that is believed of it, without a tag.
    pub(crate) name: String,
}

fn default_socket() -> PathBuf {
    "/var/run/docker.sock".into()
}

/// What has to be known besides the scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Project {
    pub(crate) name: String,
    /// Writes [`RESOLVED`], and with an archive [`MANIFEST`] and [`INDEX`]. Needs no engine.
    pub(crate) resolve: String,
    /// Whether the file is the release's, and may not have everything.
    pub(crate) is_judged: bool,
    pub(crate) archive: Option<Archive>,
    pub(crate) socket: PathBuf,
}

const NEEDS: &str = r"docker compose version >/dev/null 2>&1 || {
  echo 'docker and its plugin compose are needed, and one is not here: install both (target.docker_config names another folder of plugins)'
  exit 1
}
";

/// Tar may hold a name twice; then both are written, and the file is none.
const READ_ARCHIVE: &str = r#"tar -xOf "$LOTA_RELEASE/$LOTA_ARCHIVE" manifest.json > manifest.json
tar -xOf "$LOTA_RELEASE/$LOTA_ARCHIVE" index.json > index.json 2>/dev/null || : > index.json
"#;

const RESOLVE: &str = r#"docker compose --project-name "$LOTA_PROJECT" --project-directory "$LOTA_COMPOSE_DIR" \
  --file "$LOTA_COMPOSE_DIR/$LOTA_COMPOSE_NAME" config --format json > compose.json
"#;

/// The name in the archive may be another's by the next load; this one stays the release's.
const LOAD: &str = r#"loaded=$(docker load --quiet --input "$LOTA_RELEASE/$LOTA_ARCHIVE" | sed -n 's/^Loaded image[^:]*: //p' | tail -n 1)
docker tag "$loaded" "$LOTA_IMAGE"
"#;

/// Compose makes a container under another name before it takes the place of the old one: a bot that died in between left it
/// there, and it would be in the way.
const UP: &str = r#"docker ps --all --quiet --filter "label=com.docker.compose.project=$LOTA_PROJECT" --filter status=created > left
while read -r container; do docker rm --force "$container" >/dev/null; done < left
docker compose --project-name "$LOTA_PROJECT" --file compose.json up --detach --remove-orphans --quiet-pull
"#;

/// Images of releases that nobody goes back to.
const PRUNE: &str = r#"docker images --format '{{.Repository}}:{{.Tag}}' lotabots/deployed | while read -r image; do
  case $image in "lotabots/deployed:$LOTA_PROJECT-"*) ;; *) continue ;; esac
  case " $LOTA_KEEP " in *" ${image#"lotabots/deployed:$LOTA_PROJECT-"} "*) ;; *) docker rmi "$image" >/dev/null 2>&1 || : ;; esac
done
"#;

const DOWN: &str = r#"docker compose --project-name "$LOTA_PROJECT" down --remove-orphans
"#;

impl Compose {
    /// What these fields mean as scripts; their mistakes are told.
    pub(super) fn scripts(self, from: &mut Fields<'_>, config_dir: &Path) -> Option<Scripts> {
        check_names(from, &self.secrets, &self.env);
        if !self.fits(from) {
            return None;
        }
        let file = config_dir.join(&self.file);
        let (dir, name) = match &self.image {
            Some(_) => (
                file.parent().unwrap_or(config_dir).display().to_string(),
                file.file_name()?.to_string_lossy().into_owned(),
            ),
            // The folder is the release's, and told to each script.
            None => (String::new(), self.file.clone()),
        };
        let mut env = self.env;
        env.extend([
            ("LOTA_PROJECT".to_owned(), self.project.clone()),
            ("LOTA_COMPOSE_DIR".to_owned(), dir),
            ("LOTA_COMPOSE_NAME".to_owned(), name),
        ]);
        let mut files = BTreeMap::new();
        if let Some(folder) = self.docker_config {
            files.insert("DOCKER_CONFIG".to_owned(), folder);
        }
        let (mut resolve, mut deploy) = (NEEDS.to_owned(), String::new());
        if let Some(image) = &self.image {
            env.insert("LOTA_ARCHIVE".to_owned(), image.archive.clone());
            files.insert("LOTA_COMPOSE_FILE".to_owned(), file);
            resolve.push_str(READ_ARCHIVE);
            deploy.push_str(LOAD);
        } else {
            resolve.push_str("LOTA_COMPOSE_DIR=$LOTA_RELEASE\n");
        }
        resolve.push_str(RESOLVE);
        deploy.push_str(UP);
        if self.image.is_some() {
            deploy.push_str(PRUNE);
        }
        let project = Project {
            name: self.project,
            resolve,
            is_judged: self.image.is_none() && !self.allow_host,
            archive: self.image,
            socket: self.socket,
        };
        Some(Scripts {
            verify: Some(verify()),
            rollback: Some(format!("if [ -z \"$LOTA_HEX\" ]; then\n{DOWN}exit 0; fi\n{deploy}")),
            deploy,
            secrets: self.secrets,
            secret_files: BTreeMap::new(),
            files,
            env,
            timeout: self.timeout.0,
            network: true,
            url: self.url,
            project: Some(project),
        })
    }

    fn fits(&self, from: &mut Fields<'_>) -> bool {
        let mut right = true;
        let mut expect = |fits: bool, field: &str, what: &str| {
            if !fits {
                from.wrong(&format!("target.{field}"), what);
                right = false;
            }
        };
        let is_word = |text: &str, more: &str| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c);
            (1..=60).contains(&text.len())
                && text.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
                && text.chars().all(plain)
        };
        expect(is_word(&self.project, "-_"), "project", "expected small letters, digits, `-`, `_`, such as shop");
        match &self.image {
            None => expect(is_inside(&self.file), "file", "expected a path inside the release, such as compose.yaml"),
            Some(image) => {
                expect(!self.file.is_empty(), "file", "expected your own compose file, such as shop.compose.yaml");
                expect(
                    is_inside(&image.archive),
                    "image.archive",
                    "expected a path inside the release, such as app.tar",
                );
                let what = "expected the name that the archive may take, without a tag, such as shop/app";
                expect(is_word(&image.name, "-_./"), "image.name", what);
                expect(!self.allow_host, "allow_host", "is of a release's own file: yours may have everything anyway");
            }
        }
        expect(self.socket.is_absolute(), "socket", "expected the absolute path of docker's socket");
        let folder = self.docker_config.as_deref();
        expect(folder.is_none_or(Path::is_absolute), "docker_config", "expected an absolute path");
        right
    }
}

fn is_inside(path: &str) -> bool {
    let path = Path::new(path);
    path.components().all(|part| matches!(part, Component::Normal(_))) && path.file_name().is_some()
}

/// Every container of the project is of this release, as many as there are to be, and each is well.
fn verify() -> String {
    format!(
        r#"docker ps --all --filter "label=com.docker.compose.project=$LOTA_PROJECT" --filter label=com.docker.compose.oneoff=False \
  --format '{{{{.Label "{DIGEST_LABEL}"}}}}|{{{{.Label "{COUNT_LABEL}"}}}}|{{{{.Label "{RUNS_LABEL}"}}}}|{{{{.Names}}}}|{{{{.Status}}}}' > there
count=0 expected=
while IFS='|' read -r digest wanted runs name status; do
  count=$((count + 1)); expected=$wanted
  if [ "$digest" != "$LOTA_DIGEST" ]; then echo "$name is of another release: $digest"; exit 1; fi
  case $runs:$status in
    *unhealthy* | *"health: starting"* | *Paused*) echo "$name: $status"; exit 1 ;;
    on:Up* | once:"Exited (0)"*) ;;
    *) echo "$name: $status"; exit 1 ;;
  esac
done < there
if [ "$count" = 0 ] || [ "$count" != "$expected" ]; then echo "$count containers are there, expected ${{expected:-some}}"; exit 1; fi
"#
    )
}
