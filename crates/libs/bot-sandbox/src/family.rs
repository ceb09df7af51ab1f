//! Who belongs to a run or an application, and how to end them all. Knows nothing of how they were started.
//!
//! Belonging is inherited: by parent, by session or process group whose leader belonged, and by a marker in the
//! environment, which catches what left all three. A process that leaves all of them between two looks and empties its
//! environment on the way escapes; only a pid namespace holds that one.

use std::{
    collections::{HashMap, HashSet},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::{Pid, getpgrp, getsid},
};

use crate::{
    proc::{self, Identity, Process},
    spawn::is_own_child,
};

/// In the environment of everything `run` starts: `<owner>/<label>/<instance>-<n>`.
pub const RUN_MARKER: &str = "LOTA_RUN_ID";
/// In the environment of everything `serve` starts: the application's id.
pub const APP_MARKER: &str = "LOTA_APP_ID";

/// How long SIGKILL may take. Only a process that hangs in the kernel needs more.
pub(crate) const KILL_WAIT: Duration = Duration::from_secs(5);

/// With growing pauses about a third of a second.
const UNCLEAR_LOOKS: u32 = 12;

/// Which value of which variable makes a process a member.
#[derive(Clone, Debug)]
pub(crate) struct Marker {
    pub(crate) variable: &'static str,
    pub(crate) value: String,
    /// Also every value that starts with this one.
    pub(crate) prefix: bool,
}

impl Marker {
    pub(crate) fn exact(variable: &'static str, value: impl Into<String>) -> Self {
        Self { variable, value: value.into(), prefix: false }
    }

    pub(crate) fn prefix(variable: &'static str, value: impl Into<String>) -> Self {
        Self { variable, value: value.into(), prefix: true }
    }

    /// `None` while nobody can tell.
    fn is_on(&self, pid: i32) -> Option<bool> {
        let fits = |value: &String| {
            if self.prefix { value.starts_with(&self.value) } else { *value == self.value }
        };
        Some(proc::environment(pid, self.variable)?.iter().any(fits))
    }
}

#[derive(Debug)]
pub(crate) struct Family {
    marker: Marker,
    /// The first one; its end is the end of most.
    leader: Option<Identity>,
    known: HashMap<i32, u64>,
    sessions: HashSet<i32>,
    groups: HashSet<i32>,
    /// Looked at before, without a marker; nobody gains one later.
    strangers: HashSet<Identity>,
    /// How many could not be judged at the last look. In the middle of `exec` a process shows no marker, a zombie never
    /// does; and one that ended after the list was made may have left a child that came too late for it.
    unclear: usize,
    /// A leader's own session and group are its family's before it was ever seen in them.
    held: Option<i32>,
    /// The leader adopts its orphans, so that none gets lost while it lives: it goes last.
    leader_adopts: bool,
    /// Never touched: ourselves and pid 1.
    me: i32,
    my_session: i32,
    my_group: i32,
}

impl Family {
    pub(crate) fn new(marker: Marker, leader: Option<Identity>) -> Self {
        Self {
            marker,
            leader,
            known: leader.iter().map(|identity| (identity.pid, identity.start)).collect(),
            sessions: HashSet::new(),
            groups: HashSet::new(),
            strangers: HashSet::new(),
            unclear: 0,
            held: None,
            leader_adopts: false,
            me: std::process::id() as i32,
            my_session: getsid(None).map_or(-1, Pid::as_raw),
            my_group: getpgrp().as_raw(),
        }
    }

    /// For one whose end the caller waits for, so that its number cannot have become another's unnoticed.
    pub(crate) fn holding_leader(mut self) -> Self {
        self.held = self.leader.map(|identity| identity.pid);
        self.sessions.extend(self.held);
        self.groups.extend(self.held);
        self
    }

    /// For one that adopts whatever its descendants leave behind.
    pub(crate) fn led_by_its_adopter(mut self) -> Self {
        self.leader_adopts = true;
        self
    }

    /// All members there are now, zombies too.
    pub(crate) fn census(&mut self) -> Vec<Process> {
        let (mut table, mut vanished) = (Vec::new(), 0);
        for pid in proc::pids() {
            match proc::read(pid) {
                Some(process) => table.push(process),
                None => vanished += usize::from(!self.strangers.iter().any(|stranger| stranger.pid == pid)),
            }
        }
        let members = self.settle(table);
        self.unclear += vanished;
        members
    }

    /// As [`Family::census`], but gives up at the first thread above `threads_max`: who meets a fork bomb has no time
    /// to count it.
    pub(crate) fn census_up_to(&mut self, threads_max: u32) -> Option<Vec<Process>> {
        let (mut table, mut members, mut threads) = (Vec::new(), HashSet::new(), 0);
        for process in proc::table() {
            // Parents mostly come before their children here; `settle` sees to the rest.
            let belongs = self.is_known(&process) || self.is_related(&process) || members.contains(&process.parent);
            if self.may_belong(&process) && belongs {
                members.insert(process.pid());
                self.remember_leadership(&process);
                threads += process.threads;
                if threads > threads_max {
                    return None;
                }
            }
            table.push(process);
        }
        Some(self.settle(table))
    }

