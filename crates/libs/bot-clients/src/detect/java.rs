//! Java and its relatives: Maven by pom.xml, Gradle by its build files. The wrapper of the repository goes before an
//! installed tool.
use std::path::Path;

use bot_messages::pipeline::Suite;

use super::{
    draft::{Draft, reported},
    look,
};

pub(super) fn maven(root: &Path) -> Option<Draft> {
    if !look::is_file(root, "pom.xml") {
        return None;
    }
    let tool = if look::is_file(root, "mvnw") { "sh ./mvnw" } else { "mvn" };
    let pom = look::text(root, "pom.xml");
    let kind = if pom.contains("<packaging>war</packaging>") { "war" } else { "jar" };
    let has_modules = pom.contains("<modules>");
    let artifact = if has_modules { format!("**/target/*.{kind}") } else { format!("target/*.{kind}") };
    let draft = Draft::new("maven", "pom.xml")
        .fetch(&format!("{tool} -B -ntp dependency:go-offline"))
        .step("compile", &format!("{tool} -B -ntp -o -DskipTests package"))
        .cache(&["~/.m2/repository"])
        .artifacts(&[&artifact]);
    let suite = reported(&format!("{tool} -B -ntp test"), "**/target/surefire-reports/TEST-*.xml");
    let has_tests = has_modules || look::is_folder(root, "src/test");
    Some(draft.when(has_tests, |draft| tested(draft, suite)))
}

pub(super) fn gradle(root: &Path) -> Option<Draft> {
    let names = ["build.gradle.kts", "build.gradle", "settings.gradle.kts", "settings.gradle"];
    let by = look::first_file(root, &names)?;
    let tool = if look::is_file(root, "gradlew") { "sh ./gradlew" } else { "gradle" };
    let draft = Draft::new("gradle", by)
        .fetch(&format!("{tool} --no-daemon testClasses"))
        .remark("steps.fetch", "The only step with network. Gradle fetches what a task asks for, so this compiles too.")
        .step("compile", &format!("{tool} --no-daemon --offline assemble"))
        .cache(&["~/.gradle/caches", "~/.gradle/wrapper"])
        .artifacts(&["**/build/libs/*.jar"]);
    let suite = reported(&format!("{tool} --no-daemon test"), "**/build/test-results/test/TEST-*.xml");
    let has_tests = look::find_file(root, "", 8, |path, _| path.to_string_lossy().contains("/src/test/")).is_some();
    Some(draft.when(has_tests, |draft| tested(draft, suite)))
}

/// Both tools fetch plug-ins only when tests run.
fn tested(draft: Draft, suite: Suite) -> Draft {
    let remark = "With network: what runs the tests is fetched only when they run.";
    draft.suite("unit", Suite { network: true, ..suite }).remark("suites.unit", remark)
}
