//! A release on another host: uploaded, switched, restarted and checked over a real sshd, taken back when it is not well,
//! and never sent to a host that is not the one that is known.
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bot_provision::{Bundle, PackageCache, free_port, library_path};
use serde_json::Value;
use tests::{Fleet, Repository, cache_dir, succeeds, wait_for};

const LIMIT: Duration = Duration::from_secs(90);
const PIPELINE: &str = "version: 1
build:
  artifacts: ['*.html']
test:
  suites: {}
deploy:
  live: {}
";

/// A host with a user `deploy`: an sshd of its own keys, started without root's rights; it ends with the value.
struct Host {
    sshd: Child,
    dir: PathBuf,
    port: u16,
}

impl Host {
    fn start(dir: PathBuf) -> Self {
        fs::create_dir_all(dir.join("srv")).unwrap();
        for key in ["host_key", "user_key", "other_key"] {
            let file = dir.join(key);
            succeeds(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file));
        }
        fs::copy(dir.join("user_key.pub"), dir.join("authorized_keys")).unwrap();
        let (root, port) = (sshd(), free_port().unwrap());
        let at = dir.display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host_key\nAuthorizedKeysFile {at}/authorized_keys\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n"
        );
        fs::write(dir.join("sshd_config"), config).unwrap();
        fs::write(dir.join("passwd"), format!("deploy:x:1000:1000::{at}:/bin/sh\n")).unwrap();
        let log = fs::File::create(dir.join("sshd.log")).unwrap();
        // In a user namespace whoever runs the test is `deploy`; as root it would want a user and folders of the system.
        let mut command = Command::new(bubblewrap());
        command.args(["--unshare-user", "--unshare-pid", "--uid", "1000", "--gid", "1000", "--die-with-parent"]);
        command.args(["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--bind"]).arg(&dir).arg(&dir);
        command.arg("--ro-bind").arg(dir.join("passwd")).args(["/etc/passwd", "--"]);
        command.arg(root.join(Bundle::SshServer.program())).args(["-D", "-e", "-f"]).arg(dir.join("sshd_config"));
        command.env("LD_LIBRARY_PATH", library_path(&root)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut sshd = command.spawn().unwrap();
        wait_for("sshd to listen", Duration::from_secs(20), || {
            let log = fs::read_to_string(dir.join("sshd.log")).unwrap();
            assert!(sshd.try_wait().unwrap().is_none(), "sshd ended: {log}");
            log.contains("Server listening").then_some(())
        });
        Self { sshd, dir, port }
    }

    /// A line of known hosts that says it has this key.
    fn known_as(&self, key: &str) -> String {
        let key = fs::read_to_string(self.dir.join(format!("{key}.pub"))).unwrap();
        format!("[127.0.0.1]:{} {key}", self.port)
    }

    fn page(&self) -> Option<String> {
        fs::read_to_string(self.dir.join("srv/shop/current/index.html")).ok()
    }

    fn restarts(&self) -> usize {
        fs::read_to_string(self.dir.join("srv/shop/restarts")).unwrap_or_default().lines().count()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
        if std::thread::panicking() {
            tests::say(&format!("== sshd\n{}", fs::read_to_string(self.dir.join("sshd.log")).unwrap_or_default()));
        }
    }
}

fn ensured(bundle: Bundle) -> PathBuf {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let unpacked = runtime.block_on(PackageCache::new(cache_dir()).ensure(bundle, &tests::say));
    unpacked.unwrap_or_else(|error| panic!("{error}"))
}

/// The root below which sshd lies: the system's, or one that is unpacked into the cache.
fn sshd() -> PathBuf {
    let program = Bundle::SshServer.program();
    if Path::new("/").join(program).is_file() { PathBuf::from("/") } else { ensured(Bundle::SshServer) }
}

