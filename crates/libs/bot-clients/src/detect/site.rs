//! Static sites, by index.html at the top or in public.
use std::path::Path;

use bot_messages::pipeline::{DeployStage, Patterns, When};

use super::{
    draft::{Draft, owned},
    look,
};

/// The environment that a fleet has from the start; its operator says who may use it.
const ENVIRONMENT: &str = "local";

pub(super) fn find(root: &Path) -> Option<Draft> {
    let by = look::first_file(root, &["index.html", "public/index.html"])?;
    let folder = if by.starts_with("public/") { "public/**" } else { "**" };
    let branch = Patterns(owned(&["main", "master"]));
    let stage = DeployStage { when: Some(When { branch, ..When::default() }), ..DeployStage::default() };
    let draft = Draft::new("static", by).artifacts(&[folder]).deploy(ENVIRONMENT, stage);
    Some(draft.remark("deploy", "The files are put in place there; with `serve` a command of yours would serve them."))
}
