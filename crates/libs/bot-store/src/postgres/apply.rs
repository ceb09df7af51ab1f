//! What an administrator does once for each bot: a login of its own and a schema that this login alone may use. Nothing is
//! ever dropped, and doing it again changes nothing but the password.

use bot_secrets::Secret;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::options::{PostgresOptions, Server};
use crate::model::StoreError;

const ITERATIONS: u32 = 4096;
/// Two that apply at the same time take turns; the number is any.
const APPLYING: i64 = 5_017_112_020_607;

/// A bot's login, which is also the name of its schema, and the password it gets.
#[derive(Clone, Debug)]
pub struct StoreLogin {
    /// Lower-case letters, digits and `_`.
    pub name: String,
    /// Set anew each time, so that a rotation works.
    pub password: Secret,
}

/// Makes logins and schemas in the database that `admin` names, as the user it names; answers which were not there before.
///
/// What everyone could do in that database by default is taken away: it is the fleet's alone. Passwords travel as what the
/// server keeps of them, so that its log never shows one.
///
/// # Errors
/// [`StoreError::Unreachable`] and [`StoreError::Refused`] as for a bot; nothing was changed.
pub async fn apply_stores(admin: PostgresOptions, logins: &[StoreLogin]) -> Result<Vec<String>, StoreError> {
    let server = Server { options: admin };
    let mut conn = server.connect().await?;
    let made = apply(&server, &mut conn, logins).await;
    let _ = conn.close().await;
    made.map_err(|error| server.error("make logins and schemas", error))
}

async fn apply(server: &Server, conn: &mut PgConnection, logins: &[StoreLogin]) -> Result<Vec<String>, sqlx::Error> {
    let database = quoted(&server.options.database());
    let mut tx = conn.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(APPLYING).execute(&mut *tx).await?;
    run(&mut tx, format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC")).await?;
    run(&mut tx, "REVOKE ALL ON SCHEMA public FROM PUBLIC".to_owned()).await?;
    let mut made = Vec::new();
    for StoreLogin { name, password } in logins {
        let safe = PostgresOptions::is_name(name);
        if !safe {
            return Err(sqlx::Error::InvalidArgument(format!("`{name}` is no name of a login")));
        }
        let found: Option<bool> =
            sqlx::query_scalar("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = $1")
                .bind(name)
                .fetch_optional(&mut *tx)
                .await?;
        if found == Some(true) {
            let why = format!("the login {name} is an administrator's: a bot's has no rights but on its own schema");
            return Err(sqlx::Error::InvalidArgument(why));
        }
        if found.is_none() {
            run(&mut tx, format!("CREATE ROLE {name}")).await?;
            made.push(name.clone());
        }
        let verifier = verifier(password);
        for statement in [
            format!("ALTER ROLE {name} LOGIN NOCREATEDB NOINHERIT PASSWORD '{verifier}'"),
            format!("ALTER ROLE {name} IN DATABASE {database} SET search_path = {name}"),
            format!("GRANT CONNECT ON DATABASE {database} TO {name}"),
            format!("CREATE SCHEMA IF NOT EXISTS {name}"),
            // The schema stays the administrator's, so that the bot cannot let others in.
            format!("REVOKE ALL ON SCHEMA {name} FROM PUBLIC"),
            format!("GRANT USAGE, CREATE ON SCHEMA {name} TO {name}"),
        ] {
            run(&mut tx, statement).await?;
        }
    }
    tx.commit().await?;
    Ok(made)
}

/// Every name in it was held against [`PostgresOptions::is_name`] or is quoted; a verifier is letters, digits and `$:+/=`.
async fn run(conn: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(conn).await.map(|_| ())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What PostgreSQL keeps of a password: SCRAM-SHA-256 of RFC 7677.
fn verifier(password: &Secret) -> String {
    let salt = Secret::random(16);
    with_salt(password, salt.expose().as_bytes())
}

fn with_salt(password: &Secret, salt: &[u8]) -> String {
    let mut round = keyed(password.expose().as_bytes(), &[salt, &[0, 0, 0, 1]]);
    let mut salted = round;
    for _ in 1..ITERATIONS {
        round = keyed(password.expose().as_bytes(), &[&round]);
        salted.iter_mut().zip(round).for_each(|(sum, byte)| *sum ^= byte);
    }
    let stored = Sha256::digest(keyed(&salted, &[b"Client Key"]));
    let server = keyed(&salted, &[b"Server Key"]);
    format!("SCRAM-SHA-256${ITERATIONS}:{}${}:{}", base64(salt), base64(&stored), base64(&server))
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    /// The server key is what RFC 7677 says the server proves itself with in its example.
    #[test]
    fn the_example_of_the_standard_has_this_verifier() {
        let salt = [0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81];
        let made = with_salt(&Secret::new("pencil"), &salt);
        assert!(made.starts_with("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"), "{made}");
        let server = made.rsplit_once(':').unwrap().1;
        let key = base64::engine::general_purpose::STANDARD.decode(server).unwrap();
        let messages = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        assert_eq!(base64(&keyed(&key, &[messages.as_bytes()])), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }
}
