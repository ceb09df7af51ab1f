//! Where git may fetch from. A URL comes from outside and ends on git's command line, so it is taken apart here, and
//! what is not plainly one of the known forms is refused. Nothing here reaches for it.
use std::path::{Path, PathBuf};

/// How git speaks to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    File,
    Https,
    Http,
    Ssh,
    Git,
}

impl Protocol {
    /// As in `protocol.<name>.allow`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Https => "https",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::Git => "git",
        }
    }
}

/// A URL that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) protocol: Protocol,
    /// What git is given: the URL, or the absolute path.
    pub(crate) location: String,
    /// What the breaker is about; none for a local path.
    pub(crate) host: Option<String>,
}

const EXPECTED: &str = "expected https://host/path, ssh://user@host/path, user@host:path, file:///path or /path";
const URL_BYTES_MAX: usize = 2000;

impl Remote {
    /// The error never repeats a password.
    pub(crate) fn parse(url: &str, allow_unencrypted: bool) -> Result<Self, String> {
        if url.len() > URL_BYTES_MAX || url.starts_with('-') || url.chars().any(|c| c.is_control() || c == '\\') {
            return Err(format!("the URL is too long, begins with `-` or holds odd characters: {EXPECTED}"));
        }
        if let Some(path) = url.strip_prefix("file://") {
            // git decodes these, and a pattern that the operator wrote does not.
            return if path.contains('%') { Err(refused(url)) } else { Self::local(url, path) };
        }
        if url.starts_with('/') {
            return Self::local(url, url);
        }
        let (protocol, rest) = match url.split_once("://") {
            Some(("https", rest)) => (Protocol::Https, rest),
            Some(("ssh", rest)) => (Protocol::Ssh, rest),
            Some(("http", rest)) => (Protocol::Http, rest),
            Some(("git", rest)) => (Protocol::Git, rest),
            Some(_) => return Err(refused(url)),
            None => return Self::like_scp(url),
        };
        if matches!(protocol, Protocol::Http | Protocol::Git) && !allow_unencrypted {
            let name = protocol.as_str();
            return Err(format!("{name}:// is not encrypted: use https or ssh, or set settings.allow_unencrypted"));
        }
        let Some((authority, path)) = rest.split_once('/') else {
            return Err(refused(url));
        };
        let host = host_of(authority).ok_or_else(|| refused(url))?;
        if !path_fits(path) {
            return Err(refused(url));
        }
        Ok(Self { protocol, location: url.to_owned(), host: Some(host) })
    }

    fn local(url: &str, path: &str) -> Result<Self, String> {
        let plain = path.starts_with('/') && path.len() > 1 && !path.split('/').any(|part| part == "..");
        if !plain {
            return Err(refused(url));
        }
        Ok(Self { protocol: Protocol::File, location: path.to_owned(), host: None })
    }

    /// `user@host:path`. A `::` names a transport helper, which is a program to run.
    fn like_scp(url: &str) -> Result<Self, String> {
        let parts = url.split_once(':').filter(|(authority, path)| authority.contains('@') && !path.starts_with(':'));
        let (authority, path) = parts.ok_or_else(|| refused(url))?;
        let host = host_of(authority).filter(|_| !authority.contains(':')).ok_or_else(|| refused(url))?;
        if !path_fits(path) || path.starts_with('-') {
            return Err(refused(url));
        }
        Ok(Self { protocol: Protocol::Ssh, location: url.to_owned(), host: Some(host) })
    }

    /// `https://host:port/`, without a user.
    pub(crate) fn server(&self) -> Option<String> {
        let (scheme, rest) = self.location.split_once("://")?;
        let authority = rest.split('/').next()?;
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        Some(format!("{scheme}://{host}/"))
    }

    /// What is sent there does not leave it.
    pub(crate) fn is_this_machine(&self) -> bool {
        self.host.as_deref().is_some_and(|host| matches!(host, "127.0.0.1" | "[::1]" | "localhost"))
    }

    /// For a local path: every folder git reads for it, so that it can be shown to a sandboxed git. Besides the folder
    /// itself these are the repository a linked worktree belongs to, and what objects are borrowed from.
    pub(crate) fn local_folders(&self) -> Vec<PathBuf> {
        if self.protocol != Protocol::File {
            return Vec::new();
        }
        let path = PathBuf::from(&self.location);
        let mut folders = vec![path.clone()];
        let dot_git = path.join(".git");
        let mut repository = if dot_git.exists() { dot_git.clone() } else { path.clone() };
        if let Some(folder) = first_line(&dot_git).as_deref().and_then(|line| line.strip_prefix("gitdir: ")) {
            repository = path.join(folder);
            folders.push(repository.clone());
        }
        if let Some(common) = first_line(&repository.join("commondir")) {
            repository.push(common);
            folders.push(repository.clone());
        }
        let mut objects = vec![repository.join("objects")];
        while let Some(next) = objects.pop() {
            let text = std::fs::read_to_string(next.join("info/alternates")).unwrap_or_default();
            for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
                let borrowed = next.join(line);
                if folders.len() < 16 && !folders.contains(&borrowed) {
                    folders.push(borrowed.clone());
                    objects.push(borrowed);
                }
            }
        }
        // The real names: a sandbox mounts what exists, at paths without `..`.
        let real = folders.iter().skip(1).filter_map(|folder| folder.canonicalize().ok());
        std::iter::once(path).chain(real).collect()
    }
}

fn first_line(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim_end().to_owned())
}

