//! An S3 server for tests: moto, a Python program, which is installed into the cache the first time.
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use tempfile::TempDir;

/// What is installed, every package at its exact version.
const PACKAGES: &str = include_str!("../moto.txt");
const BUCKET: &str = "lota";
/// As every S3 client's documentation calls it; a server in memory has no secret.
const KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET_KEY: &str = "canary-of-a-secret-key";
const START_LIMIT: Duration = Duration::from_secs(60);

/// A server of its own with one bucket, for the thread that started it; gone with the value.
pub struct S3Server {
    child: Child,
    address: String,
    secrets: TempDir,
}

impl S3Server {
    /// Takes any credentials.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Has never heard of anybody's credentials.
    pub fn start_closed() -> Self {
        // The one request that goes without is the one that makes the bucket.
        Self::start_with(&[("INITIAL_NO_AUTH_ACTION_COUNT", "1")])
    }

    fn start_with(variables: &[(&str, &str)]) -> Self {
        let python = installed();
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv starts moto; it is in the package util-linux");
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (send, told) = mpsc::channel();
        // Reads to the end: a server that nobody listens to would stop in the middle of a word.
        thread::spawn(move || {
            let mut all = String::new();
            for line in lines.map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("Running on http://") {
                    let _ = send.send(Ok(address.trim().to_owned()));
                }
                if all.len() < 10_000 {
                    all = all + &line + "\n";
                }
            }
            let _ = send.send(Err(all));
        });
        let secrets = tempfile::tempdir().unwrap();
        let mut server = Self { child, address: String::new(), secrets };
        server.address = told
            .recv_timeout(START_LIMIT)
            .expect("moto says where it listens")
            .unwrap_or_else(|said| panic!("moto ended: {said}"));
        for (file, text) in [("id", KEY_ID), ("key", SECRET_KEY)] {
            fs::write(server.secret(file), format!("{text}\n")).unwrap();
        }
        assert_eq!(server.ask("PUT", &format!("/{BUCKET}"), b"").0, 200, "the bucket is made");
        server
    }

    /// Where a fleet's object store is, in the bucket below `prefix`, with the files of the credentials.
    pub fn place(&self, prefix: &str) -> String {
        let (place, id, key) = (self.place_without_credentials(prefix), self.secret("id"), self.secret("key"));
        format!("{place}&access_key_id_file={}&secret_access_key_file={}", id.display(), key.display())
    }

    /// The same, for whoever finds credentials in its environment.
    pub fn place_without_credentials(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint=http://{}&region=eu-central-1", self.address)
    }

    /// A file that holds half of the credentials: `id` or `key`.
    pub fn secret(&self, half: &str) -> PathBuf {
        self.secrets.path().join(half)
    }

    /// What must show up nowhere.
    pub const fn canary() -> &'static str {
        SECRET_KEY
    }

    /// Puts something into the bucket past every client.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        assert_eq!(self.ask("PUT", &format!("/{BUCKET}/{key}"), bytes).0, 200, "{key} is stored");
    }

    /// The keys in the bucket that begin with `prefix`; the first thousand.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let (status, body) = self.ask("GET", &format!("/{BUCKET}?list-type=2&prefix={prefix}"), b"");
        assert_eq!(status, 200, "{body}");
        let keys = body.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        keys.map(|(key, _)| key.to_owned()).collect()
    }

    /// When an object was last written, as the server says it: RFC 3339, in whole seconds.
    pub fn modified(&self, key: &str) -> String {
        let (_, body) = self.ask("GET", &format!("/{BUCKET}?list-type=2&prefix={key}"), b"");
        let found = body.split_once("<LastModified>").and_then(|(_, rest)| rest.split_once("</"));
        found.expect("it is there").0.to_owned()
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let (address, size) = (&self.address, body.len());
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {size}\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=0\r\n\r\n"
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no answer of HTTP: {answer}")), answer)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The Python that has moto, after it was installed if it was not.
fn installed() -> PathBuf {
    let cache = cache_dir();
    fs::create_dir_all(&cache).unwrap_or_else(|e| panic!("{} cannot be made: {e}", cache.display()));
    let lock = File::create(cache.join("moto.lock")).unwrap();
    lock.lock().unwrap();
    let folder = cache.join("moto");
    let (python, list) = (folder.join("bin/python"), folder.join("installed.txt"));
    if fs::read_to_string(&list).is_ok_and(|there| there == PACKAGES) && python.is_file() {
        return python;
    }
    match fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => panic!("{} cannot be removed: {e}", folder.display()),
        _ => {}
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    let wanted = folder.join("wanted.txt");
    fs::write(&wanted, PACKAGES).unwrap();
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--no-deps", "--requirement"]).arg(&wanted));
    // Last: a folder without it is not whole.
    fs::rename(wanted, list).unwrap();
    python
}

fn run(command: &mut Command) {
    const NEEDS: &str = "the S3 server of the tests needs Python: apt-get install -y python3 python3-venv";
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; {NEEDS}"));
    assert!(output.status.success(), "{command:?}: {}; {NEEDS}", String::from_utf8_lossy(&output.stderr));
}

/// Where unpacked packages lie, as for the tests of a fleet.
pub(crate) fn cache_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    std::env::var_os("LOTA_CACHE").map_or_else(|| workspace.join(".cache/lota"), PathBuf::from)
}
