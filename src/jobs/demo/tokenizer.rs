//! The demo's tokenizer: a small VQGAN made in seconds, until one is trained.
//!
//! It is honest about what it is: seeded random orthonormal convolutions in the encoder (`encoder.rs`), a codebook
//! that k-means finds in the encoder's features of sample pictures, and a decoder fitted to the same pictures by least squares
//! (`decoder.rs`). It knows the demo's shapes and nothing else. The file is a VQGAN like any other.

use super::scenes::{SIDE, Scene};
use super::split::Split;
use super::{DemoError, LEVEL_WIDTHS, decoder, encoder, kmeans};
use crate::torch::weights::{self, Weights};
use crate::vqgan::config::NORM_GROUPS;
use crate::vqgan::ops::Placement;
use crate::vqgan::{Vqgan, VqganConfig};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Kind, TchError, Tensor};

/// Entries of the codebook.
const CODES: i64 = 256;
/// Pictures whose features k-means sees.
const CODEBOOK_PICTURES: u64 = 96;
/// Pictures the decoder is fitted to.
const DECODER_PICTURES: i64 = 48;
const ROUNDS: usize = 12;
/// Pictures of an encoder pass.
const BATCH: i64 = 16;

/// The network's shape: 64×64 pixels become 16×16 tokens.
pub fn config() -> VqganConfig {
    let ch = LEVEL_WIDTHS[0];
    VqganConfig {
        ch,
        ch_mult: LEVEL_WIDTHS.iter().map(|width| width / ch).collect(),
        num_res_blocks: 1,
        attn_resolutions: Vec::new(),
        resolution: i64::from(SIDE),
        in_channels: 3,
        out_ch: 3,
        z_channels: 32,
        double_z: false,
        dropout: 0.0,
        tanh_out: false,
        embed_dim: 32,
        n_embed: CODES,
        used: None,
        gumbel: false,
        norm_groups: NORM_GROUPS,
    }
}

/// Makes the tokenizer of `seed` and writes it to `path`.
pub fn write(path: &Path, seed: u64) -> Result<(), DemoError> {
    let config = config();
    let tensors = make(&config, seed)?;
    let mut metadata = config.to_metadata();
    let about = format!("imagebart demo, seed {seed}: random encoder, k-means codebook, decoder by least squares");
    metadata.insert("about".to_owned(), about);
    weights::write(path, &tensors, &metadata)?;
    Ok(())
}

/// The weights by name.
fn make(config: &VqganConfig, seed: u64) -> Result<BTreeMap<String, Tensor>, DemoError> {
    let _guard = tch::no_grad_guard();
    let mut tensors = Weights::init(&config.tensors(), seed)?.into_tensors();
    encoder::silence_branches(&mut tensors)?;
    encoder::fill(&mut tensors, config.z_channels, seed)?;

    // Other pictures than the data set's: the gallery then shows what the tokenizer makes of pictures it has not seen.
    let images = pictures(seed.wrapping_add(1), CODEBOOK_PICTURES)?;
    let features = features(config, &tensors, &images)?;
    let points = Vec::<f32>::try_from(rows(&features)?.f_flatten(0, -1)?)?;
    let centres = kmeans::centres(&points, config.embed_dim as usize, config.n_embed as usize, ROUNDS, seed);
    let codebook = Tensor::f_from_slice(&centres)?.f_view([config.n_embed, config.embed_dim])?;

    let features = features.f_narrow(0, 0, DECODER_PICTURES)?;
    let entries = nearest(&codebook, &features)?;
    decoder::fit(&mut tensors, &entries, &images.f_narrow(0, 0, DECODER_PICTURES)?)?;
    tensors.insert("quantize.embedding.weight".to_owned(), codebook);
    Ok(tensors)
}