fn refused(url: &str) -> String {
    // Up to the host; whatever stands before an `@` may be a password.
    let shown = match url.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => url.to_owned(),
    };
    let shown: String = shown.chars().take(200).collect();
    format!("`{shown}` is not fetched from: {EXPECTED}, without a password, `..`, `?` or `#`")
}

/// The host of `[user@]host[:port]`, lower case.
fn host_of(authority: &str) -> Option<String> {
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let word = |s: &str| s.chars().all(|c| c.is_ascii_alphanumeric() || "._-~+".contains(c)) && !s.starts_with('-');
    if user.is_some_and(|user| user.is_empty() || !word(user)) {
        return None;
    }
    let (name, port) = host.rsplit_once(':').filter(|_| !host.ends_with(']')).unwrap_or((host, "1"));
    let is_ip6 = |s: &str| {
        let inner = s.strip_prefix('[').and_then(|s| s.strip_suffix(']'));
        inner.is_some_and(|s| s.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.'))
    };
    let fits = (word(name) && !name.is_empty() || is_ip6(name)) && port.parse::<u16>().is_ok();
    fits.then(|| name.to_lowercase())
}

/// Nothing that makes it mean another place than it reads: no `..`, also not encoded, no query, no fragment.
fn path_fits(path: &str) -> bool {
    let lower = path.to_lowercase();
    !path.is_empty()
        && !path.contains(['?', '#', ' ', '@'])
        && !path.split('/').any(|part| part == "..")
        && !["%2e", "%2f", "%5c", "%00"].iter().any(|code| lower.contains(code))
}

/// Whether it is a full ref that git would take, never an option or a pattern.
pub(crate) fn ref_fits(git_ref: &str) -> Result<(), String> {
    let part_fits = |part: &str| {
        let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
        let ends = part.to_lowercase().ends_with(".lock") || part.ends_with('.');
        !part.is_empty() && !part.starts_with(['.', '-']) && !ends && !part.contains(odd)
    };
    let fits = git_ref.len() <= 500
        && git_ref.strip_prefix("refs/").is_some_and(|rest| rest.contains('/'))
        && !git_ref.contains("..")
        && !git_ref.contains("@{")
        && git_ref.split('/').all(part_fits);
    if fits {
        return Ok(());
    }
    let shown: String = git_ref.chars().filter(|c| !c.is_control()).take(100).collect();
    Err(format!("`{shown}` is no ref: expected the full name, such as refs/heads/main"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_forms_are_taken() {
        for (url, protocol, location, host) in [
            ("https://git.example.org/a/b.git", Protocol::Https, None, Some("git.example.org")),
            ("https://Git.Example.org:8443/a", Protocol::Https, None, Some("git.example.org")),
            ("https://[::1]:3000/a", Protocol::Https, None, Some("[::1]")),
            ("https://user@h/a%20b", Protocol::Https, None, Some("h")),
            ("ssh://git@h:2222/a", Protocol::Ssh, None, Some("h")),
            ("git@h:team/api.git", Protocol::Ssh, None, Some("h")),
            ("/srv/git/a b", Protocol::File, None, None),
            ("file:///srv/git/a", Protocol::File, Some("/srv/git/a"), None),
        ] {
            let want = Remote { protocol, location: location.unwrap_or(url).into(), host: host.map(str::to_owned) };
            assert_eq!(Remote::parse(url, false), Ok(want));
        }
    }

    #[test]
    fn hostile_and_unknown_forms_are_refused() {
        for url in [
            "",
            "-oProxyCommand=x",
            "--upload-pack=touch x",
            "ext::sh -c touch% x",
            "fd::17",
            "file::/x",
            "a@b::c",
            "relative/path",
            "../x",
            "/srv/../etc",
            "/",
            "file://host/x",
            "file:///srv/%2e%2e/etc",
            "https://-oProxyCommand=x/a",
            "ssh://-oProxyCommand=x/a",
            "ssh://user@-x/a",
            "-u@h:a",
            "u@h:-a",
            "u@-h:a",
            "https://evil.net?.example.org/a",
            "https://evil.net#.example.org/a",
            "https://h/a/../b",
            "https://h/a/%2E%2e/b",
            "https://h/a?x",
            "https://h/a@b",
            "https://h",
            "https:///a",
            "https://h:port/a",
            "ftp://h/a",
            "http://h/a",
            "git://h/a",
            "/a\nb",
            "https://h\\@evil.net/a",
        ] {
            assert!(Remote::parse(url, false).is_err(), "{url}");
        }
        assert!(Remote::parse("http://h/a", true).is_ok());
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for url in ["https://user:canary@h/a", "https://user:can@ary@h/a", "ftp://x:canary@h/a"] {
            let told = Remote::parse(url, true).unwrap_err();
            assert!(!told.contains("canary") && !told.contains("ary@"), "{told}");
        }
    }

    #[test]
    fn refs_are_full_names() {
        for good in ["refs/heads/main", "refs/tags/v1.0", "refs/pull/7/head", "refs/heads/ä/b-c"] {
            assert_eq!(ref_fits(good), Ok(()));
        }
        for bad in [
            "main",
            "HEAD",
            "--upload-pack=x",
            "refs/heads",
            "refs/heads/",
            "refs/heads/-x",
            "refs//x",
            "refs/heads/a..b",
            "refs/heads/*",
            "refs/heads/a:b",
            "refs/heads/x.lock",
            "refs/heads/a b",
            "refs/heads/@{1}",
        ] {
            assert!(ref_fits(bad).is_err(), "{bad}");
        }
    }
}
