//! VQGAN encoding on the CPU: the plain contiguous float32 network against the kernels, in one run.
//!
//! `cargo bench --bench tokenizer` prints seconds an image of both (rounds interleaved), the ratio, the matrix-multiply peak
//! measured between them, the split by primitive, and how many tokens agree. With `IMAGEBART_DATA_DIR` the images are the
//! reference crops, else seeded noise; with `IMAGEBART_TOKENS_DIR` too, the tokens of that tokenizer are compared with its
//! reference.

use imagebart::torch::kernels::{Affine, Around, Instructions, Packed, instruction_sets};
use imagebart::torch::weights::{Weights, WeightsFile};
use imagebart::vqgan::ops::{Layout, Placement};
use imagebart::vqgan::{Codebook, Vqgan, VqganConfig};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::{Device, Kind, TchError, Tensor};

type Error = Box<dyn std::error::Error>;

const SIDE: i64 = 256;
const BATCH: i64 = 4;
const ROUNDS: usize = 3;
const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

fn main() -> Result<(), Error> {
    let _guard = tch::no_grad_guard();
    println!("{} threads, {} instruction sets", tch::get_num_threads(), instruction_sets());
    full_size()?;
    primitives()?;
    reference_tokens()
}

/// The released f16 network: 138 GFLOP an image.
fn full_size_config() -> Result<VqganConfig, Error> {
    let ddconfig = r#"{"double_z": false, "z_channels": 256, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [16], "dropout": 0.0}"#;
    let metadata = [("ddconfig", ddconfig), ("embed_dim", "256"), ("n_embed", "1024")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    VqganConfig::from_metadata(&metadata)?.ok_or_else(|| "no config".into())
}

/// Seconds an image of both networks, and their tokens.
fn full_size() -> Result<(), Error> {
    let config = full_size_config()?;
    let weights = Weights::init(&config.tensors(), 2)?;
    let plain = Placement { layout: Layout::Contiguous, ..Placement::cpu() };
    let plain = Vqgan::load(&config, &weights, plain, false)?;
    let fast = Vqgan::load(&config, &weights, Placement::cpu(), false)?;
    drop(weights);
    let images = images()?;
    let (a, b) = (Tensor::f_randn([2048, 2048], FLOAT)?, Tensor::f_randn([2048, 2048], FLOAT)?);
    let features = (plain.features(&images)?, fast.features(&images)?);
    let decode = |network: &Vqgan| network.decode(&features.0.f_narrow(0, 0, 1)?);

    let multiply = times(&[&|| a.f_matmul(&b)])?;
    let encode = times(&[&|| plain.features(&images), &|| fast.features(&images), &|| a.f_matmul(&b)])?;
    let peak = 2.0 * 2048f64.powi(3) / multiply[0].best.min(encode[2].best);
    println!("matrix multiply: {:.0} GFLOP/s", peak / 1e9);
    report("encode", &encode, BATCH);
    let share = |time: &Time| 138e9 * BATCH as f64 / time.best / peak * 100.0;
    let (before, after) = (share(&encode[0]), share(&encode[1]));
    println!(
        "  138 GFLOP an image: {before:.0} % of that peak, and {after:.0} % (Winograd multiplies a quarter as often)"
    );
    compare_tokens(&features.0, &features.1)?;
    report("decode", &times(&[&|| decode(&plain), &|| decode(&fast)])?, 1);
    Ok(())
}

fn report(name: &str, times: &[Time], images: i64) {
    let [plain, fast, ..] = times else { return };
    let seconds = |time: f64| time / images as f64;
    println!("{name}: plain   {:.3} s an image (median {:.3})", seconds(plain.best), seconds(plain.median));
    println!("{name}: kernels {:.3} s an image (median {:.3})", seconds(fast.best), seconds(fast.median));
    println!("{name}: ratio {:.2} (of medians {:.2})", plain.best / fast.best, plain.median / fast.median);
}

/// Nearest entries of a codebook of features, under both networks.
fn compare_tokens(plain: &Tensor, fast: &Tensor) -> Result<(), Error> {
    let rows = |x: &Tensor| x.f_permute([0, 2, 3, 1])?.f_reshape([-1, x.size()[1]]);
    let (plain, fast) = (rows(plain)?, rows(fast)?);
    let error = plain.f_sub(&fast)?.f_pow_tensor_scalar(2)?.f_mean(Kind::Double)?.f_sqrt()?.f_double_value(&[])?;
    let deviation = plain.f_std(false)?.f_double_value(&[])?;
    println!("features differ by {:.1e} of their deviation (root mean square)", error / deviation);
    // Entries between features, so that no feature is an entry itself.
    let codebook = plain.f_add(&plain.f_roll([1], [0])?)?.f_div_scalar(2.0)?;
    let nearest = |x: &Tensor| Tensor::f_cdist(x, &codebook, 2.0, 2)?.f_argmin(1, false);
    let same = nearest(&plain)?.f_eq_tensor(&nearest(&fast)?)?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
    println!("{same} of {} tokens agree", plain.size()[0]);
    Ok(())
}

/// Time of each primitive in one image's encoding: its shape, how often it runs.
fn primitives() -> Result<(), Error> {
    println!("\n{:34} {:>5} {:>9} {:>9} {:>7}", "primitive", "calls", "plain ms", "fast ms", "ratio");
    // (side, channels in, channels out, kernel, stride, calls)
    let shapes = [
        (256, 3, 128, 3, 1, 1),
        (256, 128, 128, 3, 1, 4),
        (256, 128, 128, 3, 2, 1),
        (128, 128, 128, 3, 1, 4),
        (128, 128, 128, 3, 2, 1),
        (64, 128, 256, 3, 1, 1),
        (64, 256, 256, 3, 1, 3),
        (64, 128, 256, 1, 1, 1),
        (64, 256, 256, 3, 2, 1),
        (32, 256, 256, 3, 1, 4),
        (32, 256, 256, 3, 2, 1),
        (16, 256, 512, 3, 1, 1),
        (16, 512, 512, 3, 1, 7),
        (16, 512, 512, 1, 1, 12),
        (16, 512, 256, 3, 1, 1),
    ];
    for (side, input, output, kernel, stride, calls) in shapes {
        let x = Tensor::f_randn([BATCH, input, side, side], FLOAT)?;
        let weight = Tensor::f_randn([output, input, kernel, kernel], FLOAT)?;
        let bias = Tensor::f_randn([output], FLOAT)?;
        let (scale, shift) = (Tensor::f_ones([input], FLOAT)?, Tensor::f_zeros([input], FLOAT)?);
        let pixels = x.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?;
        let packed = Packed::new(&weight, &bias, stride)?.ok_or("the kernels do not take this shape")?;
        let normed = kernel == 3 && stride == 1 && input > 3;
        let plain = || -> Result<Tensor, TchError> {
            let x = match normed {
                true => x.f_group_norm(32, Some(&scale), Some(&shift), 1e-6, true)?.f_silu_()?,
                false => x.shallow_clone(),
            };
            let x = if stride == 2 { x.f_constant_pad_nd([0, 1, 0, 1])? } else { x };
            let padding = if stride == 2 { 0 } else { kernel / 2 };
            x.f_conv2d(&weight, Some(&bias), [stride; 2], [padding; 2], [1, 1], 1)
        };
        let fast = || -> Result<Tensor, TchError> {
            let norm = match normed {
                true => Some(Affine::group_norm(&pixels, 32, 1e-6, (&scale, &shift), Instructions::Best)?),
                false => None,
            };
            packed.forward(&pixels, Around { norm: norm.as_ref(), ..Around::default() }, Instructions::Best)
        };
        let times = times(&[&plain, &fast])?;
        let (plain, fast) = (times[0].best, times[1].best);
        let an_image = 1e3 * f64::from(calls) / BATCH as f64;
        let before = if normed { "norm, swish, " } else { "" };
        let name = format!("{before}{kernel}x{kernel}/{stride} {input}->{output} {side}²");
        println!("{name:34} {calls:5} {:9.2} {:9.2} {:7.2}", plain * an_image, fast * an_image, plain / fast);
    }
    Ok(())
}

/// The tokens of `$IMAGEBART_TOKENS_DIR` under both networks.
fn reference_tokens() -> Result<(), Error> {
    let (Some(tokens), Some(data)) = (directory("IMAGEBART_TOKENS_DIR"), directory("IMAGEBART_DATA_DIR")) else {
        println!("\nskipped: reference tokens: IMAGEBART_TOKENS_DIR or IMAGEBART_DATA_DIR is not set");
        return Ok(());
    };
    let mut file = WeightsFile::open(tokens.join("tokenizer.safetensors"))?;
    let config = VqganConfig::from_metadata(file.metadata())?.ok_or("no config in the tokenizer's file")?;
    let weights = file.load(&config.tensors())?;
    let reference = WeightsFile::open(tokens.join("tokens.safetensors"))?.load_all()?;
    println!();
    for layout in [Layout::Contiguous, Layout::ChannelsLast] {
        let network = Vqgan::load(&config, &weights, Placement { layout, ..Placement::cpu() }, false)?;
        let (mut same, mut all, mut margin) = (0, 0, 0f64);
        for path in crops(&data)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let expected = reference.get(&format!("tokens.{name}"))?;
            let found = tokens_of(&network, &pixels(&path)?)?;
            let known = expected.f_ge(0)?;
            let wrong = found.f_ne_tensor(&expected.f_unsqueeze(0)?)?.f_logical_and(&known)?;
            let count = known.f_sum(Kind::Int64)?.f_int64_value(&[])?;
            let wrong_count = wrong.f_sum(Kind::Int64)?.f_int64_value(&[])?;
            if wrong_count > 0 {
                let margins = reference.get(&format!("margin.{name}"))?.f_unsqueeze(0)?;
                margin = margin.max(margins.f_masked_select(&wrong)?.f_max()?.f_double_value(&[])?);
            }
            all += count;
            same += count - wrong_count;
        }
        println!("{layout:?}: {same} of {all} reference tokens agree (largest margin of a miss {margin:.1e})");
    }
    Ok(())
}

