//! One attempt at one build, in the order in which it happens: source, pipeline, steps, products. `lib.rs` says what
//! its end means to the fleet.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bot_clients::{ArchiveError, Kind, detect, list_tree, pack, read_pipeline, unpack};
use bot_core::{Effects, Fail, JobCx};
use bot_messages::{
    Code, ObjectRef,
    build::{BuildStarted, StepResult},
    pipeline::{DeployStage, FILE_NAME, Occasion, Pipeline},
};
use bot_pipeline::{Combination, Folder, Images, Listed, Log, ProductError, Products};
use bot_sandbox::Sandbox;
use tokio::task::spawn_blocking;

use crate::{
    BuildBot, BuildJob,
    builds::Product,
    credential::Credential,
    git::Place,
    mirrors::{FetchError, Wanted},
    of_objects,
    remote::Remote,
    steps::{Given, Variant},
};

/// A tar.zst.
const ARCHIVE: &str = "application/zstd";
/// So that `build.completed` fits into a message whatever the pipeline file says.
const DEPLOY_BYTES_MAX: usize = 64 << 10;

/// Parts of the log that no step says.
const FETCH: &str = "fetch";
const STORE: &str = "store";

/// The source, as it is stored.
const SOURCE: &str = "source.tar.zst";

/// Why there is no build.
pub(crate) struct Broken {
    /// Of the log: the step, or the bot's own work.
    pub(crate) part: String,
    pub(crate) step: Option<String>,
    pub(crate) fail: Fail,
}

impl Broken {
    fn at(part: &str) -> impl Fn(Fail) -> Self {
        move |fail| Self { part: part.to_owned(), step: None, fail }
    }
}

/// What a build came to.
pub(crate) struct Built {
    /// Of the pipeline's deploy section what may go on.
    pub(crate) deploy: BTreeMap<String, DeployStage>,
    pub(crate) source: ObjectRef,
    pub(crate) artifact: ObjectRef,
    pub(crate) keep: Option<ObjectRef>,
    pub(crate) steps: Vec<StepResult>,
    /// By an earlier job.
    pub(crate) cached: bool,
}

/// What is known before the first step.
pub(crate) struct Prepared {
    pub(crate) pipeline: Pipeline,
    products: (Products, Option<Products>),
    pub(crate) source: ObjectRef,
    pub(crate) occasion: Occasion,
}

/// What an attempt works with.
pub(crate) struct Attempt<'a> {
    pub(crate) bot: &'a BuildBot,
    pub(crate) job: &'a BuildJob,
    pub(crate) cx: &'a JobCx<BuildBot>,
    /// What the repository may have.
    pub(crate) listed: &'a Listed,
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) folder: &'a Folder,
    /// Of its processes.
    pub(crate) label: &'a str,
}

