//! Stores on the loopback: moto for S3, Azurite for Azure, a fake of our own for Google Cloud Storage.
//!
//! The first two are installed below `target/` when they are first needed. Every server takes a free port, and ends when it is
//! dropped, or when this process does: it reads its standard input, which closes then.

use crate::python;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::Duration;

/// How long a server may take to say where it is.
const START: Duration = Duration::from_secs(120);

/// A server process.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:<port>`.
    pub address: String,
}

impl Server {
    /// Starts a server that prints its address, or why that failed.
    fn start(command: &mut Command) -> Result<Server, String> {
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = started.map_err(|error| format!("{command:?} cannot be started: {error}"))?;
        let stdout = child.stdout.take().ok_or("a server without output")?;
        let (sender, found) = mpsc::channel();
        std::thread::spawn(move || {
            let address = |line: &str| line.find("http://").map(|at| line[at..].trim_end().to_owned());
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Read on to the end: a full pipe would stop the server.
                let _ = address(&line).map(|address| sender.send(address));
            }
        });
        // Made now, so that it is killed whatever happens next.
        let mut server = Server { child, address: String::new() };
        server.address =
            found.recv_timeout(START).map_err(|_| format!("{command:?} ended, or did not say where it is"))?;
        let socket = server.address.trim_start_matches("http://").to_owned();
        TcpStream::connect(&socket).map_err(|error| format!("{command:?} does not answer at {socket}: {error}"))?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One server for all tests that run at the same time; the last of them ends it.
struct Shared(Mutex<Weak<Server>>);

impl Shared {
    fn get(&self, start: impl FnOnce() -> Result<Server, String>) -> Result<Arc<Server>, String> {
        let mut shared = self.0.lock().map_err(|_| "another test's server failed to start")?;
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(start()?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }
}

/// An empty bucket or container, and how to reach it.
pub struct Bucket {
    server: Arc<Server>,
    /// `s3://bucket`, without a slash at the end.
    pub url: String,
    /// What a process needs in its environment to reach it.
    pub environment: Vec<(&'static str, String)>,
    /// What must never be seen outside that environment.
    pub secrets: Vec<String>,
    /// The bucket for the tests themselves.
    pub store: Arc<dyn ObjectStore>,
    _files: Option<tempfile::TempDir>,
}

impl Bucket {
    /// The server's address.
    pub fn address(&self) -> &str {
        &self.server.address
    }

