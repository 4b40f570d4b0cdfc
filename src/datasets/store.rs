//! Opens what a URL or a local path names through `object_store`: `file`, `s3`, `gs`, `az`/`abfs`, `http(s)`.
//!
//! Credentials come from the standard environment of each store (`AWS_*`, `GOOGLE_*`, `AZURE_*`) and from nowhere else; a URL
//! that carries one is refused, so that none can reach a log, an error message or a manifest. They are asked for when the
//! store is opened: a run without them stops before any work.

use super::DatasetError;
use super::range_reader::bare_etag;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientOptions, ObjectMeta, ObjectStore, RetryConfig};
use std::fmt;
use std::path::{Component, Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A store and the patterns of a URL within it: paths that may hold braces and `*`, `?`, `**`.
#[derive(Clone)]
pub struct Location {
    /// The store; its paths are absolute: from the bucket, the host or the file system's root.
    pub store: Arc<dyn ObjectStore>,
    /// What the user wrote, for messages: without credentials, because those are refused.
    pub url: String,
    /// The patterns, without a leading slash. A trailing slash says "everything under it".
    pub patterns: Vec<String>,
    /// Whether the store can list (plain HTTP cannot).
    pub lists: bool,
    /// Whether it is a disk of this machine, or mounted here.
    pub local: bool,
    /// Whether its entity tags survive a copy of the data set: on local disks and in memory they do not.
    pub lasting_etags: bool,
}

/// Credentials live inside some stores: only the URL is shown.
impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Location").field("url", &self.url).field("patterns", &self.patterns).finish_non_exhaustive()
    }
}

impl Location {
    /// Opens the store that `url` names: a URL, a local path, or several of one store joined with `::`.
    pub async fn open(url: &str) -> Result<Location, DatasetError> {
        let parts: Vec<Address> =
            super::brace::split_list(url).into_iter().map(Address::parse).collect::<Result<_, _>>()?;
        let [first, ..] = &parts[..] else { return Err(config("dataset.url is empty".into())) };
        if let Some(other) = parts.iter().find(|part| (part.scheme, &part.host) != (first.scheme, &first.host)) {
            let (a, b) = (first.base(), other.base());
            return Err(config(format!("{url} joins {a} and {b}: all parts of a list must lie in one store")));
        }
        let store = first.connect().await?;
        Ok(Location {
            store,
            url: url.to_owned(),
            lists: first.scheme != Scheme::Http,
            local: first.scheme == Scheme::Local,
            lasting_etags: first.scheme != Scheme::Local,
            patterns: parts.into_iter().map(|part| part.path).collect(),
        })
    }

    /// The entity tag to record of an object, where there is one that survives a copy.
    pub(super) fn etag(&self, meta: &ObjectMeta) -> Option<String> {
        meta.e_tag.as_deref().filter(|_| self.lasting_etags).map(|etag| bare_etag(etag).to_owned())
    }

    /// A location in a store of one's own (an in-memory one in tests); `pattern` as in [`Location::open`], without scheme.
    pub fn in_store(store: Arc<dyn ObjectStore>, pattern: &str) -> Location {
        let patterns =
            super::brace::split_list(pattern).into_iter().map(|p| p.trim_start_matches('/').to_owned()).collect();
        Location { store, url: pattern.to_owned(), patterns, lists: true, local: false, lasting_etags: false }
    }
}

fn config(sentence: String) -> DatasetError {
    DatasetError::Config(sentence)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Local,
    S3,
    Gcs,
    Azure,
    Http,
}

/// One URL or local path, taken apart but not yet opened.
#[derive(Debug)]
struct Address {
    scheme: Scheme,
    /// `s3`, `https`, ... as written; empty for a local path.
    prefix: String,
    /// Bucket, container or host (with port); empty for local paths.
    host: String,
    path: String,
}