    /// Completes the membership by all rules, and remembers it.
    fn settle(&mut self, table: Vec<Process>) -> Vec<Process> {
        // A number may come back as another's session once its last process is gone.
        let held = self.held;
        self.sessions
            .retain(|session| held == Some(*session) || table.iter().any(|process| process.session == *session));
        self.groups.retain(|group| held == Some(*group) || table.iter().any(|process| process.group == *group));
        let mut members: HashSet<i32> = HashSet::new();
        let mut strangers = HashSet::new();
        let mut unclear = 0;
        for process in table.iter().filter(|process| self.may_belong(process)) {
            match self.judge(process) {
                Some(true) => drop(members.insert(process.pid())),
                Some(false) => drop(strangers.insert(process.identity)),
                None => unclear += usize::from(self.is_younger(process)),
            }
        }
        self.strangers = strangers;
        self.unclear = unclear;
        loop {
            let before = (members.len(), self.sessions.len(), self.groups.len());
            for process in &table {
                if self.may_belong(process) && (members.contains(&process.parent) || self.is_related(process)) {
                    members.insert(process.pid());
                }
                if members.contains(&process.pid()) {
                    self.remember_leadership(process);
                }
            }
            if before == (members.len(), self.sessions.len(), self.groups.len()) {
                break;
            }
        }
        let found: Vec<Process> = table.into_iter().filter(|process| members.contains(&process.pid())).collect();
        self.known = found.iter().map(|process| (process.pid(), process.identity.start)).collect();
        found
    }

    fn may_belong(&self, process: &Process) -> bool {
        // 2 is the parent of all kernel threads.
        process.pid() != self.me && process.pid() > 2 && process.parent != 2
    }

    /// Whether it belongs by itself, not by its parent. `None` if that will show later.
    fn judge(&self, process: &Process) -> Option<bool> {
        if self.is_known(process) || self.is_related(process) {
            return Some(true);
        }
        if self.strangers.contains(&process.identity) { Some(false) } else { self.marker.is_on(process.pid()) }
    }

    fn is_younger(&self, process: &Process) -> bool {
        self.leader.is_none_or(|leader| process.identity.start >= leader.start)
    }

    fn is_known(&self, process: &Process) -> bool {
        self.known.get(&process.pid()) == Some(&process.identity.start)
    }

    fn is_related(&self, process: &Process) -> bool {
        self.sessions.contains(&process.session) || self.groups.contains(&process.group)
    }

    /// Only a session or group that a member leads is ours: just after the fork a child is still in its parent's.
    fn remember_leadership(&mut self, member: &Process) {
        let pid = member.pid();
        if member.session == pid && pid != self.my_session {
            self.sessions.insert(pid);
        }
        if member.group == pid && pid != self.my_group {
            self.groups.insert(pid);
        }
    }

    pub(crate) fn signal(&mut self, signal: Signal, spared: &[i32]) {
        for member in self.census().iter().filter(|member| member.is_alive() && !spared.contains(&member.pid())) {
            send(member.identity, signal);
        }
    }

    /// SIGKILL until none is left, or the wait is over. Returns those still alive. Blocks: call it off the runtime.
    pub(crate) fn kill_all(&mut self, wait: Duration) -> Vec<i32> {
        // Before looking: what forks as fast as it can would make every look longer than the last.
        self.kill_groups();
        let deadline = Instant::now() + wait;
        let mut pause = Duration::from_millis(1);
        let mut unclear_looks = 0;
        loop {
            let members = self.census();
            self.kill_groups();
            let zombies = self.reap(&members);
            let mut alive: Vec<Identity> =
                members.iter().filter(|member| member.is_alive()).map(|member| member.identity).collect();
            if self.leader_adopts && alive.len() > 1 {
                alive.retain(|identity| Some(*identity) != self.leader);
            }
            for identity in &alive {
                send(*identity, Signal::SIGKILL);
            }
            unclear_looks = if alive.is_empty() && self.unclear > 0 { unclear_looks + 1 } else { 0 };
            // After so many it is others who come and go, or were given no environment.
            let is_clear = self.unclear == 0 || unclear_looks >= UNCLEAR_LOOKS;
            if alive.is_empty() && zombies == 0 && is_clear || Instant::now() >= deadline {
                return alive.iter().map(|identity| identity.pid).collect();
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// A whole group dies in one step, so what forks inside it cannot outrun us.
    fn kill_groups(&self) {
        let spared = self.leader.filter(|_| self.leader_adopts).map(|leader| leader.pid);
        if let Some(leader) = self.leader.filter(|_| spared.is_none()) {
            send(leader, Signal::SIGKILL);
        }
        let spares = |group: i32| group <= 1 || group == self.my_group || spared == Some(group);
        for group in self.groups.iter().filter(|group| !spares(**group)) {
            let _ = kill(Pid::from_raw(-group), Signal::SIGKILL);
        }
    }

    /// Orphans come to us when we are pid 1 of a container; children of ours have a handle that waits for them. Returns
    /// how many adopted zombies are left.
    fn reap(&self, members: &[Process]) -> usize {
        let adopted = members
            .iter()
            .filter(|member| !member.is_alive() && member.parent == self.me && !is_own_child(member.identity));
        adopted.filter(|member| waitpid(Pid::from_raw(member.pid()), Some(WaitPidFlag::WNOHANG)).is_err()).count()
    }
}

/// Collects a zombie that came to us because we are pid 1 of a container.
pub(crate) fn reap_adopted(pid: i32) {
    let me = std::process::id() as i32;
    if proc::read(pid).is_some_and(|process| process.parent == me && !is_own_child(process.identity)) {
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
}

/// Signals that very process, not one that came by its number.
pub(crate) fn send(identity: Identity, signal: Signal) {
    if proc::identity(identity.pid) == Some(identity) {
        // It may have ended since; then there is nothing to do.
        let _ = kill(Pid::from_raw(identity.pid), signal);
    }
}
