//! Where the object store is, as the fleet's settings say it in one line, without anything secret:
//!
//! - a folder: `/var/lib/lota/objects`
//! - a bucket: `s3://bucket/prefix`, and behind it as a query what is not as on AWS: `endpoint` (an http or https URL),
//!   `region`, `path_style` (`true` wherever an endpoint is named, unless said otherwise), `access_key_id_file` and
//!   `secret_access_key_file` (absolute paths).
use std::path::PathBuf;

use url::Url;

use super::ObjectError;

#[derive(Debug, PartialEq)]
pub(super) enum Place {
    Folder(PathBuf),
    S3(Bucket),
}

/// A bucket, and how it is reached.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Bucket {
    pub(super) name: String,
    /// In front of every key; empty: none.
    pub(super) prefix: String,
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    pub(super) path_style: Option<bool>,
    pub(super) key_id_file: Option<PathBuf>,
    pub(super) secret_file: Option<PathBuf>,
}

impl Place {
    pub(super) fn parse(text: &str) -> Result<Self, ObjectError> {
        if text.trim().is_empty() {
            return wrong("it is empty: expected a folder or s3://bucket/prefix");
        }
        match text.split_once("://") {
            None => Ok(Self::Folder(PathBuf::from(text))),
            Some(("s3", _)) => Bucket::parse(text).map(Self::S3),
            Some(_) => wrong("expected a folder or s3://bucket/prefix, and another kind of URL came"),
        }
    }
}

impl Bucket {
    fn parse(text: &str) -> Result<Self, ObjectError> {
        // What cannot be read may hold a secret by mistake, so no error repeats the text.
        let Ok(url) = Url::parse(text) else { return wrong("it is no URL: expected s3://bucket/prefix") };
        if !url.username().is_empty() || url.password().is_some() {
            return wrong(
                "it holds a user or a password: name files with access_key_id_file and secret_access_key_file",
            );
        }
        let name = url.host_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            return wrong("it names no bucket: expected s3://bucket/prefix");
        }
        let mut bucket = Self { name, prefix: url.path().trim_matches('/').to_owned(), ..Self::default() };
        for (option, value) in url.query_pairs() {
            bucket.set(&option, &value)?;
        }
        if bucket.key_id_file.is_some() != bucket.secret_file.is_some() {
            return wrong("access_key_id_file and secret_access_key_file go together, and only one is there");
        }
        Ok(bucket)
    }

    fn set(&mut self, option: &str, value: &str) -> Result<(), ObjectError> {
        match option {
            "endpoint" => self.endpoint = Some(endpoint(value)?),
            "region" => self.region = Some(value.to_owned()),
            "path_style" => match value.parse() {
                Ok(value) => self.path_style = Some(value),
                Err(_) => return wrong("path_style is neither true nor false"),
            },
            "access_key_id_file" => self.key_id_file = Some(file(option, value)?),
            "secret_access_key_file" => self.secret_file = Some(file(option, value)?),
            _ => {
                return wrong(
                    "it has an unknown option: expected endpoint, region, path_style, access_key_id_file or \
                     secret_access_key_file",
                );
            }
        }
        Ok(())
    }
}

/// Where an S3 server answers.
pub(super) fn endpoint(value: &str) -> Result<String, ObjectError> {
    let is_plain = |url: &Url| matches!(url.scheme(), "http" | "https") && url.username().is_empty();
    match Url::parse(value).ok().filter(is_plain) {
        Some(_) => Ok(value.trim_end_matches('/').to_owned()),
        None => wrong("its endpoint is no http or https URL without a user"),
    }
}

fn file(option: &str, value: &str) -> Result<PathBuf, ObjectError> {
    let path = PathBuf::from(value);
    if path.is_absolute() { Ok(path) } else { wrong(&format!("{option} is no absolute path")) }
}

pub(super) fn wrong<T>(why: &str) -> Result<T, ObjectError> {
    Err(ObjectError::Place(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_a_bucket_are_told_apart() {
        assert_eq!(Place::parse("/var/lota objects").unwrap(), Place::Folder("/var/lota objects".into()));
        let bucket = Bucket { name: "lota".into(), ..Bucket::default() };
        assert_eq!(Place::parse("s3://lota").unwrap(), Place::S3(bucket));
        let whole = "s3://lota/fleet/one/?endpoint=http://127.0.0.1:9000/&region=eu-central-1&path_style=false\
                     &access_key_id_file=/s/id&secret_access_key_file=/s/key";
        let bucket = Bucket {
            name: "lota".into(),
            prefix: "fleet/one".into(),
            endpoint: Some("http://127.0.0.1:9000".into()),
            region: Some("eu-central-1".into()),
            path_style: Some(false),
            key_id_file: Some("/s/id".into()),
            secret_file: Some("/s/key".into()),
        };
        assert_eq!(Place::parse(whole).unwrap(), Place::S3(bucket));
    }

    #[test]
    fn what_is_wrong_is_said_without_repeating_a_secret() {
        for (text, why) in [
            ("", "empty"),
            ("http://canary/x", "another kind of URL"),
            ("s3://", "no bucket"),
            ("s3://id:canary@bucket", "user or a password"),
            ("s3://bucket?secret_access_key=canary", "unknown option"),
            ("s3://bucket?endpoint=http://id:canary@h", "no http or https URL without"),
            ("s3://bucket?endpoint=canary", "no http or https URL"),
            ("s3://bucket?path_style=canary", "neither true nor false"),
            ("s3://bucket?access_key_id_file=canary", "no absolute path"),
            ("s3://bucket?access_key_id_file=/canary", "only one is there"),
        ] {
            let told = Place::parse(text).unwrap_err().to_string();
            assert!(told.contains(why) && !told.contains("canary"), "{text}: {told}");
        }
    }
}
