//! What a bot's process is told: arguments and environment. The only place of a bot that reads either.
#![allow(clippy::disallowed_methods, reason = "the environment's one home")]

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
};

use bot_messages::{Contract, keys};

use bot_secrets::{Handle, Sources};
use bot_store::{PostgresOptions, StoreOptions};

use super::health_file;
use crate::{
    bus::{self, BusOptions, Password, TlsFiles},
    clock,
    config::ENV_PREFIX,
    guard,
    telemetry::TelemetryOptions,
    tools::Tools,
};

pub(crate) const NO_BROKER: &str = "LOTA_AMQP_URL and LOTA_AMQP_PASSWORD_FILE are not set: expected amqp://host:port/vhost and a file; `lota up` sets both";

/// Everything but the configuration file's content.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) config_file: PathBuf,
    pub(crate) overrides: BTreeMap<String, String>,
    pub(crate) only: Option<Only>,
    pub(crate) bus: Option<BusOptions>,
    pub(crate) telemetry: TelemetryOptions,
    /// Where the bot's store is.
    pub(crate) store: StoreOptions,
    /// Where each heartbeat is written too.
    pub(crate) health_file: Option<PathBuf>,
    pub(crate) tools: Tools,
}

/// A look at the configuration, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Only {
    /// Whether it fits.
    Check,
    /// Its hash, and the version of this program.
    Hash,
}

/// The process has nothing to run.
#[derive(Debug)]
pub(crate) enum Instead {
    /// It was asked something.
    Done(String),
    /// It was told something wrong.
    Wrong(String),
    /// It was asked how the bot is, which is not well.
    Unwell(String),
}

const PASSWORD: &str = "LOTA_AMQP_PASSWORD";
const PASSWORD_FILE: &str = "LOTA_AMQP_PASSWORD_FILE";
const STORE_URL: &str = "LOTA_STORE_URL";
const STORE_PASSWORD_FILE: &str = "LOTA_STORE_PASSWORD_FILE";
const AGE_FILE: &str = "LOTA_SECRETS_AGE_FILE";
const AGE_IDENTITY_FILE: &str = "LOTA_SECRETS_AGE_IDENTITY_FILE";
const SETTING_PREFIX: &str = "LOTA_SETTING_";
const TOOLCHAINS: [&str; 12] = [
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "GOROOT",
    "GOPATH",
    "JAVA_HOME",
    "NVM_DIR",
    "PYENV_ROOT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
];

pub(crate) fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", guard::clean(text));
}

pub(crate) fn from_process(contract: &Contract) -> Result<Settings, Instead> {
    let vars: BTreeMap<String, String> =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
    #[cfg(debug_assertions)]
    if let Some(folder) = vars.get("LOTA_TEST_CRASHES") {
        crate::crash::arm_crash_points(PathBuf::from(folder));
    }
    let args: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    read(contract, &args, &vars)
}

