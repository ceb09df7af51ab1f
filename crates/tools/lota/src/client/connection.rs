//! `lota connection`: how an outside publisher reaches the fleet. The one command whose output is a secret.
use std::{fs, io::ErrorKind, path::PathBuf, process::ExitCode};

use anyhow::{Context, anyhow, bail};
use bot_messages::{BotName, Tap, keys, topology::METRICS_USER};
use reqwest::Url;
use serde_json::{Map, Value};

use super::terminal::{Out, note, seen_enough};
use crate::home::Home;

/// What `lota connection` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ConnectionArgs {
    /// As JSON instead of lines for a shell
    #[arg(long)]
    json: bool,
    /// A publisher of config/publishers.yaml; on a development fleet also a bot or the operator
    #[arg(long = "as", value_name = "NAME", default_value = "outside")]
    name: String,
}

#[expect(clippy::unused_async, reason = "called like every other command")]
pub(crate) async fn run(home: &Home, args: ConnectionArgs) -> anyhow::Result<ExitCode> {
    seen_enough(connection(home, &args))
}

fn connection(home: &Home, args: &ConnectionArgs) -> anyhow::Result<ExitCode> {
    let fleet = home.fleet()?;
    let name: BotName = args.name.parse()?;
    let slug = name.slug();
    let topology = crate::up::topology::of(home)?;
    // Never the broker's administrator, nor whoever else has a file beside the passwords.
    if slug == METRICS_USER || !topology.users.iter().any(|user| user.name == slug) {
        bail!("{name} is no publisher of this fleet: add it to config/publishers.yaml and run `lota topology apply`");
    }
    let outside = crate::up::topology::publishers(home)?;
    if !fleet.development && !outside.iter().any(|publisher| publisher.name.slug() == slug) {
        bail!(
            "{name} is a bot or the operator, and this is no development fleet (see `development` in {}): only what \
             connects publishers of config/publishers.yaml is printed here; `lota up` marks fleets with a broker of \
             their own, and others with --development",
            home.join("fleet.json").display()
        );
    }
    // `Home::password` would make one up for whoever is not there yet.
    let password = match fs::read_to_string(home.password_file(&slug)) {
        Ok(password) => password,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            bail!("{name} has no password yet: run `lota topology apply`")
        }
        Err(e) => return Err(e).with_context(|| format!("the password of {name} cannot be read")),
    };
    let password = password.trim_end();
    if password.is_empty() {
        bail!("the password file of {name} is empty: delete it and run `lota topology apply`");
    }
    let mut variables = vec![
        ("LOTA_AMQP_URL", amqp_url(&fleet.amqp_url, &slug, password)?),
        ("LOTA_SOURCE", name.to_string()),
        ("LOTA_EXCHANGE", keys::egress(&slug)),
    ];
    let tls = home.tls_files(fleet.tls.as_ref(), &slug);
    let text = |file: PathBuf| file.to_string_lossy().into_owned();
    let (certificate, key) = tls.identity.unzip();
    variables.extend(tls.authorities.map(|file| ("LOTA_AMQP_CA_FILE", text(file))));
    variables.extend(certificate.map(|file| ("LOTA_AMQP_CERT_FILE", text(file))));
    variables.extend(key.map(|file| ("LOTA_AMQP_KEY_FILE", text(file))));
    let is_queue = |name: &String| topology.queues.iter().any(|queue| queue.name == *name);
    let queues = [keys::tap_queue(&slug, Tap::Events.as_str()), keys::work(&slug)];
    variables.extend(queues.into_iter().find(is_queue).map(|queue| ("LOTA_QUEUE", queue)));
    match home.monitor_url() {
        Ok(url) => variables.push(("LOTA_MONITOR_URL", url)),
        Err(e) => note(&format!("without LOTA_MONITOR_URL: {e:#}")),
    }
    variables.push(("LOTA_HOME", home.path().to_string_lossy().into_owned()));
    let mut out = Out::stdout();
    if args.json {
        let map: Map<String, Value> = variables.into_iter().map(|(k, v)| (k.to_owned(), Value::String(v))).collect();
        out.json(&Value::Object(map))?;
    } else {
        for (name, value) in variables {
            out.line(&format!("export {name}={}", quoted(&value)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// With user and password, percent-encoded, and the fleet's vhost where the address names none.
fn amqp_url(address: &str, user: &str, password: &str) -> anyhow::Result<String> {
    let wrong = || anyhow!("the fleet's address `{address}` is no amqp:// URL: run `lota up` again");
    let mut url = Url::parse(address).map_err(|_| wrong())?;
    if url.path().trim_matches('/').is_empty() {
        url.set_path(&format!("/{}", keys::VHOST));
    }
    url.set_username("").map_err(|()| wrong())?;
    let (scheme, rest) = url.as_str().split_once("://").ok_or_else(wrong)?;
    Ok(format!("{scheme}://{}:{}@{rest}", encoded(user), encoded(password)))
}

/// All but the unreserved characters of RFC 3986: clients differ in which of the others they take.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_holds_user_password_and_vhost() {
        for (address, url) in [
            ("amqp://127.0.0.1:5672/lota", "amqp://outside:p%40s%2Fs%25@127.0.0.1:5672/lota"),
            ("amqps://mq.example.org", "amqps://outside:p%40s%2Fs%25@mq.example.org/lota"),
            ("amqp://[::1]:5672/%2F", "amqp://outside:p%40s%2Fs%25@[::1]:5672/%2F"),
        ] {
            assert_eq!(amqp_url(address, "outside", "p@s/s%").unwrap(), url);
        }
        assert!(amqp_url("here", "a", "b").is_err());
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        assert_eq!(quoted("a'b $c"), r"'a'\''b $c'");
    }
}
