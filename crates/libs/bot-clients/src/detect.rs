//! How a source tree is built and tested: from its pipeline file, or by what lies in it. It is here because BuildBot,
//! TestBot and `lota` must come to the same answer, a bot never depends on another, and bot-messages reads no files.
//!
//! One file per family of projects; what each comes to is a [`Detected`], which can also be written as a pipeline file.
mod cargo;
mod draft;
mod file;
mod go;
mod java;
mod look;
mod native;
mod node;
mod python;
mod site;
#[cfg(test)]
mod tests;

use std::{io, path::Path};

use bot_messages::pipeline::{FILE_BYTES_MAX, FILE_NAME, Pipeline, PipelineError};

use draft::Draft;

/// What is looked for where there is no pipeline file, for people.
const LOOKED_FOR: &str = "Cargo.toml, go.mod, pom.xml, build.gradle, package.json, pyproject.toml, requirements.txt, \
     CMakeLists.txt, Makefile, test_*.py, index.html, public/index.html";

/// Looks whether a tree is of one kind.
type Find = fn(&Path) -> Option<Draft>;

/// The kinds in the order in which they are asked: a language's own manifest goes before what may only wrap it.
const ORDER: [(&str, Find); 10] = [
    ("cargo", cargo::find),
    ("go", go::find),
    ("maven", java::maven),
    ("gradle", java::gradle),
    ("npm, pnpm, yarn", node::find),
    ("python, uv, poetry", python::find),
    ("cmake", native::cmake),
    ("make", native::make),
    ("python", python::scripts),
    ("static", site::find),
];

/// A source tree does not say how it is built.
#[derive(Debug, thiserror::Error)]
pub enum PipelineProblem {
    /// The file is there and wrong.
    #[error(transparent)]
    Invalid(#[from] PipelineError),
    /// Nothing says what to do.
    #[error(
        "there is no {FILE_NAME} at the top of the repository, and nothing else was recognised (looked for {LOOKED_FOR}); add a {FILE_NAME}"
    )]
    NothingFound,
    /// The file is there and cannot be read.
    #[error("{FILE_NAME} cannot be read: {0}")]
    Unreadable(#[source] io::Error),
}

/// What a tree without a pipeline file was recognised as.
#[derive(Clone, Debug, PartialEq)]
pub struct Detected {
    /// What is done.
    pub pipeline: Pipeline,
    /// `cargo`, `npm`, `make`, `static` and so on.
    pub kind: &'static str,
    /// The file that it was recognised by.
    pub by: String,
    /// Kinds that would fit too and come later in the order: each with its file.
    pub also: Vec<(&'static str, String)>,
    remarks: draft::Remarks,
}

impl Detected {
    /// In one sentence, what was recognised by what, and what was passed over.
    pub fn why(&self) -> String {
        let found = format!("recognised as {} by {}", self.kind, self.by);
        if self.also.is_empty() {
            return found;
        }
        let also: Vec<String> = self.also.iter().map(|(kind, by)| format!("{by} ({kind})")).collect();
        let order: Vec<&str> = ORDER.iter().map(|(kind, _)| *kind).collect();
        format!(
            "{found}; {} would fit too, and the first counts of: {}; a {FILE_NAME} chooses otherwise",
            also.join(" and "),
            order.join(", ")
        )
    }

    /// The pipeline file that says the same, with remarks.
    pub fn file(&self) -> String {
        file::write(self)
    }
}

/// The pipeline of a source tree, and where it comes from: [`FILE_NAME`], or the kind that was detected.
pub fn read_pipeline(root: &Path) -> Result<(Pipeline, String), PipelineProblem> {
    let path = root.join(FILE_NAME);
    match path.symlink_metadata() {
        Ok(meta) if meta.is_file() => {
            // One byte more than allowed, so that the parser says that it is too large.
            let bytes = look::read_at_most(&path, FILE_BYTES_MAX as u64 + 1).map_err(PipelineProblem::Unreadable)?;
            let text = String::from_utf8(bytes).map_err(|e| {
                let sound = &e.as_bytes()[..e.utf8_error().valid_up_to()];
                let line = sound.split(|b| *b == b'\n').count();
                PipelineError { at: Some((line as u64, 1)), message: "the file is not UTF-8".to_owned() }
            })?;
            Ok((Pipeline::parse(&text)?, FILE_NAME.to_owned()))
        }
        Ok(_) => Err(PipelineProblem::Unreadable(io::Error::other("expected a regular file, not a link or folder"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            detect(root).map(|found| (found.pipeline, found.kind.to_owned())).ok_or(PipelineProblem::NothingFound)
        }
        Err(e) => Err(PipelineProblem::Unreadable(e)),
    }
}

/// What a tree without a pipeline file is: the first that fits in the documented order.
pub fn detect(root: &Path) -> Option<Detected> {
    let mut fits = ORDER.iter().filter_map(|(_, find)| find(root));
    let Draft { kind, by, pipeline, remarks } = fits.next()?;
    let also = fits.filter(|other| other.kind != "static").map(|other| (other.kind, other.by)).collect();
    Some(Detected { pipeline, kind, by, also, remarks })
}
