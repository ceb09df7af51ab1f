//! Where the server is, who the bot is there, and what its errors mean.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use bot_secrets::{Secret, known};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use url::Url;

use super::ANSWER_MAX;
use crate::model::StoreError;

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// What the URL may say besides who and where. What the session is like is ours to say.
const PARAMETERS: [&str; 5] = ["host", "sslcert", "sslkey", "sslmode", "sslrootcert"];
/// PostgreSQL cuts longer names.
const NAME_BYTES_MAX: usize = 63;

/// Where a bot's store is in PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    connect: Box<PgConnectOptions>,
    place: Arc<str>,
    schema: String,
    password_file: Option<PathBuf>,
    dir: PathBuf,
}

impl PostgresOptions {
    /// `url` is `postgres://USER@host:port/database?sslmode=…` without a password; without a user it is the one of the
    /// schema's name. `schema` is the bot's own: lower-case letters, digits and `_`. The password is read anew for each
    /// connection. `dir` is the process's own folder, which no second process may have.
    ///
    /// # Errors
    /// What is wrong with the URL, without repeating it.
    pub fn new(
        url: &str,
        schema: &str,
        password_file: Option<PathBuf>,
        dir: impl Into<PathBuf>,
    ) -> Result<Self, String> {
        const EXPECTED: &str = "expected postgres://USER@host:port/database?sslmode=verify-full";
        let parsed = Url::parse(url).map_err(|e| format!("it is no URL ({e}): {EXPECTED}"))?;
        if !matches!(parsed.scheme(), "postgres" | "postgresql") {
            return Err(format!("its scheme is another than postgres: {EXPECTED}"));
        }
        if parsed.password().is_some() || parsed.query_pairs().any(|(name, _)| name == "password") {
            return Err(
                "it holds a password, which everyone sees who sees the process: put that into a file and name it \
                        with LOTA_STORE_PASSWORD_FILE"
                    .to_owned(),
            );
        }
        if let Some((name, _)) = parsed.query_pairs().find(|(name, _)| !PARAMETERS.contains(&name.as_ref())) {
            return Err(format!("it sets `{name}`: expected only {}", PARAMETERS.join(", ")));
        }
        if !Self::is_name(schema) {
            return Err(format!(
                "`{schema}` is no name of a schema: expected lower-case letters, digits and _, at most {NAME_BYTES_MAX}"
            ));
        }
        let mut connect =
            PgConnectOptions::from_str(url).map_err(|e| format!("it cannot be used ({e}): {EXPECTED}"))?;
        if parsed.username().is_empty() {
            connect = connect.username(schema);
        }
        let Some(database) = connect.get_database().map(str::to_owned) else {
            return Err(format!("it names no database: {EXPECTED}"));
        };
        let place = match connect.get_socket() {
            Some(socket) => format!("{}/{database}", socket.display()),
            None => format!("{}:{}/{database}", connect.get_host(), connect.get_port()),
        };
        Ok(Self {
            connect: Box::new(connect),
            place: place.into(),
            schema: schema.to_owned(),
            password_file,
            dir: dir.into(),
        })
    }

    /// Whether it can be the name of a login and a schema without quotes.
    pub(super) fn is_name(name: &str) -> bool {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.len() <= NAME_BYTES_MAX
            && !name.starts_with("pg_")
            && name.chars().all(letters)
    }

    pub(super) fn database(&self) -> String {
        self.connect.get_database().unwrap_or_default().to_owned()
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    /// The channel on which replicas tell each other what changed.
    pub(super) fn channel(&self) -> String {
        format!("lota_{}", self.schema)
    }
}

/// The server as this bot's user sees it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) options: PostgresOptions,
}

impl Server {
    pub(super) fn place(&self) -> &Arc<str> {
        &self.options.place
    }

