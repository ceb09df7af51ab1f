//! Secrets of suites: who gets them, and that none shows, whatever a suite prints and reports.
#![allow(clippy::unwrap_used, reason = "a broken assumption ends the test")]
mod fixture;

use bot_core::{Effects, Fail};
use bot_messages::{
    Code,
    test::{TestCompleted, TestFailed},
};
use bot_sandbox::SandboxKind;
use bot_test::JobRecord;
use fixture::{Bench, said};
use test_bot::{Config, TestBot};

const CANARY: &str = "canary-5f1d&2c3b<4a";
const LISTED: &str = "- {match: '**', trust: own, secrets: [TOKEN]}\n";
/// What the scripts below write it with.
const FORMS: &str = "xml=$(printf %s \"$TOKEN\" | sed 's/&/\\&amp;/; s/</\\&lt;/')\ndec=$(printf %s \"$TOKEN\" | sed 's/&/\\&#38;/; s/</\\&#60;/')\njson=$(printf %s \"$TOKEN\" | sed 's/&/\\\\u0026/; s/</\\\\u003c/')\ncoded=$(printf %s \"$TOKEN\" | base64)\n";

/// What is told of suites of this source, live and in the end, with the log.
async fn all_of(bench: &Bench, pipeline: &str, script: &str) -> (Effects<TestBot>, String) {
    let script = format!("{FORMS}{script}");
    let job = bench.job(&[(".lotabots.yaml", pipeline), ("it.sh", &script)]).await;
    let record = JobRecord::new();
    let effects = bench.run(&job, &record).await.unwrap();
    let event = format!("{effects:?}");
    let log = match effects.list.first() {
        Some(bot_core::Effect::Say { data, .. }) => {
            bench.log(serde_json::from_value(data["log"].clone()).unwrap()).await
        }
        other => panic!("{other:?}"),
    };
    for text in [&event, &log, &record.lines().join("\n")] {
        for form in ["canary", "5f1d", "2c3b", "Y2FuYXJ5"] {
            assert!(!text.contains(form), "{form}: {text}");
        }
    }
    (effects, log)
}

fn bench() -> Bench {
    Bench::listing(LISTED, &[("TOKEN", &format!("{CANARY}\n"))], Config::default())
}

fn pipeline(more: &str) -> String {
    format!("version: 1\ntest: {{suites: {{uses: {{run: sh it.sh, secrets: [TOKEN]{more}}}}}}}\n")
}

#[tokio::test]
async fn no_line_and_no_failure_shows_a_secret() {
    let script = r#"echo "plain $TOKEN, coded $coded, as XML $xml"
pad=$(printf %02040d 0)
cat > junit.xml <<END
<testsuite><testcase name="named $xml" time="9"><failure message="says $xml">at src/$xml.rs:3</failure></testcase>
<testcase name="coded $coded" time="8"><failure><![CDATA[$TOKEN and $coded]]></failure></testcase>
<testcase name="escaped $dec" file="src/$dec.rs" line="4"><failure message="$dec"/></testcase>
<testcase name="cut"><failure message="$pad $xml"/></testcase></testsuite>
END
test ${#TOKEN} = 19 || exit 77
exit 1
"#;
    let (effects, log) = all_of(&bench(), &pipeline(", reports: [junit.xml]"), script).await;
    let failed: TestFailed = said(&effects);
    assert_eq!((failed.error.code, failed.suites[0].failed), (Code::TestsFailed, 4), "{failed:?}");
    let names: Vec<&str> = failed.failures.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["named ***", "coded ***Q==", "escaped ***", "cut"]);
    assert!(failed.failures[0].message.starts_with("says ***"), "{failed:?}");
    assert_eq!(failed.failures[0].location.as_deref(), Some("src/***.rs:3"));
    assert!(log.contains("[uses] plain ***, coded ***Q==, as XML ***\n"), "{log}");
}

#[tokio::test]
async fn no_passing_flaky_or_slow_test_and_no_coverage_shows_a_secret() {
    let script = r#"if test -e "mark"; then end="/>"; else end="><failure>$dec</failure></testcase>"; touch mark; fi
echo "<testsuite><testcase name='fine $dec' time='7'/><testcase name='shaky $dec' time='9'$end</testsuite>" > "$TOKEN.xml"
echo "<coverage><$xml" > cov.xml
"#;
    let more = ", reports: ['canary*.xml'], coverage: [cov.xml]".replace("canary", "c*y-");
    let (effects, log) = all_of(&bench(), &pipeline(&more), script).await;
    let done: TestCompleted = said(&effects);
    assert_eq!((done.suites[0].passed, done.flaky[0].name.as_str()), (2, "shaky ***"), "{done:?}");
    assert_eq!(done.slowest.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["shaky ***", "fine ***"]);
    assert!(log.contains("the coverage of this run is not told: cov.xml"), "{log}");
}