fn tokens_of(network: &Vqgan, image: &Tensor) -> Result<Tensor, Error> {
    let Codebook::Nearest(quantizer) = &network.codebook else { return Err("not a nearest-entry codebook".into()) };
    Ok(quantizer.remap().to_ids(&quantizer.indices(&network.features(image)?)?)?)
}

fn directory(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

fn crops(data: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(data.join("reference/center_bicubic256"))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "png"));
    paths.sort();
    Ok(paths)
}

/// An image file as `[1, 3, h, w]` in [-1, 1].
fn pixels(path: &Path) -> Result<Tensor, Error> {
    let image = image::open(path)?.to_rgb8();
    let shape = [1, i64::from(image.height()), i64::from(image.width()), 3];
    let bytes = Tensor::f_from_data_size(image.as_raw(), &shape, Kind::Uint8)?;
    Ok(imagebart::vqgan::tokenizer::normalise(&bytes)?)
}

/// The benchmark's images, `[BATCH, 3, SIDE, SIDE]`.
fn images() -> Result<Tensor, Error> {
    let Some(data) = directory("IMAGEBART_DATA_DIR") else {
        println!("IMAGEBART_DATA_DIR is not set: encoding noise");
        tch::manual_seed(1);
        return Ok(Tensor::f_rand([BATCH, 3, SIDE, SIDE], FLOAT)?.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?);
    };
    let images = crops(&data)?.iter().take(BATCH as usize).map(|path| pixels(path)).collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::f_cat(&images, 0)?)
}

/// Seconds of a piece of work.
struct Time {
    best: f64,
    median: f64,
}

/// Runs pieces of work in turn, a round to warm up and then `ROUNDS`, so that what else the machine does meets all alike.
fn times(works: &[&dyn Fn() -> Result<Tensor, TchError>]) -> Result<Vec<Time>, TchError> {
    let mut times = vec![Vec::new(); works.len()];
    for round in 0..=ROUNDS {
        for (work, times) in works.iter().zip(&mut times) {
            let start = Instant::now();
            drop(work()?);
            if round > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    for times in &mut times {
        times.sort_by(f64::total_cmp);
    }
    Ok(times.iter().map(|times| Time { best: times[0], median: times[times.len() / 2] }).collect())
}
