//! Images of steps: whether a repository may have them, the machine's container engine, and that they are there before
//! the first step.
use bot_core::Fail;
use bot_messages::{
    Code,
    pipeline::{Occasion, Pipeline},
};
use bot_pipeline::{AllowedImages, Images, Listed, Log, Trust};
use bot_sandbox::{Engine, EngineChoice, EngineError, split_path};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    BuildBot,
    attempt::{Attempt, Broken, fail, stopped},
    steps::running,
};

const IMAGE: &str = "image";

/// Which container engine runs steps that name an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineSetting {
    /// docker, else podman.
    #[default]
    Auto,
    Docker,
    Podman,
    None,
}

impl EngineSetting {
    fn choice(self) -> Option<EngineChoice> {
        match self {
            Self::Auto => Some(EngineChoice::Auto),
            Self::Docker => Some(EngineChoice::Docker),
            Self::Podman => Some(EngineChoice::Podman),
            Self::None => None,
        }
    }
}

/// Why a step may not run in an image.
pub(crate) fn refusal(
    step: &str,
    image: &str,
    listed: &Listed,
    allowed: &AllowedImages,
    engine: EngineSetting,
) -> Option<String> {
    let why = if listed.trust == Trust::Fork {
        "a fork's steps run in no image (trust in repositories.yaml)".to_owned()
    } else if engine == EngineSetting::None {
        "this fleet runs steps in no image (settings.engine of build-bot.yaml is none)".to_owned()
    } else if !allowed.allows(image) {
        format!("settings.images of build-bot.yaml allows {}; ask the operator to add it", allowed.told())
    } else {
        return None;
    };
    Some(format!("step `{step}`: image {image} is refused: {why}"))
}

impl BuildBot {
    /// Found when it is first needed, and then kept; what an earlier process of this bot left in containers is ended.
    pub(crate) async fn engine(&self) -> Result<&Engine, Fail> {
        let find = || async {
            let choice = self.config.engine.choice().unwrap_or(EngineChoice::Auto);
            let found = Engine::find(choice, &split_path(&self.tools.path)).await;
            self.tools.degraded(IMAGE, found.as_ref().err().map(|why| format!("settings.images: {why}")));
            let engine = found.map_err(|why| fail(Code::Unavailable, why))?;
            let sandbox = self.sandbox().await?;
            let reaped = sandbox.reap_containers(&engine, "").await.map_err(Fail::retry)?;
            tracing::info!(engine = engine.program(), reaped, "steps may run in images");
            self.tools.sandbox_is(
                &format!("{}, images by {}", sandbox.kind(), engine.name()),
                sandbox.weaknesses(),
                sandbox.process_bound(),
            );
            Ok(engine)
        };
        self.engine.get_or_try_init(find).await
    }

    /// Whether steps may ask for images at all; otherwise no engine is asked anything.
    pub(crate) fn has_images(&self) -> bool {
        !self.images.is_empty() && self.config.engine != EngineSetting::None
    }
}

impl Attempt<'_> {
    /// All that steps name which are going to run, fetched where they are missing.
    pub(crate) async fn images(
        &self,
        pipeline: &Pipeline,
        occasion: &Occasion,
        log: &Log<'_>,
    ) -> Result<Images, Broken> {
        let with_image = || pipeline.build.steps.iter().filter_map(|step| Some((step, step.image.as_deref()?)));
        for (step, image) in with_image() {
            let why = refusal(&step.name, image, self.listed, &self.bot.images, self.bot.config.engine);
            if let Some(why) = why {
                return Err(broken(&step.name, fail(Code::PermissionDenied, why)));
            }
        }
        let runs = running(pipeline, occasion);
        let mut images = Images::default();
        for (step, image) in with_image().filter(|(step, _)| runs.contains(step)) {
            if images.get(image).is_some() {
                continue;
            }
            let engine = self.bot.engine().await.map_err(|why| told(&step.name, image, why))?;
            self.cx.progress(5, &format!("having {} get {image}", engine.name()));
            let say = |line: &str| log.line(IMAGE, line);
            let ready = tokio::select! {
                ready = images.add(engine, image, &say) => ready,
                () = self.cx.cancelled.cancelled() => return Err(broken(&step.name, stopped())),
            };
            ready.map_err(|why| match why {
                EngineError::Image { .. } => told(&step.name, image, fail(Code::FetchFailed, why)),
                _ => broken(&step.name, Fail::retry(why)),
            })?;
        }
        Ok(images)
    }
}

fn broken(step: &str, fail: Fail) -> Broken {
    Broken { part: IMAGE.to_owned(), step: Some(step.to_owned()), fail }
}

/// With the step and its image in front of why.
fn told(step: &str, image: &str, why: Fail) -> Broken {
    let why = match why {
        Fail::Reject { code, error } => {
            Fail::Reject { code, error: error.context(format!("step `{step}`: image {image}")) }
        }
        other => other,
    };
    broken(step, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_for_those_whom_the_operator_lets_have_it() {
        let listed = |trust| Listed { trust, credential: None, environments: None, secrets: Vec::new(), weight: 1 };
        let allowed = |patterns: &[&str]| {
            AllowedImages::new(&patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).unwrap()
        };
        let debian = allowed(&["debian:*"]);
        let judged =
            |trust, image, allowed: &AllowedImages, engine| refusal("a", image, &listed(trust), allowed, engine);
        assert_eq!(judged(Trust::Own, "debian:12", &debian, EngineSetting::Auto), None);
        assert_eq!(judged(Trust::Known, "debian:12", &debian, EngineSetting::Podman), None);
        for (trust, image, allowed, engine, words) in [
            (Trust::Fork, "debian:12", &debian, EngineSetting::Auto, "a fork's steps"),
            (Trust::Own, "alpine:3", &debian, EngineSetting::Auto, "settings.images of build-bot.yaml allows debian:*"),
            (
                Trust::Own,
                "alpine:3",
                &allowed(&[]),
                EngineSetting::Auto,
                "settings.images of build-bot.yaml allows none",
            ),
            (Trust::Own, "debian:12", &debian, EngineSetting::None, "settings.engine of build-bot.yaml is none"),
        ] {
            let why = judged(trust, image, allowed, engine).unwrap();
            assert!(why.starts_with(&format!("step `a`: image {image} is refused")) && why.contains(words), "{why}");
        }
    }
}