    /// How to connect now, with the password that its file has now.
    pub(super) fn connecting(&self) -> Result<PgConnectOptions, StoreError> {
        let settings = [
            // The one thing that decides which tables are meant.
            ("search_path", self.options.schema.as_str()),
            // Off would lose the last commits when the power fails.
            ("synchronous_commit", "on"),
            ("default_transaction_isolation", "read committed"),
            ("statement_timeout", "10s"),
            ("lock_timeout", "10s"),
            // A process that was stopped in the middle of a transaction holds up all its replicas for no longer.
            ("idle_in_transaction_session_timeout", "4s"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
        ];
        let options = (*self.options.connect).clone().application_name(&self.options.schema).options(settings);
        let options = options.disable_statement_logging();
        let Some(file) = &self.options.password_file else {
            return Ok(options);
        };
        let text = std::fs::read_to_string(file).map_err(|e| StoreError::Refused {
            server: self.place().to_string(),
            why: format!("the password in {} cannot be read: {e}", file.display()),
        })?;
        let password = Secret::new(text.trim_end());
        known().add(&password);
        Ok(options.password(password.expose()))
    }

    pub(super) async fn connect(&self) -> Result<PgConnection, StoreError> {
        let options = self.connecting()?;
        match tokio::time::timeout(CONNECT_MAX, PgConnection::connect_with(&options)).await {
            Ok(connected) => connected.map_err(|error| self.error("connect", error)),
            Err(_) => Err(StoreError::Unreachable {
                server: self.place().to_string(),
                why: format!("no connection within {} s", CONNECT_MAX.as_secs()),
            }),
        }
    }

    pub(super) fn silent(&self) -> StoreError {
        StoreError::Unreachable {
            server: self.place().to_string(),
            why: format!("it did not answer within {} s", ANSWER_MAX.as_secs()),
        }
    }

    pub(super) fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        let server = self.place().to_string();
        let code = code(&source);
        match code.as_deref() {
            Some("53100") => StoreError::Full { dir: server },
            Some("3F000" | "42501") => StoreError::Refused {
                server,
                why: format!("{source}; has `lota stores apply` made the schema {}?", self.options.schema),
            },
            Some(code) if code.starts_with("28") || code == "3D000" => StoreError::Refused {
                server,
                why: format!("{source}; `lota stores apply` makes logins and sets their passwords"),
            },
            _ if is_lost(&source) => StoreError::Unreachable { server, why: source.to_string() },
            _ if matches!(source, sqlx::Error::PoolClosed) => StoreError::Closed,
            // The certificate, or a mode of TLS that the server does not have.
            _ if matches!(source, sqlx::Error::Tls(_) | sqlx::Error::Configuration(_)) => {
                StoreError::Refused { server, why: source.to_string() }
            }
            _ => StoreError::Database { doing, source },
        }
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(std::borrow::Cow::into_owned)
}

/// The connection is of no more use, or the server has no room for it now.
pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        _ => code(error).is_some_and(|code| {
            code.starts_with("08")
                || code.starts_with("57P0")
                || matches!(code.as_str(), "25P03" | "53300" | "55P03" | "57014")
        }),
    }
}

/// Another transaction was in the way; the same again may pass.
pub(super) fn is_collision(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| matches!(code.as_str(), "40001" | "40P01"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Result<String, String> {
        PostgresOptions::new(url, "build_bot", None, "/tmp")
            .map(|o| format!("{} {}", o.connect.get_username(), o.place))
    }

    #[test]
    fn a_url_says_who_and_where_and_nothing_else() {
        assert_eq!(place("postgres://me@db:5433/lota?sslmode=verify-full").unwrap(), "me db:5433/lota");
        assert_eq!(place("postgres://db/lota").unwrap(), "build_bot db:5432/lota");
        for (url, part) in [
            ("postgres://me:canary@db/lota", "LOTA_STORE_PASSWORD_FILE"),
            ("postgres://me@db/lota?password=canary", "LOTA_STORE_PASSWORD_FILE"),
            ("postgres://me@db/lota?options=-csearch_path%3Dother", "`options`"),
            ("mysql://me@db/lota", "another than postgres"),
            ("postgres://me@db", "names no database"),
            ("db/lota", "no URL"),
        ] {
            let why = place(url).unwrap_err();
            assert!(why.contains(part) && !why.contains("canary"), "{url}: {why}");
        }
        assert!(PostgresOptions::new("postgres://db/lota", "a;b", None, "/tmp").is_err());
    }
}
