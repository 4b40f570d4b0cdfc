//! The shape of a VQGAN from the names and shapes of its tensors, for checkpoints that come without their config.

use super::config::{ConfigError, NORM_GROUPS, VqganConfig};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Why no shape can be read off the tensors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    #[error("these are not the weights of a VQGAN: nothing tells its {what} (looked for {looked_for})")]
    Missing { what: &'static str, looked_for: String },
    #[error("level {level} has {channels} channels, which is no multiple of the {ch} of the finest level")]
    Channels { level: usize, channels: i64, ch: i64 },
    #[error("resolution {resolution} is too small for {levels} levels, each half the one before")]
    Resolution { resolution: i64, levels: usize },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The network shape that the tensors of a released checkpoint (names without prefix) tell.
///
/// Weights do not tell the `resolution` the network was trained at. It only names the levels with attention in the config,
/// so any value large enough for the number of levels gives the same network. Nor do they tell `dropout` and `tanh_out`,
/// which are set to 0 and false.
///
/// # Errors
/// A size that no tensor tells, and shapes that no VQGAN has. Single missing or odd tensors are not noticed here: compare
/// with [`VqganConfig::tensors`].
pub fn infer<'a>(
    tensors: impl IntoIterator<Item = (&'a str, Vec<i64>)>,
    resolution: i64,
) -> Result<VqganConfig, InferError> {
    let found = Tensors(tensors.into_iter().collect());
    let levels = found.count(&["encoder.down.", "decoder.up."]);
    if levels > 12 || resolution >> levels.saturating_sub(1).min(62) < 1 {
        return Err(InferError::Resolution { resolution, levels });
    }
    let ch = found.size("ch", &["encoder.conv_in.weight:0", "encoder.conv_in.bias:0", "decoder.conv_out.weight:1"])?;
    let ch_mult = (0..levels).map(|level| found.multiple(level, ch)).collect::<Result<Vec<i64>, InferError>>()?;
    let z_channels = found.size(
        "z_channels",
        &["decoder.conv_in.weight:1", "post_quant_conv.weight:0", "quant_conv.weight:1", "encoder.conv_out.weight:0"],
    )?;
    let encoded = found.dimension("encoder.conv_out.weight:0").unwrap_or(z_channels);
    let attention = (0..levels).filter(|level| {
        [format!("encoder.down.{level}.attn."), format!("decoder.up.{level}.attn.")].iter().any(|part| found.any(part))
    });
    let codebook = ["quantize.embedding.weight", "quantize.embed.weight"];
    let entries = codebook.map(|name| format!("{name}:0"));
    let widths = codebook.map(|name| format!("{name}:1"));
    let config = VqganConfig {
        ch,
        ch_mult,
        num_res_blocks: found.res_blocks()?,
        attn_resolutions: attention.map(|level| resolution >> level).collect(),
        resolution,
        in_channels: found.size("in_channels", &["encoder.conv_in.weight:1"])?,
        out_ch: found.size("out_ch", &["decoder.conv_out.weight:0", "decoder.conv_out.bias:0"])?,
        z_channels,
        double_z: encoded == 2 * z_channels,
        dropout: 0.0,
        tanh_out: false,
        embed_dim: found
            .size("embed_dim", &[&widths[0], &widths[1], "quant_conv.weight:0", "post_quant_conv.weight:1"])?,
        n_embed: found.size("n_embed", &[&entries[0], &entries[1], "quantize.proj.weight:0"])?,
        used: found.dimension("quantize.used:0"),
        gumbel: found.any("quantize.embed.") || found.any("quantize.proj."),
        norm_groups: NORM_GROUPS,
    };
    config.validate()?;
    Ok(config)
}

struct Tensors<'a>(BTreeMap<&'a str, Vec<i64>>);

