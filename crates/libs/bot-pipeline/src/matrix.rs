//! The combinations of a matrix: which there are, and what each is called.
use std::{collections::BTreeMap, path::PathBuf};

/// Below it lies what combinations other than the first made.
const FOLDER: &str = "matrix";

/// One value of each variable, in the order of the variables' names. Without a matrix there is one, and it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Combination(Vec<(String, String)>);

impl Combination {
    /// All of them; of the last variable the values change fastest.
    pub fn all(matrix: &BTreeMap<String, Vec<String>>) -> Vec<Self> {
        matrix.iter().fold(vec![Self::default()], |begun, (name, values)| {
            let with = |one: &Self, value: &String| {
                Self(one.0.iter().cloned().chain([(name.clone(), value.clone())]).collect())
            };
            begun.iter().flat_map(|one| values.iter().map(move |value| with(one, value))).collect()
        })
    }

    /// What its steps find in their environment: `MATRIX_TOOLCHAIN` and the like.
    pub fn env(&self) -> BTreeMap<String, String> {
        let variable = |(name, value): &(String, String)| (format!("MATRIX_{}", name.to_uppercase()), value.clone());
        self.0.iter().map(variable).collect()
    }

    /// A step's name where it is run for this combination: `compile (stable, gnu)`.
    pub fn name(&self, step: &str) -> String {
        if self.0.is_empty() { step.to_owned() } else { format!("{step} ({})", self.values().join(", ")) }
    }

    /// Where an artifact holds its files: `matrix/stable/gnu`. Values are names, never `..` or a path.
    pub fn folder(&self) -> PathBuf {
        [FOLDER].into_iter().chain(self.values()).collect()
    }

    fn values(&self) -> Vec<&str> {
        self.0.iter().map(|(_, value)| value.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_meets_every_other() {
        let matrix: BTreeMap<String, Vec<String>> = [
            ("toolchain".to_owned(), vec!["stable".to_owned(), "beta".to_owned()]),
            ("libc".to_owned(), vec!["gnu".to_owned(), "musl".to_owned()]),
        ]
        .into();
        let all = Combination::all(&matrix);
        let names: Vec<String> = all.iter().map(|one| one.name("a")).collect();
        assert_eq!(names, ["a (gnu, stable)", "a (gnu, beta)", "a (musl, stable)", "a (musl, beta)"]);
        assert_eq!(all[2].folder(), PathBuf::from("matrix/musl/stable"));
        let env = [("MATRIX_LIBC", "musl"), ("MATRIX_TOOLCHAIN", "beta")];
        assert_eq!(all[3].env(), env.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn without_a_matrix_there_is_one_run_and_its_names_are_plain() {
        let all = Combination::all(&BTreeMap::new());
        assert_eq!((all.len(), all[0].name("a"), all[0].env().len()), (1, "a".to_owned(), 0));
    }
}
