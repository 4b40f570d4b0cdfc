//! Reads latents back as tensors: `cargo run --release --example latents_to_tensors -- out/cc3m`.
//!
//! Prints what the directory holds and, for each batch, the shape of its tokens, as a training loop would take them.

use arrow::array::AsArray;
use arrow::datatypes::UInt16Type;
use futures::TryStreamExt;
use imagebart::tables::{LatentsReader, OutputDir};
use tch::{Kind, Tensor};

const BATCH: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("usage: latents_to_tensors DIRECTORY"))?;
    let reader = LatentsReader::open(OutputDir::local(dir)?).await?;
    let (height, width) = reader.provenance().grid;
    let codes = i64::from(reader.provenance().codebook_size);
    println!("{} files, {height}x{width} tokens below {codes}", reader.files().len());

    let mut counts = Tensor::f_zeros([codes], (Kind::Int64, tch::Device::Cpu))?;
    let mut batches = reader.batches(BATCH);
    while let Some(batch) = batches.try_next().await? {
        let tokens = batch.column_by_name("tokens").and_then(|column| column.as_fixed_size_list_opt());
        let tokens = tokens.ok_or_else(|| anyhow::anyhow!("no token column"))?;
        let values: Vec<i64> =
            tokens.values().as_primitive::<UInt16Type>().values().iter().copied().map(i64::from).collect();
        let tokens = Tensor::f_from_slice(&values)?.f_view([batch.num_rows() as i64, i64::from(height * width)])?;
        println!("tokens {:?} {:?}", tokens.size(), tokens.kind());
        counts += tokens.f_flatten(0, 1)?.f_bincount::<Tensor>(None, codes)?;
    }
    let used = i64::try_from(&counts.f_gt(0)?.f_sum(Kind::Int64)?)?;
    println!("{used} of {codes} codes are in use");
    Ok(())
}
