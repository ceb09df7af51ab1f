//! What happens to the object store.
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Event, Priority};

/// So many objects with so many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectCount {
    /// How many.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Old objects that nothing needs were removed from the object store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectsCollected {
    /// The job.
    pub job_id: String,
    /// What was removed, by kind: `source`, `artifact`, `keep`, `log`, `report`, `bundle`.
    pub removed: BTreeMap<String, ObjectCount>,
    /// Files that were begun and never finished, removed too.
    pub unfinished: ObjectCount,
    /// Old enough, and needed by an environment.
    pub in_use: ObjectCount,
    /// Everything else.
    pub kept: ObjectCount,
    /// Whole job, milliseconds.
    pub duration_ms: u64,
}
impl Event for ObjectsCollected {
    const TYPE: &'static str = "objects.collected";
    const PRIORITY: Priority = Priority::Low;
    const SUMMARY: &'static str = "Old objects that nothing needs were removed from the object store.";
    fn example() -> Self {
        let some = |count, bytes| ObjectCount { count, bytes };
        Self {
            job_id: "0198c5d2-b0e4-7a66-b3f0-2f1f6a010f70".into(),
            removed: [("log".to_owned(), some(31, 402_653)), ("source".to_owned(), some(12, 9_437_184))].into(),
            unfinished: some(0, 0),
            in_use: some(2, 964_132),
            kept: some(240, 73_400_320),
            duration_ms: 1_840,
        }
    }
}
