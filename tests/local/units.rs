//! The fleet as systemd's units: `make install` into a folder, every bot among them, and systemd's own look at them.
use std::{fs, path::Path, process::Command};

use tests::{succeeds, workspace};

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn bots() -> Vec<String> {
    let contracts = read(&workspace().join("deploy/rabbitmq/contracts.json"));
    let contracts: Vec<bot_messages::Contract> = serde_json::from_str(&contracts).unwrap();
    contracts.iter().map(|contract| contract.name.slug()).collect()
}

#[test]
fn every_bot_is_installed_with_a_user_a_folder_and_a_place_in_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let install = workspace().join("deploy/install.sh");
    let told = succeeds(Command::new(install).env("DESTDIR", dir.path()).env("PROFILE", "debug"));
    assert!(told.contains("lotabots.target"), "{told}");
    let etc = dir.path().join("etc/systemd/system");
    let target = read(&etc.join("lotabots-bots.target"));
    let users = read(&dir.path().join("usr/lib/sysusers.d/lotabots.conf"));
    let folders = read(&dir.path().join("usr/lib/tmpfiles.d/lotabots.conf"));
    for bot in bots() {
        assert!(target.contains(&format!("lotabots@{bot}.service")), "the target does not start {bot}");
        assert!(users.contains(&format!("u lota-{bot} ")), "{bot} has no user");
        for line in [
            format!("d /var/lib/lotabots/bots/{bot} 0700 lota-{bot} lotabots\n"),
            format!("d /var/lib/lotabots/secrets/{bot} 0750 root lota-{bot}\n"),
        ] {
            assert!(folders.contains(&line), "{bot} has no folder of its own: {line}");
        }
        assert!(dir.path().join("usr/local/lib/lotabots").join(&bot).is_file(), "{bot} is not installed");
        let manifest = workspace().join("crates/bots").join(&bot).join("Cargo.toml");
        let runs_commands = manifest.exists() && read(&manifest).contains("bot-sandbox.workspace");
        let opened = etc.join(format!("lotabots@{bot}.service.d/commands.conf")).exists();
        assert_eq!(opened, runs_commands, "{bot}: commands.conf is for bots that run commands, and for no others");
    }

    // Kept as an administrator left it.
    let settings = dir.path().join("etc/lotabots/lotabots.env");
    fs::write(&settings, "LOTA_AMQP_URL=amqp://elsewhere/lota\n").unwrap();
    succeeds(Command::new(workspace().join("deploy/install.sh")).env("DESTDIR", dir.path()).env("PROFILE", "debug"));
    assert!(read(&settings).contains("elsewhere"));
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("NOT VERIFIED: systemd-analyze is missing (apt-get install -y systemd)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    succeeds(Command::new(workspace().join("deploy/install.sh")).env("DESTDIR", dir.path()).env("PROFILE", "debug"));
    let etc = dir.path().join("etc/systemd/system");
    for unit in ["lotabots@.service", "lotabots-provision.service"] {
        let here = format!("={}/usr/local/", dir.path().display());
        let text = read(&etc.join(unit)).replace("=/usr/local/", &here);
        fs::write(etc.join(unit), text).unwrap();
    }
    let units = bots().into_iter().map(|bot| format!("lotabots@{bot}.service"));
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "lotabots-provision.service", "lotabots.target", "lotabots-bots.target"])
        .args(units)
        // What is there, and after the colon what systemd has itself.
        .env("SYSTEMD_UNIT_PATH", format!("{}:", etc.display()))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&verified.stderr);
    let about_us: Vec<&str> = told.lines().filter(|line| line.contains("lotabots")).collect();
    assert!(verified.status.success() && about_us.is_empty(), "{told}");
}
