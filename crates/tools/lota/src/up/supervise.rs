//! Watches over the bots' processes: starts them, starts them again when they end, stops them in order.
#![allow(clippy::disallowed_methods, reason = "starts the bots' own programs")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use bot_provision::Identity;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use super::{
    bots::{Member, members},
    logs::Logs,
    say::say,
};
use crate::{
    exit::{Exit, OrExit},
    home::{Home, Tls},
};

/// Its configuration is wrong; starting it again does not help.
const EXIT_CONFIG: i32 = 78;
const STOP_LIMIT: Duration = Duration::from_secs(40);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Of what could not be written.
const TOLD_MAX: usize = 32;
/// A bot that ran for so long starts again without a pause.
const SETTLED: Duration = Duration::from_secs(60);

/// What every bot is told.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) amqp_url: String,
    pub(crate) management_url: String,
    pub(crate) tls: Option<Tls>,
    pub(crate) bwrap: Option<PathBuf>,
    pub(crate) monitor_listen: String,
    pub(crate) objects: String,
}

struct Bot {
    slug: String,
    program: PathBuf,
    child: Option<Child>,
    since: Instant,
    again_at: Option<Instant>,
    pause: Duration,
}

pub(crate) struct Supervisor {
    home: Home,
    common: Common,
    bots: Vec<Bot>,
    logs: Logs,
    /// What could not be written, as it was told.
    unwritten: BTreeSet<String>,
}

impl Supervisor {
    pub(crate) fn new(home: &Home, common: Common) -> anyhow::Result<Self> {
        let new = |Member { slug, program, .. }| Bot {
            slug,
            program,
            child: None,
            since: Instant::now(),
            again_at: None,
            pause: PAUSE_MIN,
        };
        let bots = members(home)?.into_iter().map(new).collect();
        let logs = Logs::new(home.join("logs"));
        Ok(Self { home: home.clone(), common, bots, logs, unwritten: BTreeSet::new() })
    }

    pub(crate) fn start_all(&mut self) -> anyhow::Result<()> {
        for i in 0..self.bots.len() {
            self.start(i).or_exit(Exit::Unavailable)?;
            self.write_pids()?;
        }
        Ok(())
    }

