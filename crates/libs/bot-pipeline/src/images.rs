//! Container images of steps: which of them the operator allows, and what their names mean on this machine.
use std::collections::BTreeMap;

use bot_sandbox::{Engine, EngineError, Image};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Which images steps may run in.
#[derive(Clone, Debug)]
pub struct AllowedImages {
    set: GlobSet,
    /// As the operator wrote them.
    text: String,
}

impl AllowedImages {
    /// Patterns such as `debian:*` or `registry.example.org/**`; `*` stays within a part, alone it is every image.
    pub fn new(patterns: &[String]) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let whole = if pattern == "*" { "**" } else { pattern };
            let glob = GlobBuilder::new(whole).literal_separator(true).build();
            set.add(glob.map_err(|why| format!("`{pattern}` is no pattern: {why}"))?);
        }
        let set = set.build().map_err(|why| why.to_string())?;
        Ok(Self { set, text: patterns.join(", ") })
    }

    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// A name without a tag is the one that engines take it for.
    pub fn allows(&self, image: &str) -> bool {
        let last = image.rsplit('/').next().unwrap_or_default();
        if last.contains([':', '@']) { self.set.is_match(image) } else { self.set.is_match(format!("{image}:latest")) }
    }

    /// The patterns, for people.
    pub fn told(&self) -> &str {
        if self.is_empty() { "none" } else { &self.text }
    }
}

/// Images that are on this machine, by the names that steps call them by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images(BTreeMap<String, Image>);

impl Images {
    /// Has the engine fetch it where it is missing; `tell` hears that, and what the name means.
    pub async fn add(
        &mut self,
        engine: &Engine,
        name: &str,
        tell: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<(), EngineError> {
        let id = engine.have(name, tell).await?;
        tell(&format!("{name} is {id}"));
        self.0.insert(name.to_owned(), Image { engine: engine.clone(), id });
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&Image> {
        self.0.get(name)
    }

    /// What each name means: another line where another image has come under a name.
    pub fn told(&self) -> String {
        let lines: Vec<String> = self.0.iter().map(|(name, image)| format!("{name} {}", image.id)).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_operator_names_is_allowed() {
        let allowed = AllowedImages::new(&["debian:*".to_owned(), "registry.example.org/**".to_owned()]).unwrap();
        for image in ["debian:12", "debian", "debian:12@sha256:ab", "registry.example.org/team/app:1"] {
            assert!(allowed.allows(image), "{image}");
        }
        // The second is a registry of that name, at a port.
        for image in ["alpine:3", "debian:5000/evil:1", "evil/debian:12", "xdebian:12"] {
            assert!(!allowed.allows(image), "{image}");
        }
        assert!(AllowedImages::new(&["*".to_owned()]).unwrap().allows("registry.example.org/team/app:1"));
        let none = AllowedImages::new(&[]).unwrap();
        assert!(!none.allows("debian:12") && none.is_empty() && none.told() == "none");
        assert!(AllowedImages::new(&["debian:[".to_owned()]).unwrap_err().contains("`debian:[`"));
    }
}
