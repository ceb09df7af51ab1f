//! A PostgreSQL server of a test's own, and where its programs are.
use std::{
    env,
    fs::{self, Permissions},
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{LazyLock, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::s3::cache_dir;

const START_LIMIT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "canary-of-a-database-password";
/// The file with it, for clients; the server is made with another that its own user can read.
const ADMIN_PASSWORD: &str = "admin.password";
/// The server does not run as root; this is `nobody`, whom every system has.
const NOBODY: u32 = 65_534;
/// Starts and breaks off the server as it is told, and ends it and takes its folder away when the test's process is gone,
/// however that ended.
const KEEPER: &str = r#"
trap '' INT TERM
folder=$1; shift
"$@" & server=$!
while read -r word; do
    case $word in
    stop) kill -QUIT $server; wait $server ;;
    start) "$@" & server=$! ;;
    esac
done
kill -QUIT $server 2>/dev/null
wait
rm -rf "$folder"
"#;
const READY: &str = "database system is ready to accept connections";
const DOWN: &str = "database system is shut down";

/// Where PostgreSQL's programs are; the server's are on nobody's path.
pub fn postgresql_bin() -> PathBuf {
    let found = ["/".into(), unpacked()].iter().find_map(|root: &PathBuf| {
        let versions = fs::read_dir(root.join("usr/lib/postgresql")).into_iter().flatten().flatten();
        versions.map(|version| version.path().join("bin")).find(|bin| bin.join("postgres").exists())
    });
    found.expect(
        "PostgreSQL is missing: `lota fetch`, which `make test` calls, unpacks it into the cache; or as root \
         apt-get install --no-install-recommends postgresql",
    )
}

/// Where `lota fetch` unpacks it.
fn unpacked() -> PathBuf {
    cache_dir().join("debs/postgresql")
}

/// A program of it, with the libraries that were unpacked beside it.
fn program(name: &str) -> Command {
    let (bin, root) = (postgresql_bin(), unpacked());
    let mut command = Command::new(bin.join(name));
    if bin.starts_with(&root) {
        let folders = fs::read_dir(root.join("usr/lib")).into_iter().flatten().flatten().map(|entry| entry.path());
        let folders = folders.filter(|folder| folder.to_string_lossy().contains("-linux-gnu"));
        command.env("LD_LIBRARY_PATH", env::join_paths(folders).unwrap());
    }
    // A session in the language of whoever runs the test would be told of differently.
    command.env("LC_ALL", "C");
    command
}

/// A server of its own; gone with the value, and with the process.
pub struct Postgres {
    folder: PathBuf,
    port: u16,
    keeper: Child,
    /// Open for as long as the server is wanted.
    orders: Mutex<Option<ChildStdin>>,
    /// What it writes.
    lines: Mutex<mpsc::Receiver<String>>,
}

impl Postgres {
    /// One that all tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);
        &SHARED
    }

    /// A server of its own.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("lota-postgres-").tempdir().unwrap().keep();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join(ADMIN_PASSWORD), PASSWORD).unwrap();
        fs::set_permissions(folder.join(ADMIN_PASSWORD), Permissions::from_mode(0o600)).unwrap();
        fs::write(folder.join("password"), PASSWORD).unwrap();
        if is_root() {
            chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let made = as_its_user("initdb", &folder)
            .arg("-D")
            .arg(folder.join("data"))
            .args(["-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C", "--wal-segsize=1"])
            .arg(format!("--pwfile={}", folder.join("password").display()))
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let (mut keeper, lines) = keeper(&folder, port);
        let (orders, lines) = (Mutex::new(keeper.stdin.take()), Mutex::new(lines));
        let server = Self { folder, port, keeper, orders, lines };
        server.wait_for(READY);
        server
    }

    /// Ends it in the middle of whatever it does, as a crash would.
    pub fn break_off(&self) {
        self.order("stop");
        self.wait_for(DOWN);
    }

    /// Starts it again after [`Self::break_off`].
    pub fn go_on(&self) {
        self.order("start");
        self.wait_for(READY);
    }

    fn order(&self, word: &str) {
        writeln!(self.orders.lock().unwrap().as_mut().unwrap(), "{word}").unwrap();
    }

    fn wait_for(&self, words: &str) {
        let (lines, until, mut said) = (self.lines.lock().unwrap(), Instant::now() + START_LIMIT, String::new());
        loop {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(words) => return,
                Ok(line) => said = said + &line + "\n",
                Err(why) => panic!("PostgreSQL did not say `{words}` ({why}), but: {said}"),
            }
        }
    }

    /// Where it is: `postgres://USER@127.0.0.1:port/postgres`.
    pub fn url(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// The same for whoever may do everything there.
    pub fn admin_url(&self) -> String {
        self.url("postgres")
    }

    /// The file with that one's password.
    pub fn admin_password_file(&self) -> PathBuf {
        self.folder.join(ADMIN_PASSWORD)
    }

    /// Runs statements as whoever may do everything; gives the rows, their columns joined by `|`.
    pub fn sql(&self, statements: &str) -> String {
        let output = program("psql")
            .args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-h"])
            .arg(&self.folder)
            .args(["-p", &self.port.to_string(), "-U", "postgres", "-c", statements, "postgres"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.orders.lock().unwrap().take());
        self.keeper.wait().unwrap();
    }
}

fn keeper(folder: &Path, port: u16) -> (Child, mpsc::Receiver<String>) {
    let server = as_its_user("postgres", folder);
    let mut keeper = Command::new("sh")
        .args(["-c", KEEPER, "keeper"])
        .arg(folder)
        .arg(server.get_program())
        .args(server.get_args())
        .arg("-D")
        .arg(folder.join("data"))
        .arg("-k")
        .arg(folder)
        .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
        .args(["-c", "max_connections=200", "-c", "shared_buffers=16MB", "-c", "log_statement=ddl"])
        .envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let written = BufReader::new(keeper.stderr.take().unwrap()).lines();
    let (send, lines) = mpsc::channel();
    // Reads to the end: a server that nobody listens to would stop in the middle of a word.
    thread::spawn(move || written.map_while(Result::ok).for_each(|line| drop(send.send(line))));
    (keeper, lines)
}

/// A program of it as the user that the server has to be.
fn as_its_user(name: &str, folder: &Path) -> Command {
    let program = program(name);
    if !is_root() {
        return program;
    }
    let nobody = NOBODY.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"]).arg(program.get_program());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(folder);
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}