impl Address {
    fn parse(url: &str) -> Result<Address, DatasetError> {
        if url.is_empty() {
            return Err(config("dataset.url, or a part of its `::` list, is empty".into()));
        }
        let Some((prefix, rest)) = url.split_once("://") else {
            return Ok(Address::local(url, absolute(url)?));
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.to_ascii_lowercase();
        let scheme = match prefix.as_str() {
            "file" if host.is_empty() || host == "localhost" => {
                return Ok(Address::local(url, absolute(&format!("/{}", decoded(path)))?));
            }
            "s3" | "s3a" => Scheme::S3,
            "gs" => Scheme::Gcs,
            "az" | "adl" | "azure" | "abfs" | "abfss" => Scheme::Azure,
            "http" | "https" => Scheme::Http,
            _ => return Err(config(format!("{prefix}:// is not a store known here: {}", KNOWN))),
        };
        // az://container@account.host is an address; any other `@` is a name and a password.
        if host.contains('@')
            && (scheme != Scheme::Azure || host.split('@').next().is_some_and(|user| user.contains(':')))
        {
            let host = host.rsplit('@').next().unwrap_or_default();
            return Err(config(format!("the URL of {prefix}://{host} carries a password: {CREDENTIALS}")));
        }
        if scheme == Scheme::Http && path.contains(['?', '#']) {
            return Err(config(format!("the URL of {prefix}://{host} carries a query: signed URLs are not supported")));
        }
        if host.is_empty() || host.contains(['{', '*']) {
            return Err(config(format!("{prefix}:// wants a bucket or host before the path, without patterns")));
        }
        let path = if scheme == Scheme::Http { decoded(path) } else { path.to_owned() };
        Ok(Address { scheme, prefix, host: host.to_owned(), path: path.trim_start_matches('/').to_owned() })
    }

    fn local(url: &str, path: PathBuf) -> Address {
        let mut path = path.to_string_lossy().trim_start_matches('/').to_owned();
        if url.ends_with('/') && !path.is_empty() {
            path.push('/');
        }
        Address { scheme: Scheme::Local, prefix: String::new(), host: String::new(), path }
    }

    fn base(&self) -> String {
        match self.scheme {
            Scheme::Local => "the local disk".to_owned(),
            _ => format!("{}://{}", self.prefix, self.host),
        }
    }

    /// The store, its credentials checked where it needs any.
    async fn connect(&self) -> Result<Arc<dyn ObjectStore>, DatasetError> {
        let failed = |source: object_store::Error| config(format!("cannot open {}: {source}", self.base()));
        match self.scheme {
            Scheme::Local => Ok(Arc::new(LocalFileSystem::new())),
            Scheme::Http => {
                let options =
                    ClientOptions::new().with_allow_http(true).with_timeout(TIMEOUT).with_read_timeout(READ_TIMEOUT);
                let builder =
                    HttpBuilder::new().with_url(self.base()).with_client_options(options).with_retry(retries());
                Ok(Arc::new(builder.build().map_err(failed)?))
            }
            Scheme::S3 => {
                let mut builder = AmazonS3Builder::from_env().with_bucket_name(&self.host);
                for (key, value) in timeouts("AWS") {
                    builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
                }
                if !anonymous("AWS_SKIP_SIGNATURE") {
                    let probe = builder.clone().with_retry(one_retry()).build().map_err(failed)?;
                    probe.credentials().get_credential().await.map_err(|e| self.no_credentials(&e))?;
                }
                Ok(Arc::new(builder.with_retry(retries()).build().map_err(failed)?))
            }
            Scheme::Gcs => {
                let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&self.host);
                for (key, value) in timeouts("GOOGLE") {
                    builder = builder.with_config(GoogleConfigKey::Client(key), value);
                }
                if !anonymous("GOOGLE_SKIP_SIGNATURE") {
                    let probe = builder.clone().with_retry(one_retry()).build().map_err(failed)?;
                    probe.credentials().get_credential().await.map_err(|e| self.no_credentials(&e))?;
                }
                Ok(Arc::new(builder.with_retry(retries()).build().map_err(failed)?))
            }
            Scheme::Azure => {
                let mut builder = MicrosoftAzureBuilder::from_env().with_url(format!("{}/", self.base()));
                for (key, value) in timeouts("AZURE") {
                    builder = builder.with_config(AzureConfigKey::Client(key), value);
                }
                if !anonymous("AZURE_SKIP_SIGNATURE") {
                    let probe = builder.clone().with_retry(one_retry()).build().map_err(failed)?;
                    probe.credentials().get_credential().await.map_err(|e| self.no_credentials(&e))?;
                }
                Ok(Arc::new(builder.with_retry(retries()).build().map_err(failed)?))
            }
        }
    }

    /// The sentence for a run without credentials. The store's own error says how it looked for them, not what they are.
    fn no_credentials(&self, error: &object_store::Error) -> DatasetError {
        let hint = credentials_hint(&self.prefix);
        let detail = error.to_string();
        let detail = detail.split('\n').next().unwrap_or_default();
        config(format!("no credentials for {}: {hint} ({detail})", self.base()))
    }
}