impl Tensors<'_> {
    /// A dimension `tensor:axis`.
    fn dimension(&self, place: &str) -> Option<i64> {
        let (name, axis) = place.rsplit_once(':')?;
        self.0.get(name)?.get(axis.parse::<usize>().ok()?).copied()
    }

    /// A size from the first of several places that is there.
    fn size(&self, what: &'static str, places: &[&str]) -> Result<i64, InferError> {
        let size = places.iter().find_map(|place| self.dimension(place));
        size.ok_or_else(|| {
            let names: Vec<&str> = places.iter().filter_map(|place| Some(place.rsplit_once(':')?.0)).collect();
            InferError::Missing { what, looked_for: names.join(", ") }
        })
    }

    fn under<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = &'s str> {
        self.0
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .map_while(move |(name, _)| name.strip_prefix(prefix))
    }

    fn any(&self, prefix: &str) -> bool {
        self.under(prefix).next().is_some()
    }

    /// One more than the largest number that follows one of the prefixes.
    fn count(&self, prefixes: &[&str]) -> usize {
        let rests = prefixes.iter().flat_map(|prefix| self.under(prefix));
        let numbers = rests.filter_map(|rest| rest.split('.').next()?.parse::<u16>().ok());
        numbers.max().map_or(0, |largest| usize::from(largest) + 1)
    }

    /// Channels of a level as a multiple of `ch`.
    fn multiple(&self, level: usize, ch: i64) -> Result<i64, InferError> {
        let places = ["conv1.weight", "conv2.weight", "conv1.bias", "conv2.bias", "norm2.weight"];
        let blocks = [format!("encoder.down.{level}.block.0"), format!("decoder.up.{level}.block.0")];
        let places: Vec<String> =
            blocks.iter().flat_map(|block| places.iter().map(move |place| format!("{block}.{place}:0"))).collect();
        let channels = self.size("ch_mult", &places.iter().map(String::as_str).collect::<Vec<_>>())?;
        match channels.checked_rem(ch) {
            Some(0) => Ok(channels / ch),
            _ => Err(InferError::Channels { level, channels, ch }),
        }
    }

    /// Residual blocks of a level of the encoder; the decoder has one more.
    fn res_blocks(&self) -> Result<i64, InferError> {
        let missing =
            || InferError::Missing { what: "num_res_blocks", looked_for: "encoder.down.0.block.0".to_owned() };
        let encoder = self.count(&["encoder.down.0.block."]);
        let blocks = if encoder > 0 { encoder } else { self.count(&["decoder.up.0.block."]).saturating_sub(1) };
        i64::try_from(blocks).ok().filter(|&blocks| blocks > 0).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shapes(config: &VqganConfig) -> Vec<(String, Vec<i64>)> {
        config.tensors().into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
    }

    fn infer_from(tensors: &[(String, Vec<i64>)], resolution: i64) -> Result<VqganConfig, InferError> {
        infer(tensors.iter().map(|(name, shape)| (name.as_str(), shape.clone())), resolution)
    }

    fn config() -> VqganConfig {
        VqganConfig {
            ch: 128,
            ch_mult: vec![1, 1, 2, 2, 4],
            num_res_blocks: 2,
            attn_resolutions: vec![16],
            resolution: 256,
            in_channels: 3,
            out_ch: 3,
            z_channels: 256,
            double_z: false,
            dropout: 0.0,
            tanh_out: false,
            embed_dim: 256,
            n_embed: 1024,
            used: None,
            gumbel: false,
            norm_groups: NORM_GROUPS,
        }
    }

    #[test]
    fn a_kl_autoencoder_is_refused_by_name() {
        let mut tensors = shapes(&config());
        let out = tensors.iter_mut().find(|(name, _)| name == "encoder.conv_out.weight").unwrap();
        out.1[0] = 512;
        let error = infer_from(&tensors, 256).unwrap_err().to_string();
        assert!(error.contains("double_z") && error.contains("KL autoencoder"), "{error}");
    }

    #[test]
    fn other_networks_and_small_resolutions_are_refused() {
        let error = infer_from(&[("fc.weight".to_owned(), vec![10, 10])], 256).unwrap_err();
        assert!(error.to_string().contains("not the weights of a VQGAN"), "{error}");
        assert_eq!(infer_from(&shapes(&config()), 8).unwrap_err(), InferError::Resolution { resolution: 8, levels: 5 });
        let mut odd = shapes(&config());
        odd.iter_mut().find(|(name, _)| name == "encoder.down.2.block.0.conv1.weight").unwrap().1[0] = 200;
        assert_eq!(infer_from(&odd, 256).unwrap_err(), InferError::Channels { level: 2, channels: 200, ch: 128 });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever the shape, its tensors tell it; and one tensor that is missing changes nothing, unless it alone knew.
        #[test]
        fn tensors_tell_the_shape(
            ch in 1i64..5, ch_mult in prop::collection::vec(1i64..5, 1..6), num_res_blocks in 1i64..4, attention in 0u8..32,
            z_channels in 1i64..40, embed_dim in 1i64..40, n_embed in 1i64..3000, used in prop::option::of(1i64..3000),
            gumbel: bool, removed: prop::sample::Index,
        ) {
            let levels = ch_mult.len();
            let expected = VqganConfig {
                ch: ch * 32,
                attn_resolutions: (0..levels).filter(|level| attention >> level & 1 == 1).map(|level| 256 >> level).collect(),
                num_res_blocks, z_channels, n_embed, gumbel,
                ch_mult: std::iter::once(1).chain(ch_mult.into_iter().skip(1)).collect(),
                embed_dim: if gumbel { z_channels } else { embed_dim },
                used: used.map(|used| used.min(n_embed)),
                ..config()
            };
            let mut tensors = shapes(&expected);
            prop_assert_eq!(&infer_from(&tensors, 256).unwrap(), &expected);
            let index = removed.index(tensors.len());
            let single = ["quantize.used", "encoder.conv_in.weight"];
            if !single.contains(&tensors[index].0.as_str()) {
                let (name, _) = tensors.remove(index);
                let inferred = infer_from(&tensors, 256);
                if name == "quantize.embedding.weight" {
                    // Nothing else of a nearest-entry quantizer has the number of entries.
                    prop_assert!(matches!(inferred, Err(InferError::Missing { what: "n_embed", .. })), "{inferred:?}");
                } else {
                    prop_assert_eq!(&inferred.unwrap(), &expected);
                }
            }
        }
    }
}