impl Attempt<'_> {
    pub(crate) async fn run(&self, log: &Log<'_>) -> Result<Built, Broken> {
        self.cx.progress(1, "fetching");
        let prepared = self.prepare(log).await.map_err(Broken::at(FETCH))?;
        let images = self.images(&prepared.pipeline, &prepared.occasion, log).await?;
        let (key, known) = self.built_before(&prepared, &images, log).await.map_err(Broken::at(FETCH))?;
        let cached = known.is_some();
        let product = match known {
            Some(product) => product,
            None => self.build(&prepared, &images, log).await?,
        };
        if let Some(key) = key.filter(|_| !cached) {
            self.keep_product(key, product.clone()).await.map_err(Broken::at(STORE))?;
        }
        let Prepared { pipeline, source, occasion, .. } = prepared;
        let deploy = self.deployable(pipeline.deploy, &occasion, log);
        let Product { artifact, keep, steps, .. } = product;
        Ok(Built { deploy, source, artifact, keep, steps, cached })
    }

    async fn build(&self, prepared: &Prepared, images: &Images, log: &Log<'_>) -> Result<Product, Broken> {
        let Prepared { pipeline, products, source, occasion } = prepared;
        let secrets = self.secrets(pipeline, occasion).map_err(Broken::at(FETCH))?;
        let variants = self.lay_out(pipeline, self.folder.file(SOURCE)).await.map_err(Broken::at(FETCH))?;
        let caching = self.restore_caches(pipeline, &variants, source, log).await.map_err(Broken::at(FETCH))?;
        let steps = self.run_steps(pipeline, &variants, occasion, Given { secrets: &secrets, images }, log).await?;
        self.cx.progress(90, "storing the artifacts");
        let checked = |products: &Products| products.clone().naming_no(secrets.redactor());
        let products = (checked(&products.0), products.1.as_ref().map(checked));
        let (artifact, keep) = self.store_all(&products, &variants, log).await.map_err(Broken::at(STORE))?;
        self.keep_caches(caching, &variants, log).await.map_err(Broken::at(STORE))?;
        Ok(Product { job_id: self.cx.id.clone(), artifact, keep, steps })
    }

    /// All that comes before the first step.
    async fn prepare(&self, log: &Log<'_>) -> Result<Prepared, Fail> {
        let changed = self.fetch(log).await?;
        let source = self.store_source(log).await?;
        let tree = self.folder.tree();
        let (pipeline, origin) = blocking(move || read_pipeline(&tree)).await?.map_err(no_pipeline)?;
        let products = check(&pipeline)?;
        let started = BuildStarted {
            revision: self.job.revision.clone(),
            job_id: self.cx.id.clone(),
            pipeline: origin.clone(),
            steps: names_of_runs(&pipeline),
        };
        log.line(FETCH, &format!("the pipeline is {origin}: {} steps", pipeline.build.steps.len()));
        if origin != FILE_NAME {
            self.tell_detected(log).await?;
        }
        self.cx.emit("started", Effects::none().say(started)).await?;
        let occasion = Occasion { git_ref: self.job.revision.git_ref.clone(), trigger: self.job.trigger, changed };
        Ok(Prepared { pipeline, products, source, occasion })
    }

    /// Whoever wrote no pipeline file sees the one that this build goes by.
    async fn tell_detected(&self, log: &Log<'_>) -> Result<(), Fail> {
        let tree = self.folder.tree();
        if let Some(detected) = blocking(move || detect(&tree)).await? {
            log.line(FETCH, &format!("there is no {FILE_NAME}; {}. It would be:", detected.why()));
            detected.file().lines().for_each(|line| log.line(FETCH, line));
        }
        Ok(())
    }

    async fn store_all(
        &self,
        (artifacts, keep): &(Products, Option<Products>),
        variants: &[Variant],
        log: &Log<'_>,
    ) -> Result<(ObjectRef, Option<ObjectRef>), Fail> {
        let artifact = self.store_products(artifacts, variants, Kind::Artifact, log).await?;
        let keep = match keep {
            Some(keep) => Some(self.store_products(keep, variants, Kind::Keep, log).await?),
            None => None,
        };
        Ok((artifact, keep))
    }

    /// The commit's tree, unpacked. Says which files it changed.
    async fn fetch(&self, log: &Log<'_>) -> Result<Result<Vec<String>, String>, Fail> {
        let revision = &self.job.revision;
        log.line(FETCH, &format!("{} {} ({})", revision.repository, revision.commit, revision.git_ref));
        let remote = Remote::parse(&revision.url, self.bot.config.allow_unencrypted);
        let remote = remote.map_err(|why| fail(Code::InvalidField, why))?;
        let credential = self.listed.credential.as_ref().filter(|_| self.job.bundle.is_none());
        let credential = credential.map(|name| Credential::find(name, &self.bot.secrets, &remote)).transpose();
        let credential = credential.map_err(|why| fail(Code::FetchFailed, why))?;
        let bundle = self.get_bundle().await?;
        let (tar, git_home) = ("source.tar", self.folder.git_home());
        let place = Place {
            sandbox: self.sandbox,
            repository: Path::new(""),
            home: &git_home,
            label: self.label,
            stop: &self.cx.cancelled,
        };
        let wanted = Wanted {
            remote: &remote,
            credential: credential.as_ref(),
            revision,
            bundle: bundle.as_deref(),
            place,
            tar,
            base: self.job.base.as_ref(),
        };
        let fetched = self.bot.mirrors.fetch(&wanted).await;
        self.go_on()?;
        let changed = fetched.map_err(|e| match e {
            FetchError::Refused(_) => fail(Code::FetchFailed, e),
            FetchError::Later(after, _) => Fail::Later(after, e.into()),
            FetchError::Unreachable(_) => {
                Fail::outside(format!("git:{}", remote.host.as_deref().unwrap_or("local")), e)
            }
            FetchError::Machine(_) => Fail::retry(e),
        })?;
        let (tar, tree, limits) = (git_home.join(tar), self.folder.tree(), self.bot.config.source_limits());
        let unpacked = blocking(move || {
            let unpacked = unpack(&tar, &tree, &limits);
            // As large as the source itself, and of no use any more.
            std::fs::remove_file(&tar).map_err(Fail::retry)?;
            unpacked.map_err(|e| of_archive(Code::FetchFailed, "the source of this commit", e))
        });
        let unpacked = unpacked.await??;
        log.line(FETCH, &format!("{} files and folders, {} bytes", unpacked.entries, unpacked.bytes));
        Ok(changed)
    }

    /// Comes with the push where the fleet cannot reach the repository.
    async fn get_bundle(&self) -> Result<Option<PathBuf>, Fail> {
        let Some(bundle) = &self.job.bundle else {
            return Ok(None);
        };
        let path = self.folder.file("source.bundle");
        let got = self.bot.objects.get_file(&bundle.digest, &path, self.bot.config.mirror_mib << 20).await;
        match got {
            Ok(_) => Ok(Some(path)),
            Err(e) if e.may_pass() => Err(of_objects(e)),
            Err(e) => Err(fail(Code::FetchFailed, anyhow::Error::new(e).context("the bundle that came with the push"))),
        }
    }

    /// Before any step ran, so that it is what was committed and nothing else. The archive stays in the folder.
    async fn store_source(&self, log: &Log<'_>) -> Result<ObjectRef, Fail> {
        let (tree, to, limits) = (self.folder.tree(), self.folder.file(SOURCE), self.bot.config.source_limits());
        let archive = to.clone();
        let packed = blocking(move || {
            let entries = list_tree(&tree, limits.entries_max)?;
            pack(&tree, &entries, &archive, &limits)
        });
        packed.await?.map_err(|e| of_archive(Code::FetchFailed, "the source of this commit", e))?;
        self.store(&to, Kind::Source, FETCH, log).await
    }

    async fn store_products(
        &self,
        products: &Products,
        variants: &[Variant],
        kind: Kind,
        log: &Log<'_>,
    ) -> Result<ObjectRef, Fail> {
        self.go_on()?;
        let (to, limits) = (self.folder.file(&format!("{kind}.tar.zst")), self.bot.config.artifact_limits());
        let (products, archive) = (products.clone(), to.clone());
        let trees = variants.iter().enumerate().map(|(i, variant)| (variant.below(i == 0), variant.folder.tree()));
        let trees: Vec<(PathBuf, PathBuf)> = trees.collect();
        let packed = blocking(move || products.pack_all(&trees, &archive, &limits)).await?;
        packed.map_err(|e| match e {
            ProductError::Pattern { .. } => fail(Code::InvalidPipeline, e),
            ProductError::Archive(e) => of_archive(Code::Rejected, "the files that this build produced", e),
        })?;
        let stored = self.store(&to, kind, STORE, log).await?;
        // It is in the store now, and the disk may be small.
        tokio::fs::remove_file(to).await.map_err(Fail::retry)?;
        Ok(stored)
    }

    async fn store(&self, file: &Path, kind: Kind, part: &str, log: &Log<'_>) -> Result<ObjectRef, Fail> {
        let stored = self.bot.objects.put_file(file, kind, ARCHIVE).await.map_err(of_objects)?;
        log.line(part, &format!("{kind}: {}, {} bytes", stored.digest, stored.size));
        Ok(stored)
    }

    /// The runtime knows why it has to stop; what is said here only goes to the log.
    pub(crate) fn go_on(&self) -> Result<(), Fail> {
        if self.cx.cancelled.is_cancelled() { Err(stopped()) } else { Ok(()) }
    }
}