const KNOWN: &str = "use a local path, file://, s3://, gs://, az://, abfs://, http:// or https://";
const CREDENTIALS: &str = "credentials are taken from the environment only, so that they reach no log";
/// A whole request, body included; broken bodies are resumed, so a slow network loses nothing.
const TIMEOUT: Duration = Duration::from_secs(120);
/// No byte for so long: the connection is dead.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The timeouts of a store's client that the environment does not set itself: `AWS_TIMEOUT`, `GOOGLE_READ_TIMEOUT`, ...
fn timeouts(prefix: &'static str) -> impl Iterator<Item = (ClientConfigKey, String)> {
    let set = move |key: &ClientConfigKey| {
        let variable = format!("{prefix}_{}", key.as_ref().to_ascii_uppercase());
        std::env::var_os(variable).is_some()
    };
    [(ClientConfigKey::Timeout, TIMEOUT), (ClientConfigKey::ReadTimeout, READ_TIMEOUT)]
        .into_iter()
        .filter(move |(key, _)| !set(key))
        .map(|(key, time)| (key, format!("{} s", time.as_secs())))
}

/// Which variables give access to the store of a URL, for messages.
pub(crate) fn credentials_hint(url: &str) -> &'static str {
    match url.split(':').next().unwrap_or_default() {
        "s3" | "s3a" => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true if the bucket is public"
        }
        "gs" => {
            "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or GOOGLE_SKIP_SIGNATURE=true if the bucket is public"
        }
        "az" | "adl" | "azure" | "abfs" | "abfss" => {
            "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_SKIP_SIGNATURE=true if it is public"
        }
        _ => "check the permissions of the files",
    }
}

fn anonymous(variable: &str) -> bool {
    std::env::var(variable)
        .is_ok_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
}

/// The store's own retries: what can pass (timeouts, 429, 5xx, broken bodies), bounded, logged by `object_store` at level info.
fn retries() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(200),
        max_backoff: Duration::from_secs(10),
        ..BackoffConfig::default()
    };
    RetryConfig { backoff, max_retries: 6, retry_timeout: Duration::from_secs(120) }
}

fn one_retry() -> RetryConfig {
    RetryConfig { max_retries: 1, retry_timeout: Duration::from_secs(10), ..retries() }
}

fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [byte, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let code = hex.filter(|_| *byte == b'%').and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(code.unwrap_or(*byte));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An absolute path without `.` and `..`; `..` is resolved by name, not through links.
fn absolute(path: &str) -> Result<PathBuf, DatasetError> {
    let full = std::path::absolute(FsPath::new(path)).map_err(|e| config(format!("cannot resolve {path}: {e}")))?;
    let mut clean = PathBuf::new();
    for component in full.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(url: &str) -> String {
        Address::parse(url).unwrap_err().to_string()
    }

    #[test]
    fn addresses_are_taken_apart() {
        let parts = |url: &str| {
            let a = Address::parse(url).unwrap();
            (a.scheme, a.host, a.path)
        };
        assert_eq!(parts("s3://b/x/{0..3}.tar"), (Scheme::S3, "b".into(), "x/{0..3}.tar".into()));
        assert_eq!(parts("gs://b"), (Scheme::Gcs, "b".into(), String::new()));
        assert_eq!(
            parts("abfss://c@a.dfs.core.windows.net/p/"),
            (Scheme::Azure, "c@a.dfs.core.windows.net".into(), "p/".into())
        );
        assert_eq!(parts("http://h:80/a%20b.tar"), (Scheme::Http, "h:80".into(), "a b.tar".into()));
        assert_eq!(parts("file:///a/b%20c/"), (Scheme::Local, String::new(), "a/b c/".into()));
        assert_eq!(parts("/a/./b/../c"), (Scheme::Local, String::new(), "a/c".into()));
    }

    #[test]
    fn credentials_in_urls_are_refused_and_not_repeated() {
        for url in ["https://me:hunter2@host/x.tar", "s3://KEY:hunter2@b/x", "az://me:hunter2@c/x"] {
            let text = message(url);
            assert!(text.contains("environment") && !text.contains("hunter2") && !text.contains("KEY"), "{text}");
        }
        let text = message("https://host/x.tar?X-Amz-Signature=hunter2");
        assert!(text.contains("signed") && !text.contains("hunter2"), "{text}");
        assert!(message("ftp://host/x").contains("not a store"));
        assert!(message("s3:///x").contains("bucket"));
    }

    #[tokio::test]
    async fn a_list_stays_in_one_store() {
        let error = Location::open("http://a/x.tar::http://b/y.tar").await.unwrap_err().to_string();
        assert!(error.contains("one store"), "{error}");
    }
}
