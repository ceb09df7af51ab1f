//! What an attempt takes over from earlier builds, and what it leaves to later ones: cached paths, and whole products.
use bot_clients::Kind;
use bot_core::Fail;
use bot_messages::{
    ObjectRef,
    pipeline::{Pipeline, Step},
};
use bot_pipeline::{Images, Log, Trust};

use crate::{
    attempt::{Attempt, Prepared, blocking},
    builds::{self, Product},
    cache::{Key, Restored, locks_of},
    steps::{Variant, running},
};

const CACHE: &str = "cache";
const AGAIN: &str = "again";

/// What each combination found, and by which key it is kept.
pub(crate) type Caching = Vec<(Key, Restored)>;

impl Attempt<'_> {
    /// Before the first step. Nothing, where nothing is to be cached or may be.
    pub(crate) async fn restore_caches(
        &self,
        pipeline: &Pipeline,
        variants: &[Variant],
        source: &ObjectRef,
        log: &Log<'_>,
    ) -> Result<Caching, Fail> {
        let mut paths = pipeline.build.cache.clone();
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        if self.listed.trust == Trust::Fork {
            log.line(CACHE, "a fork shares no cache (trust in repositories.yaml)");
            return Ok(Vec::new());
        }
        paths.sort();
        let (tree, digest) = (self.folder.tree(), source.digest.to_string());
        let locks = blocking(move || locks_of(&tree, &digest)).await?.map_err(Fail::retry)?;
        let mut found = Vec::new();
        for variant in variants {
            self.go_on()?;
            // By its URL: the name is the pusher's to choose.
            let scope = [self.job.revision.url.as_str(), self.listed.trust.as_str()];
            let place = variant.combination.folder().display().to_string();
            let what: Vec<&str> = [place.as_str()].into_iter().chain(paths.iter().map(String::as_str)).collect();
            let key = Key::new(&scope, &what, locks.clone());
            let (caches, wanted, root) = (self.bot.caches.clone(), key.clone(), variant.folder.file(""));
            let paths = paths.clone();
            let restored = blocking(move || caches.restore(&wanted, &paths, &root)).await?;
            restored.lines.iter().for_each(|line| log.line(&variant.combination.name(CACHE), line));
            found.push((key, restored));
        }
        Ok(found)
    }

    /// After the last step, where all went well.
    pub(crate) async fn keep_caches(&self, caching: Caching, variants: &[Variant], log: &Log<'_>) -> Result<(), Fail> {
        for ((key, restored), variant) in caching.into_iter().zip(variants) {
            if restored.is_exact || restored.paths.is_empty() {
                continue;
            }
            self.go_on()?;
            let (caches, root) = (self.bot.caches.clone(), variant.folder.file(""));
            let keeping = blocking(move || caches.keep(&key, &restored.paths, &root));
            let kept = self.bot.cache.attempt(async { keeping.await.map_err(|fail| fail.message())? }).await;
            log.line(&variant.combination.name(CACHE), &kept.unwrap_or_else(|why| why));
        }
        Ok(())
    }

    /// The same, where it can be known: a build does without.
    pub(crate) async fn built_before(
        &self,
        prepared: &Prepared,
        images: &Images,
        log: &Log<'_>,
    ) -> Result<(Option<String>, Option<Product>), Fail> {
        let known = self.bot.reuse.attempt(async {
            match self.same_again(prepared, images, log).await {
                // Ended by us: it says nothing of the feature.
                Err(_) if self.cx.cancelled.is_cancelled() => Ok((None, None)),
                found => found.map_err(|fail| fail.message()),
            }
        });
        let known = known.await;
        self.go_on()?;
        Ok(known.unwrap_or_else(|why| {
            log.line(AGAIN, &why);
            (None, None)
        }))
    }

    /// What an earlier build of the same came to, and the key under which this one's product is kept. Neither, where it
    /// may come to something else each time.
    async fn same_again(
        &self,
        prepared: &Prepared,
        images: &Images,
        log: &Log<'_>,
    ) -> Result<(Option<String>, Option<Product>), Fail> {
        let Prepared { pipeline, source, occasion, .. } = prepared;
        let running = running(pipeline, occasion);
        let reaches_out = |step: &&Step| step.network || !step.secrets.is_empty() || !step.services.is_empty();
        if running.is_empty() || running.iter().any(reaches_out) {
            return Ok((None, None));
        }
        let Some(versions) = self.versions().await? else { return Ok((None, None)) };
        let tree = self.folder.tree();
        let is_by_commit = blocking(move || builds::names_commit(&tree)).await?.map_err(Fail::retry)?;
        let build = serde_json::to_string(&pipeline.build).map_err(Fail::retry)?;
        let names: Vec<&str> = running.iter().map(|step| step.name.as_str()).collect();
        let key_with = |versions: &str| self.key(source, &build, &names, versions, &images.told(), is_by_commit);
        let key = key_with(&versions);
        // Whoever asks, and whatever comes by the clock, wants it done.
        if self.job.anew {
            return Ok((Some(key), None));
        }
        let Some(product) = self.remembered(&key).await? else { return Ok((Some(key), None)) };
        // What was remembered of the tools is enough to look, and not to leave out a build.
        let asked = self.ask_versions().await?;
        if asked.as_deref() != Some(versions.as_str()) {
            return Ok((asked.map(|versions| key_with(&versions)), None));
        }
        let objects = [(Some(&product.artifact), Kind::Artifact), (product.keep.as_ref(), Kind::Keep)];
        for (object, kind) in objects.into_iter().filter_map(|(object, kind)| Some((object?, kind))) {
            if !self.bot.objects.renew(&object.digest, kind).await.map_err(Fail::retry)? {
                log.line(
                    AGAIN,
                    &format!("job {} built the same, and {} is gone: built anew", product.job_id, object.digest),
                );
                return Ok((Some(key), None));
            }
        }
        log.line(
            AGAIN,
            &format!("the same source was built by the same tools in job {}: this is what came of it", product.job_id),
        );
        Ok((Some(key), Some(product)))
    }

    /// All that a build depends on.
    fn key(
        &self,
        source: &ObjectRef,
        build: &str,
        steps: &[&str],
        versions: &str,
        images: &str,
        is_by_commit: bool,
    ) -> String {
        let revision = &self.job.revision;
        let by_commit = if is_by_commit {
            [&revision.repository, &revision.git_ref, revision.commit.as_str()].map(str::to_owned).join("\n")
        } else {
            String::new()
        };
        builds::key(&[
            env!("CARGO_PKG_VERSION"),
            self.sandbox.kind().as_str(),
            &revision.url,
            self.listed.trust.as_str(),
            source.digest.as_str(),
            build,
            &steps.join("\n"),
            versions,
            images,
            &by_commit,
        ])
    }

    async fn remembered(&self, key: &str) -> Result<Option<Product>, Fail> {
        let (remembered, wanted) = (self.bot.builds.clone(), key.to_owned());
        blocking(move || remembered.find(&wanted)).await
    }

    /// That it cannot be kept fails no build.
    pub(crate) async fn keep_product(&self, key: String, product: Product) -> Result<(), Fail> {
        let remembered = self.bot.builds.clone();
        if let Err(e) = blocking(move || remembered.keep(&key, &product)).await? {
            tracing::warn!(job_id = self.cx.id, "what was built is not remembered: {e}");
        }
        Ok(())
    }
}
