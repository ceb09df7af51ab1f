//! A job that has ended is done once more, because someone asks: from the row that the bot's own store keeps of it.
use bot_messages::{Code, control::ControlRerun};
use bot_store::{Commit, JobStatus, KnownJob, StoreError};
use serde_json::{Value, json};

use super::{ENDED_JOBS_KEPT, control::Refusal, shared::Shared};
use crate::{clock, contract::Bot, envelope::Envelope, job::Asked, meta::Cause};

/// A shorter beginning of an id is not looked for.
const BEGINNING_CHARS_MIN: usize = 6;
const BY_CHARS_MAX: usize = 80;

/// Writes into `commit` what leads to the job, once for each command; gives what is answered. What follows belongs to
/// the command's correlation; the answer names the one of the job before.
pub(super) async fn rerun<B: Bot>(
    shared: &Shared<B>,
    envelope: &Envelope,
    asked: &ControlRerun,
    cause: &Cause,
    commit: &mut Commit,
) -> Result<Result<Value, Refusal>, StoreError> {
    let job = match ended(&asked.job_id, shared.store.jobs_like(&asked.job_id).await?) {
        Ok(job) => job,
        Err(why) => return Ok(Err((Code::Rejected, why))),
    };
    let KnownJob { id, kind, key, weight, payload, meta, .. } = job;
    let asked = Asked { id: envelope.id.clone(), by: by(envelope, asked) };
    let effects = match shared.jobs.get(kind.as_str()) {
        Some(job) => (job.again)(&key, weight, payload, &asked),
        None => Err(format!("this version of {} has no job `{kind}`", shared.contract.name)),
    };
    let written = effects.and_then(|effects| shared.speaker.write(effects, cause, clock::now(), commit));
    if let Err(why) = written {
        *commit = Commit::default();
        return Ok(Err((Code::Rejected, format!("job {id} cannot be done once more: {why}"))));
    }
    let former: Cause = serde_json::from_value(meta).unwrap_or_default();
    let told = format!("does again what job {id} did in {}", former.correlation_id);
    let begun = commit.jobs.first().map(|job| job.id.clone());
    Ok(Ok(json!({
        "job_id": begun, "kind": kind, "again": id, "correlation_id": former.correlation_id, "summary": told,
    })))
}

/// The one that is meant, if it has ended; otherwise why nothing is done.
fn ended(asked: &str, mut found: Vec<KnownJob>) -> Result<KnownJob, String> {
    if asked.chars().count() < BEGINNING_CHARS_MIN {
        return Err(format!("`{asked}` is too short: expected a job's id, or {BEGINNING_CHARS_MIN} characters of it"));
    }
    if found.len() > 1 {
        return Err(format!("several jobs here begin with {asked}: give more of the id"));
    }
    let Some(job) = found.pop() else {
        let days = ENDED_JOBS_KEPT.as_secs() / 86_400;
        return Err(format!("no job {asked} is known here: it was another bot's, or it ended over {days} days ago"));
    };
    match job.status {
        JobStatus::Waiting | JobStatus::Running => {
            Err(format!("job {} is {} still: let it end, or stop it with `lota cancel`", job.id, job.status.as_str()))
        }
        JobStatus::Done | JobStatus::Failed | JobStatus::Cancelled | JobStatus::TimedOut => Ok(job),
    }
}

/// The name is what they say, the publisher is what the broker proves.
fn by(envelope: &Envelope, asked: &ControlRerun) -> String {
    match &asked.requested_by {
        Some(name) => format!("{} ({})", name.chars().take(BY_CHARS_MAX).collect::<String>(), envelope.source),
        None => envelope.source.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, status: JobStatus) -> KnownJob {
        let (kind, key) = ("play".to_owned(), "shop".to_owned());
        KnownJob { id: id.to_owned(), kind, key, weight: 1, status, payload: Value::Null, meta: Value::Null }
    }

    #[test]
    fn only_one_that_has_ended_is_done_again() {
        for status in [JobStatus::Done, JobStatus::Failed, JobStatus::Cancelled, JobStatus::TimedOut] {
            assert_eq!(ended("job-12", vec![job("job-123", status)]).unwrap().id, "job-123");
        }
        for (asked, found, part) in [
            ("job-12", vec![job("job-123", JobStatus::Running)], "job-123 is running still"),
            ("job-12", vec![job("job-123", JobStatus::Waiting)], "lota cancel"),
            ("job-12", vec![job("job-121", JobStatus::Done), job("job-122", JobStatus::Done)], "several"),
            ("job-12", Vec::new(), "over 14 days ago"),
            ("job-1", vec![job("job-123", JobStatus::Done)], "too short"),
        ] {
            let why = ended(asked, found).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
