//! Several replicas on one PostgreSQL schema: the answers are those that one process gets, and nothing is done twice.

use std::collections::BTreeSet;
use std::time::Duration;

use bot_secrets::Secret;
use bot_store::{Commit, Committed, JobStatus, PostgresOptions, Renewed, Store, StoreError, StoreOptions};
use bot_test::Postgres;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;

use crate::fixture::{
    HOUR, LEASE, Schema, add_jobs, bodies, claim, done, held, ids, job, key, next_millisecond, sending, setting,
    settled, timer, write,
};

async fn replicas<const N: usize>(schema: &Schema) -> [Store; N] {
    let mut all = Vec::new();
    for _ in 0..N {
        all.push(schema.open().await);
    }
    all.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_handle_the_same_messages_lose_no_update_and_settle_each_once() {
    let schema = Schema::new().await;
    let stores: [Store; 3] = replicas(&schema).await;
    let mut handling = JoinSet::new();
    for store in &stores {
        for number in 0..60 {
            let store = store.clone();
            handling.spawn(async move {
                let (id, entity) = (number.to_string(), format!("entity {}", number % 5));
                loop {
                    let (count, version) = store.state(&entity).await.unwrap().unwrap_or((json!(0), 0));
                    let state = Some(write(&entity, version, json!(count.as_u64().unwrap() + 1)));
                    let commit = Commit { inbox: Some(settled(&id)), state, ..sending(&id) };
                    match store.commit(commit).await.unwrap() {
                        Committed::Stale => {}
                        answer => return answer,
                    }
                }
            });
        }
    }
    let answers = handling.join_all().await;
    assert_eq!(answers.iter().filter(|answer| **answer == Committed::Done).count(), 60);
    assert_eq!(answers.iter().filter(|answer| **answer == Committed::Duplicate).count(), 120);
    for entity in 0..5 {
        assert_eq!(stores[0].state(&format!("entity {entity}")).await.unwrap(), Some((json!(12), 12)));
    }
    let sent = bodies(&stores[1]).await;
    assert_eq!((sent.len(), sent.iter().collect::<BTreeSet<_>>().len()), (60, 60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_claim_at_once_share_the_jobs_and_keep_exclusive_keys_apart() {
    let schema = Schema::new().await;
    let stores: [Store; 3] = replicas(&schema).await;
    let jobs = (0..30).map(|n| job(&n.to_string(), (n % 3 == 0).then_some("production"))).collect();
    add_jobs(&stores[0], jobs).await;
    let mut claiming = JoinSet::new();
    for store in stores.clone() {
        claiming.spawn(async move { claim(&store, 20).await });
    }
    let claimed: Vec<_> = claiming.join_all().await.into_iter().flatten().collect();
    assert_eq!(claimed.iter().map(|job| &job.id).collect::<BTreeSet<_>>().len(), claimed.len(), "none twice");
    assert_eq!(claimed.len(), 21);
    assert_eq!(claimed.iter().filter(|job| job.exclusive.is_some()).count(), 1);
    assert!(claimed.iter().all(|job| job.attempt == 1 && job.is_first));
    let tokens: BTreeSet<i64> = claimed.iter().map(|job| job.token).collect();
    assert_eq!(tokens.len(), claimed.len(), "each its own token");
}

#[tokio::test]
async fn opening_leaves_the_jobs_of_others_alone_and_an_expired_lease_is_taken_over_once() {
    let schema = Schema::new().await;
    let [first] = replicas(&schema).await;
    add_jobs(&first, vec![job("long", None), job("lost", None)]).await;
    let long = claim(&first, 1).await.remove(0);
    let lost = first.claim("first", Duration::ZERO, 1, &[], &[]).await.unwrap().remove(0);
    next_millisecond().await;
    let [second, third] = replicas(&schema).await;
    assert_eq!(second.job("long").await.unwrap().unwrap().status, JobStatus::Running);
    let (two, three) = tokio::join!(claim(&second, 5), claim(&third, 5));
    assert_eq!([ids(&two), ids(&three)].concat(), ["lost"]);
    let stray = Commit { guard: held(&lost), ..sending("stray") };
    assert_eq!(first.commit(stray).await.unwrap(), Committed::Fenced);
    assert_eq!(first.renew("lost", lost.token, LEASE).await.unwrap(), Renewed::Lost);
    assert_eq!(first.commit(done(&long)).await.unwrap(), Committed::Done);
}

#[tokio::test]
async fn what_one_commits_wakes_the_others() {
    let schema = Schema::new().await;
    let [one, other] = replicas(&schema).await;
    // Whoever begins to listen is woken once.
    let woken = async || tokio::join!(other.outbox_changed().notified(), other.jobs_changed().notified());
    woken().await;
    one.commit(Commit { jobs: vec![job("j1", None)], ..sending("a") }).await.unwrap();
    woken().await;
    other.timers_changed().notified().await;
    one.commit(setting(vec![timer("t1", HOUR)])).await.unwrap();
    other.timers_changed().notified().await;
    other.cancels_changed().notified().await;
    claim(&other, 1).await;
    one.request_cancel("j1", "enough").await.unwrap();
    other.cancels_changed().notified().await;
}

#[tokio::test]
async fn one_leads_until_its_time_is_over_or_it_gives_the_lead_back() {
    let schema = Schema::new().await;
    let [one, other] = replicas(&schema).await;
    assert!(one.lead("relay", "one", HOUR).await.unwrap());
    assert!(one.lead("relay", "one", HOUR).await.unwrap(), "it leads on");
    assert!(!other.lead("relay", "other", HOUR).await.unwrap());
    assert!(other.lead("schedules", "other", HOUR).await.unwrap(), "in another thing");
    assert!(one.lead("relay", "one", Duration::ZERO).await.unwrap());
    assert!(other.lead("relay", "other", HOUR).await.unwrap());
}

#[tokio::test]
async fn a_setting_is_replaced_only_where_it_is_what_was_read() {
    let schema = Schema::new().await;
    let [one, other] = replicas(&schema).await;
    one.set_meta("pause", "for an hour").await.unwrap();
    assert!(!one.replace_meta("pause", "another", "").await.unwrap());
    assert!(!one.replace_meta("unknown", "", "x").await.unwrap());
    assert_eq!(other.meta("pause").await.unwrap().as_deref(), Some("for an hour"));
    assert!(other.replace_meta("pause", "for an hour", "").await.unwrap());
}

#[tokio::test]
async fn any_text_is_kept_as_it_came() {
    let schema = Schema::new().await;
    let [store] = replicas(&schema).await;
    for id in ["a\0b", "a\u{1}0b", "a\u{1}b", "\u{1f980}", "'; DROP TABLE inbox; --"] {
        let commit = Commit { inbox: Some(settled(id)), state: Some(write(id, 0, json!(id))), ..sending(id) };
        assert_eq!(store.commit(commit.clone()).await.unwrap(), Committed::Done);
        assert_eq!(store.commit(commit).await.unwrap(), Committed::Duplicate);
        assert_eq!(store.state(id).await.unwrap(), Some((json!(id), 1)));
        assert!(store.inbox(&key(id)).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_transaction_that_stands_still_holds_the_others_up_for_no_more_than_seconds() {
    let schema = Schema::new().await;
    let [store] = replicas(&schema).await;
    let mut stopped = PgConnection::connect(&schema.admin_url()).await.unwrap();
    for sql in [
        "SET idle_in_transaction_session_timeout = '1s'".to_owned(),
        "BEGIN".to_owned(),
        format!("LOCK TABLE {}.one_writer IN EXCLUSIVE MODE", schema.name),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut stopped).await.unwrap();
    }
    assert_eq!(store.commit(sending("a")).await.unwrap(), Committed::Done);
    assert!(sqlx::query("COMMIT").execute(&mut stopped).await.is_err(), "the server has ended it");
}

#[tokio::test]
async fn a_login_is_let_into_its_own_schema_alone() {
    let (one, other) = (Schema::new().await, Schema::new().await);
    let [store] = replicas(&other).await;
    store.set_meta("a", "secret").await.unwrap();
    let password = std::fs::read_to_string(one.password_file()).unwrap();
    let url = Postgres::shared().url(&one.name).replacen('@', &format!(":{password}@"), 1);
    let mut conn = PgConnection::connect(&url).await.unwrap();
    for sql in [
        format!("SELECT * FROM {}.meta", other.name),
        format!("INSERT INTO {}.meta VALUES ('a', 'b')", other.name),
        format!("CREATE TABLE {}.mine ()", other.name),
        format!("SET ROLE {}", other.name),
        format!("DROP SCHEMA {} CASCADE", one.name),
        "CREATE TABLE public.mine ()".to_owned(),
        "CREATE TEMPORARY TABLE mine ()".to_owned(),
        "CREATE SCHEMA mine".to_owned(),
        "CREATE ROLE mine".to_owned(),
        "SELECT * FROM pg_authid".to_owned(),
        "COPY (SELECT 1) TO PROGRAM 'true'".to_owned(),
    ] {
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).execute(&mut conn).await;
        let code = refused.expect_err(&sql).as_database_error().unwrap().code().unwrap().into_owned();
        assert_eq!(code, "42501", "{sql}");
    }
    // A warning to whoever is logged in, and nothing else.
    let grant = format!("GRANT USAGE ON SCHEMA {} TO {}", one.name, other.name);
    sqlx::raw_sql(sqlx::AssertSqlSafe(grant)).execute(&mut conn).await.unwrap();
    let asked = format!("SELECT has_schema_privilege('{}', '{}', 'USAGE')", other.name, one.name);
    assert_eq!(Postgres::shared().sql(&asked), "f");
}

#[tokio::test]
async fn making_logins_again_changes_nothing_but_the_password() {
    let schema = Schema::new().await;
    let [store] = replicas(&schema).await;
    store.set_meta("kept", "yes").await.unwrap();
    assert_eq!(schema.apply(&Secret::new("another")).await, [""; 0]);
    assert_eq!(store.meta("kept").await.unwrap().as_deref(), Some("yes"), "who is in stays in");
    assert_eq!(schema.open().await.meta("kept").await.unwrap().as_deref(), Some("yes"));
}

#[tokio::test]
async fn who_is_not_let_in_and_who_does_not_answer_are_told_apart() {
    let schema = Schema::new().await;
    let dir = tempfile::tempdir().unwrap();
    let server = Postgres::shared();
    let open = async |url: &str, schema: &str, file: std::path::PathBuf| {
        let options = PostgresOptions::new(url, schema, Some(file), dir.path().join("store")).unwrap();
        Store::open(StoreOptions::Postgres(options)).await.unwrap_err()
    };
    let wrong = dir.path().join("wrong");
    std::fs::write(&wrong, "canary-wrong").unwrap();
    std::fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let why = open(&server.url(&schema.name), &schema.name, wrong).await;
    assert!(matches!(why, StoreError::Refused { .. }), "{why}");
    assert!(why.to_string().contains("lota stores apply") && !why.to_string().contains("canary"), "{why}");
    let why = open(&server.url(&schema.name), "elsewhere", schema.password_file()).await;
    assert!(matches!(why, StoreError::Refused { .. }) && why.to_string().contains("elsewhere"), "{why}");
    let why = open("postgres://127.0.0.1:1/lota", &schema.name, schema.password_file()).await;
    assert!(matches!(why, StoreError::Unreachable { .. }) && why.to_string().contains("127.0.0.1:1/lota"), "{why}");
    let why = open(&server.url(&schema.name), &schema.name, dir.path().join("missing")).await;
    assert!(matches!(why, StoreError::Refused { .. }) && why.to_string().contains("missing"), "{why}");
}

#[tokio::test]
async fn two_replicas_do_not_share_a_folder() {
    let schema = Schema::new().await;
    let _first = Store::open(schema.options("one")).await.unwrap();
    assert!(matches!(Store::open(schema.options("one")).await, Err(StoreError::InUse { .. })));
    Store::open(schema.options("two")).await.unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_breaks_off_loses_nothing_that_was_answered() {
    let server = Postgres::start();
    let schema = Schema::on(server).await;
    let stores: [Store; 2] = replicas(&schema).await;
    let mut writing = JoinSet::new();
    for (writer, store) in stores.iter().enumerate() {
        let store = store.clone();
        writing.spawn(async move {
            let mut failed = 0;
            for number in 0..150 {
                let id = format!("{writer}-{number}");
                loop {
                    match store.commit(Commit { inbox: Some(settled(&id)), ..sending(&id) }).await {
                        // Answered with an error, it may have been written all the same.
                        Ok(Committed::Done | Committed::Duplicate) => break,
                        Ok(other) => panic!("{other:?}"),
                        Err(StoreError::Unreachable { .. }) => {
                            failed += 1;
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            }
            failed
        });
    }
    for round in 1..3 {
        while stores[0].counts().await.is_ok_and(|counts| counts.outbox_unsent < round * 60) {
            tokio::task::yield_now().await;
        }
        schema.server().break_off();
        schema.server().go_on();
    }
    let failed = writing.join_all().await;
    assert!(failed.iter().sum::<u32>() > 0, "it was seen to be away");
    let sent = bodies(&stores[0]).await;
    assert_eq!((sent.len(), sent.iter().collect::<BTreeSet<_>>().len()), (300, 300));
    for id in sent {
        assert!(stores[1].inbox(&key(&id)).await.unwrap().unwrap().settled);
    }
}
