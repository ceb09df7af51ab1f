//! Makes a vhost hold what a topology says, and tells where it does not. What to do is worked out in `plan.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bot_messages::keys;
use bot_messages::topology::Topology;
use serde_json::json;

use crate::Passwords;
use crate::management::{Management, ManagementError};
use crate::management_types::{BindingInfo, Destination, PolicyInfo};
use crate::plan::{Action, Change, Drift, DriftKind, Step, Work, destination_of, plan};
use crate::snapshot::Snapshot;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For what was moved to arrive.
const MOVE_LIMIT: Duration = Duration::from_mins(1);
/// Messages that are moved in one call.
const MOVED_AT_ONCE: u32 = 100;

/// The first step that failed. What was done before it stays, and a second run
/// goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("cannot read what the vhost {vhost} holds: {source}")]
    Read { vhost: String, source: ManagementError },
    #[error("{what}: {source}; what came before it is done, run the same again once the cause is gone")]
    Step { what: String, source: ManagementError },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyOptions {
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Move what lies in a quorum queue that no contract grants any more to the queue [`keys::UNROUTED_QUEUE`], and drop
    /// what lies in a classic one (heartbeats, log lines), so that they can be deleted. Not dead letters: those somebody has
    /// to look at. Without it, a queue that holds messages is kept.
    pub drain: bool,
    /// The broker's `collect_statistics_interval`, 5 s unless it was changed. Counts are older than that.
    pub figures_every: Duration,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self { dry_run: false, drain: false, figures_every: Duration::from_secs(5) }
    }
}

impl ApplyOptions {
    /// A queue tells its figures every interval and the management API collects them every interval: after two, and
    /// unbound, a count of nothing is also true of messages that a consumer held.
    fn figures_settle(self) -> Duration {
        self.figures_every * 2 + Duration::from_secs(1)
    }
}

/// Creates, changes and removes until the vhost holds exactly `topology`, and returns what was done; a second run
/// returns nothing. Untouched are the broker's own `amq.*`, queues `tmp.*`, administrators and this client's user. A
/// queue that holds messages is never deleted: it is unbound and reported as kept. Removing
/// queues takes two intervals of `figures_every` and a second.
pub async fn apply(
    api: &Management,
    topology: &Topology,
    passwords: Passwords<'_>,
    options: ApplyOptions,
) -> Result<Vec<Change>, ApplyError> {
    let found = read(api, topology).await?;
    let steps = plan(topology, &found, Some(passwords));
    if options.dry_run {
        return Ok(steps.iter().map(|step| foretell(step, &found)).collect());
    }
    let mut run =
        Run { api, topology, passwords, options, kept: BTreeMap::new(), rebind: BTreeSet::new(), moved: Vec::new() };
    let mut changes = Vec::new();
    let mut rest = steps.as_slice();
    while let Some((first, after)) = rest.split_first() {
        run.prepare(first, rest, &found).await?;
        changes.append(&mut run.moved);
        run.work(first).await.map_err(|source| failed(first, source))?;
        changes.push(run.outcome(first));
        rest = after;
        let bindings_are_next = !rest.first().is_some_and(|next| is_object(&next.work));
        if bindings_are_next {
            run.restore_bindings().await?;
        }
    }
    Ok(changes)
}

/// Every difference between `topology` and the broker, permissions and policies included; passwords are not looked at.
pub async fn verify(api: &Management, topology: &Topology) -> Result<Vec<Drift>, ApplyError> {
    let found = read(api, topology).await?;
    Ok(plan(topology, &found, None).into_iter().map(|step| step.drift).collect())
}

async fn read(api: &Management, topology: &Topology) -> Result<Snapshot, ApplyError> {
    let vhost = &topology.vhost;
    let read = Snapshot::read(api, vhost).await;
    read.map_err(|source| ApplyError::Read { vhost: vhost.clone(), source })
}

