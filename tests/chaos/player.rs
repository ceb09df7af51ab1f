//! A bot on the ground: its process, started again whenever it is gone, and the proxies between it and the broker.
use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    process::Child,
    sync::{Arc, Mutex},
    time::Duration,
};

use bot_provision::Secret;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{
    cast::{self, Cast, password},
    proxy::{Cut, Network, Proxy},
};

const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) struct Player {
    dir: PathBuf,
    cast: Cast,
    /// One before each node of the broker.
    proxies: Vec<Proxy>,
    process: Mutex<Process>,
}

struct Process {
    child: Child,
    password: Secret,
    /// Pages that its store may have from the next start on.
    pages_max: Option<u32>,
    wanted: bool,
    starts: u32,
}

impl Player {
    /// Starts it, and from then on whenever it is gone and wanted.
    pub(crate) async fn start(dir: PathBuf, cast: Cast, ports: &[u16]) -> Arc<Self> {
        let mut proxies = Vec::new();
        for port in ports {
            proxies.push(Proxy::before(*port).await);
        }
        let password = password(cast.slug);
        fs::create_dir_all(dir.join("crashes")).unwrap();
        let child = cast::start(&dir, &addresses(&proxies), &password, &cast);
        let process = Mutex::new(Process { child, password, pages_max: None, wanted: true, starts: 1 });
        let player = Arc::new(Self { dir, cast, proxies, process });
        let watched = Arc::downgrade(&player);
        tokio::spawn(async move {
            while let Some(player) = watched.upgrade() {
                player.start_if_gone();
                drop(player);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        player
    }

    fn start_if_gone(&self) {
        let mut process = self.process.lock().unwrap();
        if process.wanted && process.child.try_wait().unwrap().is_some() {
            let mut cast = self.cast.clone();
            cast.variables.extend(process.pages_max.map(|pages| ("LOTA_STORE_PAGES_MAX", pages.to_string())));
            process.child = cast::start(&self.dir, &addresses(&self.proxies), &process.password, &cast);
            process.starts += 1;
        }
    }

    pub(crate) fn slug(&self) -> &'static str {
        self.cast.slug
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    pub(crate) fn starts(&self) -> u32 {
        self.process.lock().unwrap().starts
    }

    /// A process that is gone already hears nothing.
    pub(crate) fn signal(&self, signal: Signal) {
        let mut process = self.process.lock().unwrap();
        if process.child.try_wait().unwrap().is_none() {
            let _ = kill(Pid::from_raw(process.child.id().cast_signed()), signal);
        }
    }

    /// Whether it is started again when it is gone.
    pub(crate) fn is_wanted(&self, wanted: bool) {
        self.process.lock().unwrap().wanted = wanted;
    }

    /// Waits for the end of its process, which nobody starts again.
    pub(crate) async fn ended(&self) {
        while self.process.lock().unwrap().child.try_wait().unwrap().is_none() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The pages that its store may have from its next start on.
    pub(crate) fn limit_store(&self, pages_max: Option<u32>) {
        self.process.lock().unwrap().pages_max = pages_max;
    }

    pub(crate) fn password(&self) -> Secret {
        self.process.lock().unwrap().password.clone()
    }

    /// Its password from now on; it reads it from the file.
    pub(crate) fn write_password(&self, password: Secret) {
        cast::private(&self.dir, "password", password.expose());
        self.process.lock().unwrap().password = password;
    }

    pub(crate) fn set_network(&self, network: Network) {
        for proxy in &self.proxies {
            proxy.set(network);
        }
    }

    pub(crate) fn cut(&self, how: Cut) {
        for proxy in &self.proxies {
            proxy.cut(how);
        }
    }

    /// Has its process end at a place, the next time it comes there.
    pub(crate) fn end_at(&self, place: &str) {
        cast::private(&self.dir.join("crashes"), "at", place);
    }

    /// Whether it came to the place that was named last.
    pub(crate) fn has_ended_there(&self) -> bool {
        !self.dir.join("crashes/at").exists()
    }

    /// The places that its processes came to.
    pub(crate) fn reached(&self) -> String {
        fs::read_to_string(self.dir.join("crashes/reached")).unwrap_or_default()
    }

    /// How long its log is now.
    pub(crate) fn log_bytes(&self) -> u64 {
        fs::metadata(self.dir.join("log")).map_or(0, |m| m.len())
    }

    /// Whether its log says `text` behind the first `after` bytes.
    pub(crate) fn logged_since(&self, after: u64, text: &str) -> bool {
        let mut said = String::new();
        let mut log = File::open(self.dir.join("log")).unwrap();
        log.seek(SeekFrom::Start(after)).unwrap();
        let _ = log.read_to_string(&mut said);
        said.contains(text)
    }

    /// The last lines of its log.
    pub(crate) fn last_lines(&self, count: usize) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

fn addresses(proxies: &[Proxy]) -> String {
    let of = |proxy: &Proxy| format!("amqp://127.0.0.1:{}/lota", proxy.port());
    proxies.iter().map(of).collect::<Vec<_>>().join(",")
}

impl Drop for Player {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap();
        let _ = process.child.kill();
        let _ = process.child.wait();
    }
}
