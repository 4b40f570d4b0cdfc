//! HTTP and HTTPS: input only, by names.

use crate::common::{stderr, tables};
use crate::corpus::{Corpus, clean, latents_and_rejects};
use crate::http::{HttpServer, files};

#[test]
fn files_on_a_web_server_make_the_same_tables() {
    let corpus = Corpus::new();
    let server = HttpServer::start(files(corpus.files()));
    let out = corpus.root.path().join("out").display().to_string();
    let output = corpus.encode(&mut clean(), "webdataset", &corpus.below(&server.url()).shards, &out, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(latents_and_rejects(tables(out.as_ref())), corpus.expected("webdataset", &[]));

    let folder = corpus.below(&server.url()).folder;
    let output = corpus.encode(&mut clean(), "folder", &folder, &out, &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("name the files"), "{}", stderr(&output));
}

/// Whom to trust comes from the system, or from `SSL_CERT_FILE`.
#[test]
fn https_wants_a_certificate_it_knows() {
    let corpus = Corpus::new();
    let (server, authority) = HttpServer::start_tls(files(corpus.files()));
    let shards = corpus.below(&format!("https://localhost:{}", server.port())).shards;
    let out = corpus.root.path().join("out").display().to_string();
    let file = corpus.root.path().join("authority.pem");
    std::fs::write(&file, authority).unwrap();
    let output = corpus.encode(clean().env("SSL_CERT_FILE", &file), "webdataset", &shards, &out, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(latents_and_rejects(tables(out.as_ref())), corpus.expected("webdataset", &[]));
}