pub(crate) fn stopped() -> Fail {
    Fail::retry(anyhow::anyhow!("told to stop"))
}

/// The steps' names, for each combination of the matrix.
fn names_of_runs(pipeline: &Pipeline) -> Vec<String> {
    let names = |one: &Combination| pipeline.build.steps.iter().map(|step| one.name(&step.name)).collect::<Vec<_>>();
    Combination::all(&pipeline.build.matrix).iter().flat_map(names).collect()
}

/// Final: another attempt would come to the same.
pub(crate) fn fail(code: Code, why: impl std::fmt::Display) -> Fail {
    Fail::reject(code, anyhow::anyhow!("{why:#}"))
}

/// Too large and hostile are final; a disk that fails is not.
pub(crate) fn of_archive(hostile: Code, what: &str, e: ArchiveError) -> Fail {
    match e {
        ArchiveError::Io { .. } => Fail::retry(e),
        ArchiveError::TooMuch { .. } => fail(Code::LimitExceeded, format!("{what}: {e}")),
        _ => fail(hostile, format!("{what}: {e}")),
    }
}

fn no_pipeline(e: bot_clients::PipelineProblem) -> Fail {
    fail(Code::InvalidPipeline, e)
}

/// What can be known to be wrong before a step runs.
fn check(pipeline: &Pipeline) -> Result<(Products, Option<Products>), Fail> {
    let wrong = |why: String| fail(Code::InvalidPipeline, why);
    let deploy_bytes = serde_json::to_vec(&pipeline.deploy).map_err(Fail::retry)?.len();
    if deploy_bytes > DEPLOY_BYTES_MAX {
        return Err(wrong(format!("deploy takes {deploy_bytes} bytes as JSON: at most {DEPLOY_BYTES_MAX} fit")));
    }
    let products = |section, patterns: &[String]| Products::new(section, patterns).map_err(|e| wrong(e.to_string()));
    let keep = &pipeline.build.keep;
    let keep = if keep.is_empty() { None } else { Some(products("keep", keep)?) };
    Ok((products("artifacts", &pipeline.build.artifacts)?, keep))
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fail> {
    spawn_blocking(work).await.map_err(Fail::retry)
}
