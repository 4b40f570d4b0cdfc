//! Encodes a folder of images from Rust: `cargo run --release --example encode_folder -- FOLDER TOKENIZER OUT`.
//!
//! What the `encode` command does, without a pipeline file on disk.

use imagebart::config::Pipeline;
use imagebart::jobs::encode::{EncodeOptions, encode};
use imagebart::progress::Display;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, tokenizer, out] = arguments.as_slice() else {
        anyhow::bail!("usage: encode_folder FOLDER TOKENIZER.safetensors OUT");
    };
    let settings = [
        "dataset.format=folder".to_owned(),
        format!("dataset.url={folder}"),
        format!("tokenizer.weights={tokenizer}"),
        format!("output.url={out}"),
    ];
    // Everything a pipeline file may say can be said here; the rest has defaults.
    let pipeline = Pipeline::parse("[image]\nsize = 256\n", "this example", &settings)?;
    // Cancel the token to stop: units in hand are abandoned, finished ones stay.
    let cancel = CancellationToken::new();
    let summary = encode(&pipeline, &EncodeOptions::default(), &Display::new(), cancel).await?;
    println!("{summary}");
    Ok(())
}