    fn start(&mut self, index: usize) -> anyhow::Result<()> {
        let slug = self.bots[index].slug.as_str();
        let log = self.home.log(slug);
        let out = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        // With a parent-death signal, since a supervisor that is killed must not leave bots behind that nobody watches.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(&self.bots[index].program)
            .envs(self.variables(slug))
            // Of the administrator; only this process provisions.
            .env_remove("LOTA_BROKER_URL")
            .env_remove("LOTA_BROKER_MANAGEMENT_URL")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| {
                format!("cannot start {} (by setpriv, of the package util-linux)", self.bots[index].program.display())
            })?;
        let bot = &mut self.bots[index];
        bot.child = Some(child);
        bot.since = Instant::now();
        bot.again_at = None;
        Ok(())
    }

    fn variables(&self, slug: &str) -> BTreeMap<&'static str, String> {
        let text = |p: PathBuf| p.to_string_lossy().into_owned();
        let mut vars = BTreeMap::from([
            ("LOTA_HOME", text(self.home.path().to_owned())),
            ("LOTA_CONFIG_DIR", text(self.home.join("config"))),
            ("LOTA_OBJECTS", self.common.objects.clone()),
            ("LOTA_AMQP_URL", self.common.amqp_url.clone()),
            ("LOTA_AMQP_USER", slug.to_owned()),
            ("LOTA_AMQP_PASSWORD_FILE", text(self.home.password_file(slug))),
        ]);
        let tls = self.home.tls_files(self.common.tls.as_ref(), slug);
        let (certificate, key) = tls.identity.unzip();
        for (name, file) in [
            ("LOTA_AMQP_CA_FILE", tls.authorities.clone()),
            ("LOTA_AMQP_CERT_FILE", certificate),
            ("LOTA_AMQP_KEY_FILE", key),
        ] {
            vars.extend(file.map(|file| (name, text(file))));
        }
        if let Some(bwrap) = &self.common.bwrap {
            vars.insert("LOTA_BWRAP", text(bwrap.clone()));
        }
        if slug == "monitor-bot" {
            let user = bot_messages::topology::METRICS_USER;
            vars.insert("LOTA_SETTING_LISTEN", self.common.monitor_listen.clone());
            vars.insert("LOTA_SETTING_MANAGEMENT_URL", self.common.management_url.clone());
            vars.insert("LOTA_SETTING_MANAGEMENT_USER", user.to_owned());
            vars.insert("LOTA_SETTING_MANAGEMENT_PASSWORD_FILE", text(self.home.password_file(user)));
            vars.extend(tls.authorities.map(|file| ("LOTA_SETTING_MANAGEMENT_CA_FILE", text(file))));
            let own = Identity::at(&self.home.tls_dir(), "monitor");
            if self.common.tls.is_some() && own.exists() {
                vars.insert("LOTA_SETTING_TLS_CERT_FILE", text(own.certificate));
                vars.insert("LOTA_SETTING_TLS_KEY_FILE", text(own.key));
            }
        }
        vars
    }

    /// Which processes there are, for people and for tests.
    fn write_pids(&self) -> anyhow::Result<()> {
        let pids: BTreeMap<&str, u32> =
            self.bots.iter().filter_map(|b| Some((b.slug.as_str(), b.child.as_ref()?.id()?))).collect();
        crate::home::write_private(&self.home.join("pids.json"), &serde_json::to_vec_pretty(&pids)?)
    }

    /// Looks who ended, starts again who is due, and keeps the logs short. Called a few times a second. What cannot be
    /// written (a full disk) is told and ends nothing.
    pub(crate) fn attend(&mut self) {
        let mut changed = false;
        for index in 0..self.bots.len() {
            let bot = &mut self.bots[index];
            if let Some(child) = &mut bot.child
                && let Ok(Some(status)) = child.try_wait()
            {
                bot.child = None;
                changed = true;
                bot.ended(status, &self.home);
            }
            if self.bots[index].again_at.is_some_and(|at| at <= Instant::now()) {
                changed = true;
                if let Err(e) = self.start(index) {
                    let bot = &mut self.bots[index];
                    bot.pause = (bot.pause * 2).min(PAUSE_MAX);
                    bot.again_at = Some(Instant::now() + bot.pause);
                    self.not_written(&e.context(format!("{} was to start again", self.bots[index].slug)));
                }
            }
        }
        let cut = self.logs.attend().context("cannot cut the logs");
        let noted = if changed { self.write_pids() } else { Ok(()) };
        for e in [cut.err(), noted.err()].into_iter().flatten() {
            self.not_written(&e);
        }
    }

    /// Each is told once.
    fn not_written(&mut self, error: &anyhow::Error) {
        if self.unwritten.len() >= TOLD_MAX {
            self.unwritten.clear();
        }
        let text = format!("{error:#}");
        if self.unwritten.insert(text.clone()) {
            say(format_args!("{text}; the fleet goes on"));
        }
    }

    /// Bots that gave up because of their configuration.
    pub(crate) fn refused(&self) -> Vec<&str> {
        self.bots.iter().filter(|b| b.child.is_none() && b.again_at.is_none()).map(|b| b.slug.as_str()).collect()
    }

    /// Tells all to stop and waits; whoever does not is killed.
    pub(crate) async fn stop_all(&mut self) {
        for bot in &self.bots {
            bot.signal(Signal::SIGTERM);
        }
        let limit = Instant::now() + STOP_LIMIT;
        for bot in &mut self.bots {
            let left = limit.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, bot.wait()).await.is_err() {
                say(format_args!("{} did not stop within {} s: killed", bot.slug, STOP_LIMIT.as_secs()));
                bot.signal(Signal::SIGKILL);
                bot.wait().await;
            }
        }
        let _ = fs::remove_file(self.home.join("pids.json"));
    }
}

impl Bot {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(Child::id).and_then(|p| i32::try_from(p).ok()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Until it has ended.
    async fn wait(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.wait().await;
        }
    }

    fn ended(&mut self, status: ExitStatus, home: &Home) {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            _ => "an unknown reason".to_owned(),
        };
        let log = home.log(&self.slug);
        if status.code() == Some(EXIT_CONFIG) {
            say(format_args!(
                "{} ended by {how}: its configuration or this machine is wrong, see the end of {}",
                self.slug,
                log.display()
            ));
            return;
        }
        self.pause = if self.since.elapsed() > SETTLED { PAUSE_MIN } else { (self.pause * 2).min(PAUSE_MAX) };
        let pause = if self.pause == PAUSE_MIN * 2 { Duration::ZERO } else { self.pause };
        say(format_args!("{} ended by {how}, starts again in {} s; see {}", self.slug, pause.as_secs(), log.display()));
        self.again_at = Some(Instant::now() + pause);
    }
}
