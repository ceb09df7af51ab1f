//! The client of an S3 server, and the one place that knows its credentials. They come from the files that the place
//! names, or from the variables that every S3 client knows (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
//! `AWS_SESSION_TOKEN`, web identity and container credentials), of which the first two may also end in `_FILE` and then
//! name files. What lies in files is read anew whenever it is used, so that it can be exchanged while a bot runs.
#![allow(clippy::disallowed_methods, reason = "credentials pass through nothing of ours that could show them")]

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bot_secrets::{Secret, known};
use object_store::{
    BackoffConfig, ClientOptions, CredentialProvider, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AwsCredential, Checksum},
    prefix::PrefixStore,
};

use super::{
    ObjectError,
    error::store,
    place::{Bucket, endpoint, wrong},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Without a byte of the answer, while a part is sent too: so slow is a connection that is dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const RETRIES_MAX: usize = 4;
const RETRY_LIMIT: Duration = Duration::from_secs(30);
const CREDENTIAL_BYTES_MAX: usize = 4096;
/// Whatever else gives credentials, by the names that all S3 clients use.
const OTHER_SOURCES: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// A client. Asks nobody yet.
pub(super) fn connect(bucket: &Bucket) -> Result<Arc<dyn ObjectStore>, ObjectError> {
    let named = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let place = match &bucket.endpoint {
        Some(named) => Some(named.clone()),
        None => named("AWS_ENDPOINT_URL").map(|url| endpoint(&url)).transpose()?,
    };
    let path_style = bucket.path_style.unwrap_or(place.is_some());
    let options = ClientOptions::new()
        .with_allow_http(place.as_ref().is_some_and(|url| url.starts_with("http://")))
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout_disabled()
        .with_read_timeout(SILENCE_MAX);
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&bucket.name)
        .with_client_options(options)
        .with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_LIMIT,
        })
        .with_virtual_hosted_style_request(!path_style)
        // So that the server refuses what was changed on its way.
        .with_checksum_algorithm(Checksum::SHA256);
    if let Some(place) = place {
        builder = builder.with_endpoint(place);
    }
    if let Some(region) = &bucket.region {
        builder = builder.with_region(region);
    }
    for name in ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        if let Some(value) = named(name) {
            known().add(&Secret::new(value));
        }
    }
    if let Some(files) = files(bucket, named)? {
        builder = builder.with_credentials(Arc::new(files));
    } else if !OTHER_SOURCES.iter().any(|name| named(name).is_some()) {
        return wrong(
            "there are no credentials for it: set AWS_ACCESS_KEY_ID_FILE and AWS_SECRET_ACCESS_KEY_FILE, or name the \
             files behind the bucket",
        );
    }
    let s3 = builder.build().map_err(store("be set up"))?;
    if bucket.prefix.is_empty() {
        return Ok(Arc::new(s3));
    }
    Ok(Arc::new(PrefixStore::new(s3, bucket.prefix.as_str())))
}

/// Credentials that lie in files: those that the place names, else those that the environment does.
fn files(bucket: &Bucket, named: impl Fn(&str) -> Option<String>) -> Result<Option<Files>, ObjectError> {
    if let (Some(key_id), Some(secret)) = (&bucket.key_id_file, &bucket.secret_file) {
        return Ok(Some(Files { key_id: key_id.clone(), secret: secret.clone() }));
    }
    match (named("AWS_ACCESS_KEY_ID_FILE"), named("AWS_SECRET_ACCESS_KEY_FILE")) {
        (Some(key_id), Some(secret)) => Ok(Some(Files { key_id: key_id.into(), secret: secret.into() })),
        (None, None) => Ok(None),
        _ => wrong("AWS_ACCESS_KEY_ID_FILE and AWS_SECRET_ACCESS_KEY_FILE go together, and only one is set"),
    }
}

#[derive(Debug)]
struct Files {
    key_id: PathBuf,
    secret: PathBuf,
}

#[async_trait]
impl CredentialProvider for Files {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let (key_id, secret_key) = (read(&self.key_id).await?, read(&self.secret).await?);
        known().add(&Secret::new(secret_key.as_str()));
        Ok(Arc::new(AwsCredential { key_id, secret_key, token: None }))
    }
}

async fn read(path: &Path) -> object_store::Result<String> {
    let refused = |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Unauthenticated {
        path: path.display().to_string(),
        source,
    };
    let text = tokio::fs::read_to_string(path).await.map_err(|e| refused(e.into()))?;
    let text = text.trim();
    if text.is_empty() || text.len() > CREDENTIAL_BYTES_MAX {
        return Err(refused(format!("expected a file of 1 to {CREDENTIAL_BYTES_MAX} bytes").into()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_place_come_before_those_of_the_environment() {
        let variable = |name: &str| Some(format!("/env/{name}"));
        let bucket = Bucket {
            key_id_file: Some("/place/id".into()),
            secret_file: Some("/place/secret".into()),
            ..Bucket::default()
        };
        assert_eq!(files(&bucket, variable).unwrap().unwrap().secret, Path::new("/place/secret"));
        let of_environment = files(&Bucket::default(), variable).unwrap().unwrap();
        assert_eq!(of_environment.secret, Path::new("/env/AWS_SECRET_ACCESS_KEY_FILE"));
        assert!(files(&Bucket::default(), |_| None).unwrap().is_none());
        let half = |name: &str| name.starts_with("AWS_ACCESS").then(|| "/x".to_owned());
        assert!(files(&Bucket::default(), half).unwrap_err().to_string().contains("only one is set"));
    }
}