pub(super) fn read(contract: &Contract, args: &[String], vars: &BTreeMap<String, String>) -> Result<Settings, Instead> {
    let (mut config_file, mut only) = (vars.get("LOTA_CONFIG").map(PathBuf::from), None);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--config" => config_file = rest.next().map(PathBuf::from),
            "--check-config" => only = Some(Only::Check),
            "--config-hash" => only = Some(Only::Hash),
            "--contract" => {
                return Err(Instead::Done(serde_json::to_string_pretty(contract).unwrap_or_default()));
            }
            "--version" => {
                return Err(Instead::Done(format!("{} {}", contract.name, env!("CARGO_PKG_VERSION"))));
            }
            "--health" => {
                let answer = health_file::answer(given(vars, health_file::VARIABLE).map(PathBuf::from), clock::now());
                return Err(answer.map_or_else(Instead::Unwell, Instead::Done));
            }
            "--help" => return Err(Instead::Done(help(contract))),
            other => {
                return Err(Instead::Wrong(format!(
                    "`{other}` is no argument of {}\n{}",
                    contract.name,
                    help(contract)
                )));
            }
        }
    }
    let slug = contract.name.slug();
    let path = |name: &str| vars.get(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let config_dir = path("LOTA_CONFIG_DIR").unwrap_or_else(|| PathBuf::from("deploy/config"));
    let home = path("LOTA_HOME").unwrap_or_else(|| PathBuf::from(".lota"));
    let mut tools = tools(contract, vars, &config_dir, &home);
    tools.secrets = sources(vars).map_err(Instead::Wrong)?;
    let password = password(vars, &tools.secrets).map_err(Instead::Wrong)?;
    let urls = given(vars, "LOTA_AMQP_URL").map(|urls| bus::addresses(urls));
    let urls = urls.transpose().map_err(|why| Instead::Wrong(format!("LOTA_AMQP_URL: {why}")))?;
    let bus = urls.zip(password).map(|(addresses, password)| BusOptions {
        addresses,
        user: vars.get("LOTA_AMQP_USER").cloned().unwrap_or_else(|| slug.clone()),
        password,
        tls: TlsFiles {
            authorities: path("LOTA_AMQP_CA_FILE"),
            identity: path("LOTA_AMQP_CERT_FILE").zip(path("LOTA_AMQP_KEY_FILE")),
        },
        name: slug.clone(),
        confirm_timeout: std::time::Duration::from_secs(10),
    });
    let store = store(vars, &slug, &tools).map_err(Instead::Wrong)?;
    Ok(Settings {
        config_file: config_file.unwrap_or_else(|| config_dir.join(format!("{slug}.yaml"))),
        overrides: prefixed(vars, ENV_PREFIX),
        only,
        bus,
        telemetry: TelemetryOptions::from_variables(vars),
        store,
        health_file: path(health_file::VARIABLE),
        tools,
    })
}

/// In PostgreSQL where a URL says so, under the bot's own name; in files of its own otherwise.
fn store(vars: &BTreeMap<String, String>, slug: &str, tools: &Tools) -> Result<StoreOptions, String> {
    let (dir, password_file) = (tools.subdir("store"), given(vars, STORE_PASSWORD_FILE).map(PathBuf::from));
    let Some(url) = given(vars, STORE_URL) else {
        if password_file.is_some() {
            return Err(format!("{STORE_PASSWORD_FILE} is set, and {STORE_URL} is not: they go together"));
        }
        let pages = |pages: &String| {
            pages.parse().map_err(|e| format!("LOTA_STORE_PAGES_MAX is `{pages}` ({e}): expected a number"))
        };
        let max_page_count = vars.get("LOTA_STORE_PAGES_MAX").map(pages).transpose()?;
        return Ok(StoreOptions::Sqlite { dir, max_page_count });
    };
    let options = PostgresOptions::new(url, &keys::store(slug), password_file, dir);
    options.map(StoreOptions::Postgres).map_err(|why| format!("{STORE_URL}: {why}"))
}

/// Where this process has secrets of its own.
fn sources(vars: &BTreeMap<String, String>) -> Result<Sources, String> {
    let own = Sources::default().with_variables(vars);
    match (given(vars, AGE_FILE), given(vars, AGE_IDENTITY_FILE)) {
        (Some(file), Some(identity)) => Ok(own.with_age(file, identity)),
        (None, None) => Ok(own),
        _ => Err(format!("{AGE_FILE} and {AGE_IDENTITY_FILE} go together, and only one is set")),
    }
}

/// With which the bot's user shows itself to the broker.
fn password(vars: &BTreeMap<String, String>, sources: &Sources) -> Result<Option<Password>, String> {
    match (given(vars, PASSWORD), given(vars, PASSWORD_FILE)) {
        (Some(_), Some(_)) => Err(format!("{PASSWORD} and {PASSWORD_FILE} are both set: leave one out")),
        (Some(handle), None) => {
            let handle: Handle = handle.parse().map_err(|e| format!("{PASSWORD}: {e}"))?;
            Ok(Some(Password::Handle(handle, sources.clone())))
        }
        (None, file) => Ok(file.map(|file| Password::File(file.into()))),
    }
}

