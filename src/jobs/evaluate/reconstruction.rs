//! A tokenizer's reconstructions beside the images of a dataset.

use super::Stop;
use super::figure::{Better, Figure, Group};
use super::generation::{Pinned, enough};
use super::pictures::Source;
use crate::evaluate::{Collector, FeatureNetwork, Window, frechet, mean_difference, ssim};
use crate::imaging::{Rgb, psnr};
use crate::jobs::JobError;
use crate::jobs::shrink::Usage;
use crate::random::RowKey;
use crate::vqgan::Tokenizer;
use crate::vqgan::lpips::Perceptual;
use crate::vqgan::tokenizer::normalise;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, TchError, Tensor};

/// Pairs that a report shows of either end.
const SHOWN: usize = 8;

/// What reconstructions are made with and measured by.
pub struct Reconstruction {
    pub pictures: Source,
    pub tokenizer: Tokenizer,
    /// Images the tokenizer sees at once.
    pub batch: usize,
    pub window: Window,
    pub perceptual: Option<Perceptual>,
    pub device: Device,
    pub seed: u64,
}

/// An image, its reconstruction, and their PSNR in dB.
#[derive(Clone, Debug)]
pub struct Pair {
    pub psnr: f64,
    pub original: Rgb,
    pub decoded: Rgb,
}

/// The pairs with the lowest and the highest PSNR, from the end inwards.
#[derive(Clone, Debug, Default)]
pub struct Extremes {
    pub worst: Vec<Pair>,
    pub best: Vec<Pair>,
}

/// Of every image, in order.
#[derive(Default)]
struct Rows {
    psnr: Vec<f64>,
    ssim: Vec<f64>,
    l1: Vec<f64>,
    lpips: Vec<f64>,
}

impl Reconstruction {
    /// Measures up to `limit` images; with a network also their rFID.
    ///
    /// # Errors
    /// [`JobError::Usage`] for too few images; what reading, libtorch and the network report.
    pub fn run(
        self,
        network: Option<&FeatureNetwork>,
        (mut group, limit): (Group, u64),
        stop: &Stop,
    ) -> Result<(Vec<Figure>, Extremes), JobError> {
        let mut rows = Rows::default();
        let mut usage = Usage::new(self.tokenizer.codebook_size());
        let mut extremes = Extremes::default();
        let mut identity = Sha256::new();
        let mut features = match network {
            Some(network) => {
                let collector = || Collector::new(network.dims(), network.device()).map_err(JobError::failed);
                Some((network, collector()?, collector()?))
            }
            None => None,
        };
        let mut pictures = self.pictures.open();
        while let Some(originals) = pictures.next_batch(self.batch)? {
            stop.check()?;
            let mut originals: Vec<Rgb> = originals.into_iter().map(|picture| picture.image).collect();
            originals.truncate(usize::try_from(limit - rows.psnr.len() as u64).unwrap_or(usize::MAX));
            for originals in originals.chunks(self.batch.max(1)) {
                let decoded = self.reconstruct(originals, rows.psnr.len() as u64, &mut usage)?;
                self.compare(originals, &decoded, &mut rows)?;
                let told = rows.psnr.iter().skip(rows.psnr.len() - decoded.len());
                for ((original, decoded), psnr) in originals.iter().zip(&decoded).zip(told) {
                    identity.update(crc32c::crc32c(&original.pixels).to_le_bytes());
                    extremes.add(*psnr, original, decoded);
                }
                if let Some((network, real, made)) = &mut features {
                    for (images, collector) in [(originals, real), (decoded.as_slice(), made)] {
                        let images: Vec<&Rgb> = images.iter().collect();
                        let features = network.features(&images).map_err(|error| JobError::Usage(error.to_string()))?;
                        collector.add(&features).map_err(|error| JobError::Usage(error.to_string()))?;
                    }
                }
            }
            if rows.psnr.len() as u64 >= limit {
                break;
            }
        }
        if rows.psnr.is_empty() {
            return Err(JobError::Usage("none of the images to reconstruct can be read".to_owned()));
        }
        group.rows = rows.psnr.len() as u64;
        group.rows_id = crate::digest::hex(&identity.finalize());
        let mut figures = self.figures(rows, &usage, &group);
        if let Some((network, real, made)) = features {
            figures.push(rfid(network, (real, made), &group, stop)?);
        }
        Ok((figures, extremes))
    }

    fn reconstruct(&self, originals: &[Rgb], first: u64, usage: &mut Usage) -> Result<Vec<Rgb>, JobError> {
        let usage_error = |error: crate::vqgan::TokenizerError| JobError::Usage(error.to_string());
        let Some(Rgb { width, height, .. }) = originals.first() else { return Ok(Vec::new()) };
        let keys: Vec<RowKey> =
            (first..).take(originals.len()).map(|row| RowKey::new(self.seed, "evaluate", row, 0)).collect();
        let pixels: Vec<&[u8]> = originals.iter().map(|image| image.pixels.as_slice()).collect();
        let grids = self.tokenizer.encode(&pixels, (*height, *width), &keys).map_err(usage_error)?;
        grids.iter().for_each(|grid| usage.add(grid));
        let grids: Vec<&[u16]> = grids.iter().map(Vec::as_slice).collect();
        let grid = self.tokenizer.grid(*height, *width).map_err(usage_error)?;
        self.tokenizer.decode(&grids, grid).map_err(usage_error)
    }