/// The pictures `0..count` of `seed`: `[count, 3, 64, 64]` in [-1, 1].
fn pictures(seed: u64, count: u64) -> Result<Tensor, DemoError> {
    let mut pixels = Vec::new();
    for index in 0..count {
        pixels.extend(Scene::new(Split::Training, seed, index).draw()?.pixels);
    }
    let side = i64::from(SIDE);
    let bytes = Tensor::f_from_slice(&pixels)?.f_view([-1, side, side, 3])?.f_permute([0, 3, 1, 2])?;
    Ok(bytes.f_to_kind(Kind::Float)?.f_div_scalar(127.5)?.f_sub_scalar(1.0)?.f_contiguous()?)
}

/// What the encoder makes of the images, before quantization: `[n, embed_dim, 16, 16]`.
fn features(config: &VqganConfig, tensors: &BTreeMap<String, Tensor>, images: &Tensor) -> Result<Tensor, DemoError> {
    let copies = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    let weights = Weights::from_tensors("the demo's tokenizer", copies)?;
    let network = Vqgan::load(config, &weights, Placement::cpu(), false)?;
    let count = images.size4()?.0;
    let mut features = Vec::new();
    for start in (0..count).step_by(BATCH as usize) {
        features.push(network.features(&images.f_narrow(0, start, BATCH.min(count - start))?)?);
    }
    Ok(Tensor::f_cat(&features, 0)?)
}

/// `[n, c, h, w]` to `[n · h · w, c]`.
fn rows(features: &Tensor) -> Result<Tensor, TchError> {
    let channels = features.size4()?.1;
    features.f_permute([0, 2, 3, 1])?.f_reshape([-1, channels])
}

/// Each place's nearest entry of the codebook: `[n, c, h, w]` to `[n, c, h, w]`.
fn nearest(codebook: &Tensor, features: &Tensor) -> Result<Tensor, TchError> {
    let (count, _, height, width) = features.size4()?;
    let squares = codebook.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?;
    let products = rows(features)?.f_matmul(&codebook.f_transpose(0, 1)?)?.f_mul_scalar(2.0)?;
    let indices = squares.f_sub(&products)?.f_argmin(1, false)?;
    let entries = codebook.f_index_select(0, &indices)?.f_view([count, height, width, -1])?;
    entries.f_permute([0, 3, 1, 2])?.f_contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::RowKey;
    use crate::vqgan::{Tokenizer, TokenizerOptions};

    #[test]
    fn pictures_survive_the_way_through_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.safetensors");
        write(&path, 5).unwrap();
        let tokenizer = Tokenizer::load(&path, None, TokenizerOptions::default()).unwrap();
        assert_eq!((tokenizer.codebook_size(), tokenizer.grid(SIDE, SIDE).unwrap()), (256, (16, 16)));

        let pictures: Vec<Vec<u8>> =
            (0..16).map(|index| Scene::new(Split::Test, 5, index).draw().unwrap().pixels).collect();
        let images: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        let keys: Vec<RowKey> = (0..16).map(|index| RowKey::new(5, "test", index, 0)).collect();
        let grids = tokenizer.encode(&images, (SIDE, SIDE), &keys).unwrap();
        let used: std::collections::BTreeSet<u16> = grids.iter().flatten().copied().collect();
        assert!(used.len() > 100, "only {} of 256 codes in use", used.len());

        let grids: Vec<&[u16]> = grids.iter().map(Vec::as_slice).collect();
        let decoded = tokenizer.decode(&grids, (16, 16)).unwrap();
        let mut squares = 0.0;
        for (picture, original) in decoded.iter().zip(&pictures) {
            let difference = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
            squares += picture.pixels.iter().zip(original).map(difference).sum::<f64>();
        }
        let psnr = 10.0 * (255f64.powi(2) * (16 * SIDE * SIDE * 3) as f64 / squares).log10();
        eprintln!("PSNR {psnr:.2}, {} codes", used.len());
        assert!(psnr > 24.0, "PSNR {psnr:.1} dB");
    }
}