fn given<'a>(vars: &'a BTreeMap<String, String>, name: &str) -> Option<&'a String> {
    vars.get(name).filter(|value| !value.is_empty())
}

fn tools(contract: &Contract, vars: &BTreeMap<String, String>, config_dir: &Path, home: &Path) -> Tools {
    let path = |name: &str| vars.get(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let mut tools = Tools::default();
    tools.dir = absolute(&path("LOTA_DATA_DIR").unwrap_or_else(|| home.join("bots").join(contract.name.slug())));
    let objects = vars.get("LOTA_OBJECTS").filter(|v| !v.is_empty()).cloned();
    tools.objects = objects.unwrap_or_else(|| absolute(&home.join("objects")).to_string_lossy().into_owned());
    tools.config_dir = absolute(config_dir);
    tools.path = vars.get("PATH").cloned().unwrap_or_default();
    tools.home = path("HOME");
    tools.toolchain_env = TOOLCHAINS.iter().filter_map(|k| Some(((*k).to_owned(), vars.get(*k)?.clone()))).collect();
    tools.bwrap = path("LOTA_BWRAP");
    tools.instance = instance(vars);
    let settings = prefixed(vars, SETTING_PREFIX).into_iter();
    tools.settings = settings.map(|(k, v)| (k[SETTING_PREFIX.len()..].to_lowercase(), v)).collect();
    tools
}

fn prefixed(vars: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    vars.iter().filter(|(k, _)| k.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Host and process number: unique among the processes of a bot, and a word in a routing key.
fn instance(vars: &BTreeMap<String, String>) -> String {
    let host = vars.get("HOSTNAME").cloned().or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let host: String = host
        .unwrap_or_default()
        .trim()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(40)
        .collect();
    format!("{}-{}", if host.is_empty() { "host" } else { &host }, std::process::id())
}

fn help(contract: &Contract) -> String {
    let name = &contract.name;
    format!(
        "{name} {}\n\nusage: {} [--config FILE] [--check-config] [--config-hash] [--contract] [--health] [--version]\n\n\
         LOTA_AMQP_URL            amqp://host:port/vhost; of a cluster one for each node, joined by commas, tried in turn\n\
         LOTA_AMQP_PASSWORD_FILE  the password of the user {}\n\
         LOTA_AMQP_PASSWORD       instead of the file, secret://NAME\n\
         LOTA_SECRET_<NAME>       a secret for where NAME is named\n\
         LOTA_SECRETS_AGE_FILE, LOTA_SECRETS_AGE_IDENTITY_FILE   further secrets, encrypted with age, and the key\n\
         LOTA_AMQP_CA_FILE        for amqps://: an authority to trust besides the system's (PEM)\n\
         LOTA_AMQP_CERT_FILE, LOTA_AMQP_KEY_FILE  where the broker asks for a certificate: the bot's own (PEM, PKCS #8)\n\
         LOTA_HOME                state of the fleet (default .lota)\n\
         LOTA_CONFIG_DIR          configuration files (default deploy/config)\n\
         LOTA_OBJECTS             object store: a folder or s3://bucket/prefix (default LOTA_HOME/objects)\n\
         LOTA_STORE_URL           postgres://host:port/database for several replicas (default: files in LOTA_HOME)\n\
         LOTA_STORE_PASSWORD_FILE the password of the login {} there\n\
         LOTA_STORE_PAGES_MAX     pages of 4 KiB that the bot's store in files may have (default: what the disk holds)\n\
         LOTA_HEALTH_FILE         rewritten by each heartbeat; --health with the same says how the bot is, 0 if well\n\
         LOTA_LOG, LOTA_LOG_FORMAT=json, OTEL_EXPORTER_OTLP_ENDPOINT\n\
         {ENV_PREFIX}CONSTRAINTS__TIMEOUT=60 and the like override the configuration file",
        contract.responsibility,
        name.slug(),
        name.slug(),
        keys::store(&name.slug()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::tests_support::contract;

    fn from(args: &[&str], vars: &[(&str, &str)]) -> Result<Settings, Instead> {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let vars = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        read(&contract("BuildBot", &[]), &args, &vars)
    }

    #[test]
    fn a_process_without_a_broker_can_still_check_its_configuration() {
        let s = from(&["--check-config", "--config", "x.yaml"], &[]).unwrap();
        assert!(s.only == Some(Only::Check) && s.bus.is_none());
        assert_eq!(s.config_file, PathBuf::from("x.yaml"));
    }

    #[test]
    fn variables_are_taken_by_their_prefix() {
        let s = from(
            &[],
            &[
                ("LOTA_AMQP_URL", "amqp://a/lota, amqp://b/lota"),
                ("LOTA_AMQP_PASSWORD_FILE", "/p"),
                ("LOTA_SETTING_LISTEN", "127.0.0.1:1"),
                ("LOTA_CONFIG__CONSTRAINTS__TIMEOUT", "60"),
                ("HOSTNAME", "My.Host"),
                ("LOTA_OBJECTS", "s3://bucket/prefix"),
            ],
        )
        .unwrap();
        assert_eq!(s.bus.unwrap().addresses, ["amqp://a/lota", "amqp://b/lota"]);
        assert_eq!(s.tools.settings["listen"], "127.0.0.1:1");
        assert_eq!(s.overrides.len(), 1);
        assert_eq!(s.tools.objects, "s3://bucket/prefix");
        assert!(s.tools.instance.starts_with("my-host-"));
    }

    #[test]
    fn an_address_that_is_none_is_told() {
        let vars = [("LOTA_AMQP_URL", "amqp://a/lota,b"), ("LOTA_AMQP_PASSWORD_FILE", "/p")];
        let Err(Instead::Wrong(told)) = from(&[], &vars) else { panic!("taken") };
        assert!(told.starts_with("LOTA_AMQP_URL: `b` is no address"), "{told}");
    }

    #[test]
    fn a_password_may_be_a_handle_and_never_a_value() {
        let url = ("LOTA_AMQP_URL", "amqp://a/lota");
        let bus = from(&[], &[url, (PASSWORD, "secret://broker"), ("LOTA_SECRET_broker", "canary-b")]).unwrap().bus;
        let bus = bus.unwrap();
        assert!(format!("{bus:?}").contains("broker") && !format!("{bus:?}").contains("canary"), "{bus:?}");
        let Password::Handle(handle, sources) = bus.password else { panic!("no handle") };
        assert_eq!(sources.resolve(&handle).unwrap().expose(), "canary-b");
        for (vars, words) in [
            (&[(PASSWORD, "canary-b")][..], "expected secret://NAME"),
            (&[(PASSWORD, "secret://b"), (PASSWORD_FILE, "/p")], "leave one out"),
            (&[(AGE_FILE, "/a")], "only one is set"),
        ] {
            let Err(Instead::Wrong(told)) = from(&[], vars) else { panic!("taken") };
            assert!(told.contains(words) && !told.contains("canary"), "{told}");
        }
    }

    #[test]
    fn a_store_is_in_files_unless_a_url_says_where() {
        assert!(matches!(from(&[], &[]).unwrap().store, StoreOptions::Sqlite { max_page_count: None, .. }));
        let url = ("LOTA_STORE_URL", "postgres://db/lota");
        assert!(matches!(from(&[], &[url]).unwrap().store, StoreOptions::Postgres(_)));
        for (vars, words) in [
            (&[("LOTA_STORE_URL", "postgres://a:canary@db/lota")][..], "LOTA_STORE_PASSWORD_FILE"),
            (&[("LOTA_STORE_PASSWORD_FILE", "/p")], "go together"),
            (&[("LOTA_STORE_PAGES_MAX", "many")], "expected a number"),
        ] {
            let Err(Instead::Wrong(told)) = from(&[], vars) else { panic!("taken") };
            assert!(told.contains(words) && !told.contains("canary"), "{told}");
        }
    }

    #[test]
    fn an_unknown_argument_is_told_with_the_known_ones() {
        let Err(Instead::Wrong(text)) = from(&["--frobnicate"], &[]) else { panic!("taken") };
        assert!(text.contains("--frobnicate") && text.contains("--check-config"));
    }
}