    /// The same command with the environment of this bucket.
    pub fn reach<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs(self.environment.iter().map(|(name, value)| (name, value.as_str())))
    }
}

/// Names no two buckets of this process the same.
fn name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("bucket-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores").join(file)
}

fn moto() -> Result<Server, String> {
    let python = python::environment("moto-venv", "stores/requirements.txt")?;
    Server::start(Command::new(python).arg(here("servers/moto_server.py")))
}

/// A bucket of moto's S3.
pub fn s3() -> Result<Bucket, String> {
    static SERVER: Shared = Shared(Mutex::new(Weak::new()));
    s3_of(SERVER.get(moto)?)
}

/// A bucket of a moto that lets nobody in.
pub fn closed_s3() -> Result<Bucket, String> {
    let bucket = s3_of(Arc::new(moto()?))?;
    let counted = plain_request(bucket.address(), "POST", "/moto-api/reset-auth", "0")?;
    if counted { Ok(bucket) } else { Err("moto did not close".to_owned()) }
}

fn s3_of(server: Arc<Server>) -> Result<Bucket, String> {
    let (bucket, key, secret) = (name(), "AKIDOFTHETESTS", "s3cr3t-of-the-tests/with+signs");
    // moto needs no signature for this.
    if !plain_request(&server.address, "PUT", &format!("/{bucket}"), "")? {
        return Err(format!("moto did not make the bucket {bucket}"));
    }
    let store = AmazonS3Builder::new()
        .with_bucket_name(&bucket)
        .with_endpoint(&server.address)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id(key)
        .with_secret_access_key(secret)
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Bucket {
        environment: vec![
            ("AWS_ACCESS_KEY_ID", key.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", server.address.clone()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ],
        secrets: vec![secret.to_owned()],
        url: format!("s3://{bucket}"),
        store: Arc::new(store),
        server,
        _files: None,
    })
}

/// A container of Azurite.
pub fn azure() -> Result<Bucket, String> {
    static SERVER: Shared = Shared(Mutex::new(Weak::new()));
    let (account, key) = ("teststore", "a2V5LW9mLXRoZS10ZXN0cy1vZi10aGUtYXp1cmUtc3RvcmU=");
    let server = SERVER.get(|| {
        let main = azurite()?;
        let mut command = Command::new("node");
        command.arg(here("servers/azurite.js")).arg(main);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--disableTelemetry"]);
        Server::start(command.arg("--skipApiVersionCheck").env("AZURITE_ACCOUNTS", format!("{account}:{key}")))
    })?;
    let container = name();
    let make = here("servers/container.js");
    python::run(Command::new("node").arg(make).args([&server.address, account, key, &container]))?;
    let store = MicrosoftAzureBuilder::new()
        .with_container_name(&container)
        .with_endpoint(format!("{}/{account}", server.address))
        .with_allow_http(true)
        .with_account(account)
        .with_access_key(key)
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Bucket {
        environment: vec![
            ("AZURE_STORAGE_ACCOUNT_NAME", account.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", key.to_owned()),
            ("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()),
            ("AZURITE_BLOB_STORAGE_URL", server.address.clone()),
        ],
        secrets: vec![key.to_owned()],
        url: format!("az://{container}"),
        store: Arc::new(store),
        server,
        _files: None,
    })
}

/// The main file of Azurite's blob service.
fn azurite() -> Result<PathBuf, String> {
    let wanted = std::fs::read_to_string(here("package.json")).map_err(|error| error.to_string())?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("azurite");
    let (main, marker) = (folder.join("node_modules/azurite/dist/src/blob/main.js"), folder.join("installed.json"));
    let _installing = python::lock("azurite")?;
    if std::fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
        return Ok(main);
    }
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    std::fs::write(folder.join("package.json"), &wanted).map_err(|error| error.to_string())?;
    let quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"];
    python::run(Command::new("npm").arg("install").args(quiet).current_dir(&folder))?;
    std::fs::write(&marker, wanted).map_err(|error| error.to_string())?;
    Ok(main)
}

/// A bucket of the fake of Google Cloud Storage, with a key file as of a service account.
pub fn gcs() -> Result<Bucket, String> {
    gcs_for("tests@project.example", "tests@project.example")
}

/// The same, of a server that knows `known` and a key file of `asking`.
pub fn gcs_for(known: &str, asking: &str) -> Result<Bucket, String> {
    let bucket = name();
    let server = Server::start(Command::new("python3").arg(here("servers/gcs.py")).args([&bucket, known]))?;
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
    let pem = key.map_err(|error| failed(&error))?.serialize_pem();
    let account = serde_json::json!({
        "type": "service_account", "client_email": asking, "private_key_id": "1", "private_key": pem,
    });
    let files = tempfile::tempdir().map_err(|error| failed(&error))?;
    let file = files.path().join("key.json");
    std::fs::write(&file, account.to_string()).map_err(|error| failed(&error))?;
    let store = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&bucket)
        .with_base_url(&server.address)
        .with_service_account_key(account.to_string())
        .build()
        .map_err(|error| failed(&error))?;
    // Lines of the key itself, and the beginning of every token it signs.
    let lines = pem.lines().filter(|line| !line.starts_with("---"));
    Ok(Bucket {
        environment: vec![
            ("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string()),
            ("GOOGLE_BASE_URL", server.address.clone()),
        ],
        secrets: lines.map(str::to_owned).chain(["eyJ".to_owned()]).collect(),
        url: format!("gs://{bucket}"),
        store: Arc::new(store),
        server: Arc::new(server),
        _files: Some(files),
    })
}

/// Whether a request without a signature succeeds.
pub fn plain_request(address: &str, method: &str, target: &str, body: &str) -> Result<bool, String> {
    let socket = address.trim_start_matches("http://");
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(socket)?;
        let length = body.len();
        write!(stream, "{method} {target} HTTP/1.1\r\nhost: {socket}\r\ncontent-length: {length}\r\n")?;
        write!(stream, "connection: close\r\n\r\n{body}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| format!("{method} {address}{target}: {error}"))?;
    Ok(answer.split(' ').nth(1) == Some("200"))
}