fn foretell(step: &Step, found: &Snapshot) -> Change {
    let what = step.drift.what.clone();
    let action = match &step.work {
        Work::Leave(why) => Action::Kept((*why).to_owned()),
        Work::RemoveQueue(name) | Work::RecreateQueue { name, .. } => {
            let queue = found.queues.iter().find(|queue| queue.name == *name);
            match queue.and_then(|queue| queue.messages) {
                Some(count) if count > 0 => Action::Kept(holds(count)),
                _ => done(step),
            }
        }
        _ => done(step),
    };
    Change { action, what }
}

fn done(step: &Step) -> Action {
    match step.drift.kind {
        DriftKind::Missing => Action::Created,
        DriftKind::Different => Action::Updated,
        DriftKind::Unexpected => Action::Removed,
    }
}

fn holds(count: u64) -> String {
    format!("it holds {count} messages; empty it, then apply again")
}

/// What has to stand before bindings can be set.
fn is_object(work: &Work) -> bool {
    matches!(
        work,
        Work::CreateVhost
            | Work::PutExchange { .. }
            | Work::RecreateExchange { .. }
            | Work::PutQueue { .. }
            | Work::RecreateQueue { .. }
            | Work::PutPolicy(_)
    )
}

fn failed(step: &Step, source: ManagementError) -> ApplyError {
    ApplyError::Step { what: step.drift.what.clone(), source }
}

struct Run<'a> {
    api: &'a Management,
    topology: &'a Topology,
    passwords: Passwords<'a>,
    options: ApplyOptions,
    /// Queue → why it may not be deleted; `None` for one found empty.
    kept: BTreeMap<String, Option<String>>,
    /// Exchanges and queues whose bindings are gone and belong back.
    rebind: BTreeSet<(Destination, String)>,
    /// Out of which queues how many messages were moved.
    moved: Vec<Change>,
}