    fn compare(&self, originals: &[Rgb], decoded: &[Rgb], rows: &mut Rows) -> Result<(), JobError> {
        let usage = |error: crate::evaluate::PictureError| JobError::Usage(error.to_string());
        for (original, decoded) in originals.iter().zip(decoded) {
            rows.psnr.push(psnr(original, decoded));
            rows.ssim.push(ssim(original, decoded, self.window).map_err(usage)?);
            rows.l1.push(mean_difference(original, decoded).map_err(usage)?);
        }
        if let Some(perceptual) = &self.perceptual {
            let distances = || -> Result<Vec<f64>, TchError> {
                let _guard = tch::no_grad_guard();
                let distance = perceptual.distance(&self.upload(originals)?, &self.upload(decoded)?)?;
                Vec::try_from(distance.f_flatten(0, -1)?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)
            };
            rows.lpips.extend(distances().map_err(JobError::failed)?);
        }
        Ok(())
    }

    /// Images as LPIPS takes them: `[batch, 3, height, width]` in [-1, 1].
    fn upload(&self, images: &[Rgb]) -> Result<Tensor, TchError> {
        let one = |image: &Rgb| {
            let shape = [1, i64::from(image.height), i64::from(image.width), 3];
            Tensor::f_from_data_size(&image.pixels, &shape, Kind::Uint8)
        };
        let images = images.iter().map(one).collect::<Result<Vec<_>, _>>()?;
        normalise(&Tensor::f_cat(&images, 0)?.f_to_device(self.device)?)
    }

    fn figures(&self, rows: Rows, usage: &Usage, group: &Group) -> Vec<Figure> {
        let window = match self.window {
            Window::Gaussian => "gaussian 11x11, sigma 1.5, population variances, channels apart, range 255",
            Window::Uniform => "uniform 7x7, sample variances, channels apart, range 255",
        };
        let pinned = |figure: Figure, name: &str, value: &str| figure.with(name, value);
        let figures = [
            group
                .mean("psnr", rows.psnr, ("dB", Better::Higher))
                .map(|it| pinned(it, "definition", "mean over images of 8-bit pictures, 99 where equal")),
            group.mean("ssim", rows.ssim, ("", Better::Higher)).map(|it| pinned(it, "window", window)),
            group
                .mean("l1", rows.l1, ("", Better::Lower))
                .map(|it| pinned(it, "definition", "8-bit pictures, share of the range of 255")),
            group.mean("lpips", rows.lpips, ("", Better::Lower)),
        ];
        let facts = usage.facts(&[]);
        let codes = [
            group.plain("codes_used", facts.seen as f64, ("codes", Better::Neither)),
            group.plain("code_perplexity", facts.perplexity, ("codes", Better::Neither)),
        ];
        let codes = codes.map(|it| it.with("codes", facts.codes).with("tokens", facts.tokens));
        figures.into_iter().flatten().chain(codes).collect()
    }
}

/// The Fréchet distance of reconstructions from their originals.
fn rfid(
    network: &FeatureNetwork,
    (real, made): (Collector, Collector),
    group: &Group,
    stop: &Stop,
) -> Result<Figure, JobError> {
    let usage = |error: crate::evaluate::MetricError| JobError::Usage(format!("rFID: {error}"));
    let singular = enough("rFID", real.count(), stop.force)?;
    let (real, made) = (real.finish().map_err(usage)?, made.finish().map_err(usage)?);
    let found = frechet(&made.gaussian, &real.gaussian, singular).map_err(usage)?;
    let features = made.features.ok_or_else(|| JobError::Failed("the features were not kept".to_owned()))?;
    let contributions = found.contributions(&features).map_err(JobError::failed)?;
    let estimate = crate::evaluate::Estimate { value: found.distance, contributions };
    let figure = group.figure("rfid", &estimate, ("", Better::Lower));
    let pinned = Pinned::of(network).settings.into_iter();
    Ok(pinned.fold(figure, |figure, (name, value)| figure.with(&name, value)))
}

impl Extremes {
    fn add(&mut self, psnr: f64, original: &Rgb, decoded: &Rgb) {
        let keep = |list: &mut Vec<Pair>, before: &dyn Fn(f64) -> bool| {
            let place = list.iter().position(|pair| before(pair.psnr)).unwrap_or(list.len());
            if place < SHOWN {
                list.insert(place, Pair { psnr, original: original.clone(), decoded: decoded.clone() });
                list.truncate(SHOWN);
            }
        };
        keep(&mut self.worst, &|other| psnr < other);
        keep(&mut self.best, &|other| psnr > other);
    }
}
