//! What a detection comes to, put together piece by piece, with a remark for whoever reads the file it would be.
use std::collections::BTreeMap;

use bot_messages::pipeline::{BuildStage, DeployStage, Pipeline, Step, Suite, TestStage};

/// By place: `steps.fetch`, `artifacts`, `keep`, `cache`, `suites`, `suites.unit`, `deploy`.
pub(super) type Remarks = BTreeMap<String, &'static str>;

/// A report of one test for commands that say nothing of theirs.
const ONE_REPORT: &str = "lota-tests.xml";

/// A pipeline in the making.
pub(super) struct Draft {
    pub(super) kind: &'static str,
    pub(super) by: String,
    pub(super) pipeline: Pipeline,
    pub(super) remarks: Remarks,
}

impl Draft {
    pub(super) fn new(kind: &'static str, by: &str) -> Self {
        let pipeline =
            Pipeline { version: 1, build: BuildStage::default(), test: TestStage::default(), deploy: BTreeMap::new() };
        Self { kind, by: by.to_owned(), pipeline, remarks: Remarks::new() }
    }

    /// A step that may use the network: the only kind of step that does.
    pub(super) fn fetch(mut self, run: &str) -> Self {
        self.remarks.insert("steps.fetch".to_owned(), "The only step with network.");
        let step = Step { name: "fetch".to_owned(), run: run.to_owned(), network: true, ..Step::default() };
        self.pipeline.build.steps.push(step);
        self
    }

    pub(super) fn step(mut self, name: &str, run: &str) -> Self {
        self.pipeline.build.steps.push(Step { name: name.to_owned(), run: run.to_owned(), ..Step::default() });
        self
    }

    /// A variable of all steps and suites there are by now.
    pub(super) fn env(mut self, name: &str, value: &str) -> Self {
        let steps = self.pipeline.build.steps.iter_mut().map(|step| &mut step.env);
        let suites = self.pipeline.test.suites.values_mut().map(|suite| &mut suite.env);
        for env in steps.chain(suites) {
            env.insert(name.to_owned(), value.to_owned());
        }
        self
    }

    pub(super) fn artifacts(mut self, patterns: &[&str]) -> Self {
        self.pipeline.build.artifacts = owned(patterns);
        self
    }

    pub(super) fn keep(mut self, patterns: &[&str]) -> Self {
        self.pipeline.build.keep = owned(patterns);
        self
    }

    pub(super) fn cache(mut self, paths: &[&str]) -> Self {
        self.pipeline.build.cache = owned(paths);
        self
    }

    pub(super) fn suite(mut self, name: &str, suite: Suite) -> Self {
        self.pipeline.test.suites.insert(name.to_owned(), suite);
        self
    }

    /// A command of which no report is known. Its exit status is all it says.
    pub(super) fn suite_as_one(self, name: &str, command: &str) -> Self {
        let report = format!("<testsuite><testcase name=\"{command}\"/></testsuite>");
        let run = format!("{command}\nprintf '%s' '{report}' > {ONE_REPORT}");
        let remark = "How its tests are counted is not known, so the command as a whole is one test.";
        self.suite(name, Suite { run, reports: owned(&[ONE_REPORT]), ..Suite::default() })
            .remark(&format!("suites.{name}"), remark)
    }

    pub(super) fn deploy(mut self, environment: &str, stage: DeployStage) -> Self {
        self.pipeline.deploy.insert(environment.to_owned(), stage);
        self
    }

    pub(super) fn remark(mut self, place: &str, remark: &'static str) -> Self {
        self.remarks.insert(place.to_owned(), remark);
        self
    }

    /// Goes on with a change only where it is wanted.
    pub(super) fn when(self, wanted: bool, change: impl FnOnce(Self) -> Self) -> Self {
        if wanted { change(self) } else { self }
    }
}

pub(super) fn owned(all: &[&str]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

/// A suite that is read from what it prints.
pub(super) fn printed(run: &str) -> Suite {
    Suite { run: run.to_owned(), ..Suite::default() }
}

/// A suite that writes JUnit files.
pub(super) fn reported(run: &str, report: &str) -> Suite {
    Suite { run: run.to_owned(), reports: owned(&[report]), ..Suite::default() }
}