impl Run<'_> {
    /// Before the first queue that has to go: unbinds all of them that stand in line (`RecreateQueue`s come together,
    /// and so do `RemoveQueue`s) and finds out which are empty, so that the wait for figures is paid once.
    async fn prepare(&mut self, first: &Step, rest: &[Step], found: &Snapshot) -> Result<(), ApplyError> {
        let Some(name) = going(&first.work) else {
            return Ok(());
        };
        if self.kept.contains_key(name) {
            return Ok(());
        }
        let same = |step: &&Step| std::mem::discriminant(&step.work) == std::mem::discriminant(&first.work);
        let names: Vec<&str> = rest.iter().filter(same).filter_map(|step| going(&step.work)).collect();
        let leads_there = |binding: &&BindingInfo| {
            binding.destination_type == Destination::Queue
                && !binding.source.is_empty()
                && names.contains(&binding.destination.as_str())
        };
        let vhost = &self.topology.vhost;
        for binding in found.bindings.iter().filter(leads_there) {
            let deleted = self.api.delete_binding(vhost, binding).await;
            deleted.map_err(|source| failed(first, source))?;
        }
        tokio::time::sleep(self.options.figures_settle()).await;
        let is_granted_no_more = matches!(first.work, Work::RemoveQueue(_));
        for name in names {
            let mut why = self.why_keep(name).await.map_err(|source| failed(first, source))?;
            if why.is_some() && self.options.drain && is_granted_no_more {
                why = self.drain(name).await.map_err(|source| failed(first, source))?;
            }
            self.kept.insert(name.to_owned(), why);
        }
        Ok(())
    }

    /// Has the broker itself move all messages, by rejecting them while a policy dead-letters them to where they may lie:
    /// nothing is in our hands meanwhile. Why the queue has to stay, if it has to.
    async fn drain(&mut self, queue: &str) -> Result<Option<String>, ManagementError> {
        let (api, vhost) = (self.api, self.topology.vhost.as_str());
        if queue.ends_with(".dead") {
            return Ok(Some("dead letters are not moved: look at them (`lota dlq`), then empty it".to_owned()));
        }
        if !self.topology.queues.iter().any(|q| q.name == keys::UNROUTED_QUEUE) {
            return Ok(Some(format!("there is no queue {} to move it to", keys::UNROUTED_QUEUE)));
        }
        let there = api.queue(vhost, queue).await?;
        if there.kind.as_deref() != Some("quorum") {
            // Heartbeats, log lines: for what may be lost, and a plain queue loses on the way.
            api.purge(vhost, queue).await?;
            let action = Action::Dropped(there.messages.unwrap_or_default());
            self.moved.push(Change { action, what: format!("queue {queue}") });
            return Ok(None);
        }
        let policy = drain_policy(queue);
        api.put_policy(vhost, &policy).await?;
        // A queue hears of its policy a moment later, and would throw away what it rejects before.
        tokio::time::sleep(self.options.figures_settle()).await;
        let (begun, mut count) = (Instant::now(), 0);
        let before = api.queue(vhost, keys::UNROUTED_QUEUE).await?.messages.unwrap_or_default();
        let why = loop {
            let moved = api.reject(vhost, queue, MOVED_AT_ONCE).await?;
            count += moved;
            let arrived = api.queue(vhost, keys::UNROUTED_QUEUE).await?.messages.unwrap_or_default();
            // A quorum queue moves them by and by; deleted before, it would take them with it.
            if moved == 0 && arrived >= before + count {
                break self.why_keep(queue).await?;
            }
            if moved == 0 && begun.elapsed() > MOVE_LIMIT {
                break Some(format!("{count} messages were moved, and {arrived} are in {}", keys::UNROUTED_QUEUE));
            }
            if moved == 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        api.delete_policy(vhost, &policy.name).await?;
        self.moved.push(Change { action: Action::Moved(count), what: format!("queue {queue}") });
        Ok(why)
    }

    async fn why_keep(&self, queue: &str) -> Result<Option<String>, ManagementError> {
        let vhost = &self.topology.vhost;
        // Not even figures: its leader may be down, and then nobody knows.
        let Some(count) = self.api.queue(vhost, queue).await?.messages else {
            return Ok(Some("RabbitMQ tells no figures of it, so it may hold messages".to_owned()));
        };
        let is_empty = count == 0 && self.api.peek(vhost, queue, 1).await?.is_empty();
        Ok((!is_empty).then(|| holds(count.max(1))))
    }

    fn outcome(&self, step: &Step) -> Change {
        let why = match &step.work {
            Work::Leave(why) => Some((*why).to_owned()),
            work => going(work).and_then(|name| self.kept.get(name).cloned().flatten()),
        };
        let action = why.map_or_else(|| done(step), Action::Kept);
        Change { action, what: step.drift.what.clone() }
    }

    async fn work(&mut self, step: &Step) -> Result<(), ManagementError> {
        let (api, vhost) = (self.api, self.topology.vhost.as_str());
        match &step.work {
            Work::CreateVhost => self.create_vhost().await,
            Work::PutExchange { name, internal } => api.put_exchange(vhost, name, *internal).await,
            Work::RecreateExchange { name, internal } => {
                self.rebind.insert((Destination::Exchange, name.clone()));
                api.delete_exchange(vhost, name).await?;
                api.put_exchange(vhost, name, *internal).await
            }
            Work::PutQueue { name, kind } => api.put_queue(vhost, name, kind).await,
            Work::RecreateQueue { name, kind } => {
                // Kept or not, it was unbound to find out.
                self.rebind.insert((Destination::Queue, name.clone()));
                if self.may_go(name) {
                    api.delete_queue(vhost, name).await?;
                    api.put_queue(vhost, name, kind).await?;
                }
                Ok(())
            }
            Work::PutPolicy(policy) => api.put_policy(vhost, policy).await,
            Work::PutBinding(binding) => {
                let to = (destination_of(binding), binding.destination.as_str());
                api.put_binding(vhost, &binding.source, to, &binding.routing_key).await
            }
            Work::DeleteBinding(binding) => api.delete_binding(vhost, binding).await,
            Work::RemoveQueue(name) if self.may_go(name) => api.delete_queue(vhost, name).await,
            Work::RemoveQueue(_) | Work::Leave(_) => Ok(()),
            Work::DeleteExchange(name) => api.delete_exchange(vhost, name).await,
            Work::DeletePolicy(name) => api.delete_policy(vhost, name).await,
            users => self.work_on_users(users).await,
        }
    }

    async fn work_on_users(&self, work: &Work) -> Result<(), ManagementError> {
        let (api, vhost) = (self.api, self.topology.vhost.as_str());
        match work {
            Work::PutUser { name, tags } => api.put_user(name, &(self.passwords)(name), tags).await,
            Work::ResetTopicPermissions { user, wanted } => {
                api.delete_topic_permissions(vhost, user).await?;
                for permission in wanted {
                    api.put_topic_permission(permission).await?;
                }
                Ok(())
            }
            Work::PutTopicPermission(permission) => api.put_topic_permission(permission).await,
            Work::PutPermission(permission) => api.put_permission(permission).await,
            Work::PutLimits { user, limits } => api.put_user_limits(user, *limits).await,
            Work::DeleteUser(name) => api.delete_user(name).await,
            Work::DeletePermission(user) => {
                api.delete_permission(vhost, user).await?;
                api.delete_topic_permissions(vhost, user).await
            }
            _ => Ok(()),
        }
    }

    /// With the right to it for ourselves: who creates a vhost over HTTP does not get one on every version.
    async fn create_vhost(&self) -> Result<(), ManagementError> {
        let vhost = &self.topology.vhost;
        self.api.put_vhost(vhost).await?;
        let all = || ".*".to_owned();
        let own = crate::Permission {
            user: self.api.user().to_owned(),
            vhost: vhost.clone(),
            configure: all(),
            write: all(),
            read: all(),
        };
        self.api.put_permission(&own).await
    }

    fn may_go(&self, queue: &str) -> bool {
        matches!(self.kept.get(queue), Some(None))
    }

    async fn restore_bindings(&mut self) -> Result<(), ApplyError> {
        let gone = std::mem::take(&mut self.rebind);
        if gone.is_empty() {
            return Ok(());
        }
        for binding in &self.topology.bindings {
            let to = (destination_of(binding), binding.destination.as_str());
            let touched = gone.contains(&(to.0, to.1.to_owned()))
                || gone.contains(&(Destination::Exchange, binding.source.clone()));
            if touched {
                let put = self.api.put_binding(&self.topology.vhost, &binding.source, to, &binding.routing_key).await;
                let what = format!("binding {} -[{}]-> {}", binding.source, binding.routing_key, binding.destination);
                put.map_err(|source| ApplyError::Step { what, source })?;
            }
        }
        Ok(())
    }
}

/// What is rejected goes to the queue of what has no place. Above all other policies.
fn drain_policy(queue: &str) -> PolicyInfo {
    let definition = json!({
        "dead-letter-exchange": keys::UNROUTED,
        "dead-letter-strategy": "at-least-once",
        "overflow": "reject-publish",
        "delivery-limit": 1_000_000_000,
    });
    PolicyInfo {
        name: format!("lota-drain-{queue}"),
        pattern: format!("^{}$", queue.replace('.', "\\.")),
        apply_to: "queues".to_owned(),
        priority: 1000,
        definition: definition.as_object().cloned().unwrap_or_default(),
    }
}

/// The queue that a step deletes.
fn going(work: &Work) -> Option<&str> {
    match work {
        Work::RemoveQueue(name) | Work::RecreateQueue { name, .. } => Some(name),
        _ => None,
    }
}