#[tokio::test]
async fn no_output_and_no_mistake_in_a_report_shows_a_secret() {
    let go = r#"printf '{"Action":"%s","Package":"shop","Test":"Test%s"}\n' run "$json" fail "$json"; exit 1"#;
    let (effects, log) = all_of(&bench(), &pipeline(""), go).await;
    let failed: TestFailed = said(&effects);
    assert_eq!(failed.failures.iter().filter(|f| f.name.contains("Test***")).count(), 1, "{failed:?} {log}");
    let broken = r#"echo "<c$TOKEN/>" > "x$TOKEN.xml""#;
    let (effects, _) = all_of(&bench(), &pipeline(", reports: ['*.xml']"), broken).await;
    let failed: TestFailed = said(&effects);
    assert_eq!(failed.error.code, Code::InvalidField);
    assert!(failed.error.message.contains("the report x***.xml"), "{}", failed.error.message);
}

#[tokio::test]
async fn only_a_suite_that_names_a_secret_and_its_services_find_it() {
    let tap = "echo 1..1; echo ok 1 - a";
    let pipeline = format!(
        "version: 1\ntest:\n  suites:\n    other: {{run: 'test -z \"$TOKEN\"; ! env | grep TOKEN; {tap}'}}\n    uses:\n      run: 'test ${{#TOKEN}} = 19; {tap}'\n      secrets: [TOKEN]\n      services: [{{name: s, run: 'test ${{#TOKEN}} = 19 && echo have $TOKEN; sleep 600', ready: {{log: have}}}}]\n"
    );
    let (effects, log) = all_of(&bench(), &pipeline, "").await;
    let done: TestCompleted = said(&effects);
    assert_eq!(done.suites.len(), 2);
    assert!(log.contains("[uses/s] have ***\n"), "{log}");
}

#[tokio::test]
async fn a_secret_that_cannot_be_given_is_refused_by_name_before_a_suite_runs() {
    let secret = [("TOKEN", CANARY)];
    for (list, secrets, code, words) in [
        (
            "- {match: '**', trust: own, secrets: [OTHER]}",
            &secret[..],
            Code::PermissionDenied,
            "secret `TOKEN` is not for",
        ),
        ("- {match: '**', trust: fork}", &secret, Code::PermissionDenied, "lists none for it"),
        ("- {match: /elsewhere, trust: own, secrets: [TOKEN]}", &secret, Code::PermissionDenied, "is not listed in"),
        (LISTED, &[], Code::Rejected, "there is no secret `TOKEN`"),
    ] {
        let bench = Bench::listing(list, secrets, Config::default());
        let job = bench.job(&[(".lotabots.yaml", &pipeline("")), ("it.sh", "echo ran")]).await;
        let record = JobRecord::new();
        let Err(Fail::Reject { code: got, error }) = bench.run(&job, &record).await else { panic!("{list}") };
        let told = format!("{error:#}");
        assert!(got == code && told.contains(words) && !told.contains("canary"), "{told}");
        assert!(record.lines().is_empty() && record.said().is_empty(), "no suite ran");
    }
    // Who needs none need not be listed: the build was allowed.
    let bench = Bench::listing("- {match: /elsewhere, trust: own}", &[], Config::default());
    let job = bench.suites("    unit: {run: 'echo 1..1; echo ok 1 - a'}\n").await;
    let _: TestCompleted = said(&bench.run(&job, &JobRecord::new()).await.unwrap());
}

#[tokio::test]
async fn without_walls_only_the_teams_own_suites_run_unless_the_operator_allows_it() {
    let weak = Config { sandbox: Some(SandboxKind::ProcessGroup), ..Config::default() };
    for (list, allow, runs) in [
        ("- {match: '**', trust: own}", false, true),
        ("- {match: '**', trust: known}", false, false),
        ("- {match: /elsewhere, trust: own}", false, false),
        ("- {match: '**', trust: fork}", true, true),
    ] {
        let bench = Bench::listing(list, &[], Config { allow_weak_sandbox: allow, ..weak.clone() });
        let job = bench.suites("    unit: {run: 'echo 1..1; echo ok 1 - a'}\n").await;
        match bench.run(&job, &JobRecord::new()).await {
            Ok(effects) => drop(said::<TestCompleted>(&effects)),
            Err(Fail::Reject { code, .. }) => assert!(code == Code::PermissionDenied && !runs, "{list}"),
            Err(other) => panic!("{other:?}"),
        }
    }
}