fn bubblewrap() -> PathBuf {
    std::env::var_os("LOTA_TEST_BWRAP")
        .map_or_else(|| ensured(Bundle::Bubblewrap).join(Bundle::Bubblewrap.program()), PathBuf::from)
}

fn environments(host: &Host) -> String {
    format!(
        "live:
  repositories: ['*']
  refs: [refs/heads/main]
  health: {{deadline: 3s}}
  target:
    type: ssh
    host: 127.0.0.1
    port: {}
    user: deploy
    path: {}/srv/shop
    key: live_key
    known_hosts: known_hosts
    restart: echo \"$(cat index.html)\" >> ../../restarts
    check: test ! -e broken.html
",
        host.port,
        host.dir.display()
    )
}

/// What became of a push in the environment.
fn ended(fleet: &Fleet, number: u64) -> Value {
    wait_for(&format!("attempt {number} to end"), LIMIT, || {
        let told = succeeds(&mut fleet.lota(&["history", "live", "--json"]));
        let report: Value = serde_json::from_str(&told).unwrap();
        let attempts = report["attempts"].as_array().unwrap().clone();
        attempts.into_iter().find(|attempt| attempt["number"] == number && attempt["ended_at"].is_string())
    })
}

#[test]
fn releases_go_to_another_host_and_come_back() {
    let fleet = Fleet::start();
    let host = Host::start(fleet.beside("host"));
    let config = fleet.home().join("config");
    fs::create_dir_all(config.join("deploy-secrets")).unwrap();
    fs::copy(host.dir.join("user_key"), config.join("deploy-secrets/live_key")).unwrap();
    fs::set_permissions(config.join("deploy-secrets/live_key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(config.join("known_hosts"), host.known_as("host_key")).unwrap();
    fs::write(config.join("environments.yaml"), environments(&host)).unwrap();
    fleet.kill("deploy-bot");

    let repository =
        Repository::create(&fleet.beside("page"), &[(".lotabots.yaml", PIPELINE), ("index.html", "one\n")]);
    fleet.push(&repository.path);
    let first = ended(&fleet, 1);
    assert_eq!(first["state"], "succeeded", "{first:#}");
    assert_eq!((host.page().as_deref(), host.restarts()), (Some("one\n"), 1));

    repository.commit(&[("index.html", "two\n")]);
    fleet.push(&repository.path);
    assert_eq!(ended(&fleet, 2)["state"], "succeeded");
    assert_eq!(host.page().as_deref(), Some("two\n"));

    repository.commit(&[("index.html", "three\n"), ("broken.html", "\n")]);
    fleet.push(&repository.path);
    let third = ended(&fleet, 3);
    assert_eq!(third["state"], "rolled_back", "{third:#}");
    assert!(third["why"].as_str().unwrap().contains("the command `verify` of live"), "{third:#}");
    assert_eq!((host.page().as_deref(), host.restarts()), (Some("two\n"), 4), "and back, each with its restart");
    succeeds(&mut fleet.lota(&["rollback", "live", "--reason", "wrong prices"]));
    assert_eq!(host.page().as_deref(), Some("one\n"));
    let releases = fs::read_dir(host.dir.join("srv/shop/releases")).unwrap().count();
    assert_eq!(releases, 3, "whole ones alone, and no more than are kept");

    // Another host that answers under this one's address gets nothing, and someone is called.
    fs::write(config.join("known_hosts"), host.known_as("other_key")).unwrap();
    repository.commit(&[("index.html", "four\n")]);
    let correlation = fleet.push(&repository.path);
    let fifth = ended(&fleet, 5);
    assert_eq!(fifth["state"], "stranded", "{fifth:#}");
    assert!(fifth["why"].as_str().unwrap().contains("Host key verification failed"), "{fifth:#}");
    wait_for("the alert", LIMIT, || (fleet.said(&correlation, "alert.triggered") == 1).then_some(()));
    assert_eq!(host.page().as_deref(), Some("one\n"));
}
