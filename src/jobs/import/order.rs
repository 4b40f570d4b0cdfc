//! Which checkpoint is which scale: as the configs say, else in the order they are given.

use super::ImportError;
use super::scale::Scale;
use crate::transformer::NetworkConfig;
use std::path::Path;

/// A checkpoint and the scales it serves.
pub(super) type Placed = (Scale, Vec<u32>);

/// Number of scales T, and the checkpoints from scale 1 up.
///
/// # Errors
/// Scales that are missing or there twice, a GPT that is not last, numbers of scales that disagree.
pub(super) fn in_order(scales: Vec<Scale>) -> Result<(u32, Vec<Placed>), ImportError> {
    let total = total(&scales)?;
    let by_config = scales.iter().all(|scale| scale.config.is_some());
    let mut placed = Vec::with_capacity(scales.len());
    let alone = scales.len() == 1;
    for (scale, given) in scales.into_iter().zip(1..) {
        let served = match &scale.config {
            Some(config) => config.single_scale.map_or_else(|| (1..=total).collect(), |scale| vec![scale]),
            None if alone => vec![only_scale(&scale, total)?],
            None => vec![given],
        };
        placed.push((scale, served));
    }
    placed.sort_by_key(|(_, served)| served.first().copied());
    check_complete(&placed, total)?;
    for (scale, served) in &placed {
        check_place(scale, served, total, by_config)?;
    }
    Ok((total, placed))
}

/// The number of scales, on which all agree.
fn total(scales: &[Scale]) -> Result<u32, ImportError> {
    let sources = scales.iter().flat_map(|scale| {
        let config = scale.config.as_ref().map(|config| (config.path.clone(), config.scales));
        let checkpoint = scale.cumulative.as_ref().map(|alphas| (scale.path.clone(), alphas.len() as u32 - 1));
        config.into_iter().chain(checkpoint)
    });
    let mut first = None;
    for (path, scales) in sources {
        match &first {
            None => first = Some((path, scales)),
            Some((_, same)) if *same == scales => {}
            Some((earlier, others)) => {
                let first = (earlier.clone(), others.to_string());
                return Err(ImportError::disagree("the number of scales", first, (path, scales.to_string())));
            }
        }
    }
    first.map(|(_, scales)| scales).ok_or(ImportError::Nothing)
}

/// The scale of the only checkpoint, without a config: a chain of one scale, or nothing that can be told.
fn only_scale(scale: &Scale, total: u32) -> Result<u32, ImportError> {
    if total == 1 {
        return Ok(1);
    }
    let detail = format!(
        "is one network of a chain of {total} scales: give the checkpoints of all of them, from scale 1 up, or its \
         --config if it serves all of them"
    );
    Err(ImportError::Order { path: scale.path.clone(), detail })
}

/// Every scale once.
fn check_complete(placed: &[Placed], total: u32) -> Result<(), ImportError> {
    let mut holders: Vec<Option<&Path>> = vec![None; total as usize + 1];
    for (scale, served) in placed {
        for &number in served {
            let beyond = || {
                let detail = format!("would be scale {number} of a chain of {total}: too many checkpoints are given");
                ImportError::Order { path: scale.path.clone(), detail }
            };
            let holder = holders.get_mut(number as usize).ok_or_else(beyond)?;
            if let Some(first) = holder.replace(&scale.path) {
                let (first, second) = (first.to_owned(), scale.path.clone());
                return Err(ImportError::Duplicate { scale: number, first, second });
            }
        }
    }
    let missing = holders.iter().zip(0..).skip(1).filter(|(holder, _)| holder.is_none());
    let missing: Vec<String> = missing.map(|(_, scale): (_, u32)| format!("scale {scale}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(ImportError::Missing { scales: total, missing: missing.join(", ") })
}

/// What speaks against a checkpoint's place.
fn check_place(scale: &Scale, served: &[u32], total: u32, by_config: bool) -> Result<(), ImportError> {
    let order = |detail: String| Err(ImportError::Order { path: scale.path.clone(), detail });
    let place = match by_config {
        true => format!("is scale {} by its config", list(served)),
        false => format!("is given as scale {}", list(served)),
    };
    if matches!(scale.network, NetworkConfig::Gpt(_)) && served != [total] {
        return order(format!(
            "{place}, but it holds a GPT, which never sees x_t and can only be scale {total}, the last one: give the \
             checkpoints from scale 1 up"
        ));
    }
    if let Some(trained) = scale.trained_scale.filter(|_| served.len() == 1).filter(|trained| served != [*trained]) {
        return order(format!("{place}, but its log_scalors were trained for scale {trained}"));
    }
    match named_scale(&scale.path) {
        Some(named) if !by_config && served != [named] => order(format!(
            "{place}, and its name says {named}: give the checkpoints from scale 1 up, or their --config"
        )),
        _ => Ok(()),
    }
}

fn list(served: &[u32]) -> String {
    served.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// The number after `scale` in a file's name: `scale3.ckpt`, `ffhq-scale_3-last.ckpt`.
fn named_scale(path: &Path) -> Option<u32> {
    let name = path.file_stem()?.to_str()?.to_ascii_lowercase();
    let (_, rest) = name.rsplit_once("scale")?;
    let digits = rest.trim_start_matches(['-', '_', ' ']);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_scales() {
        let named = |name: &str| named_scale(Path::new(name));
        assert_eq!(named("models/x/scale3.ckpt"), Some(3));
        assert_eq!(named("FFHQ-Scale_12-last.ckpt"), Some(12));
        assert_eq!(named("5_scales/last.ckpt"), None);
        assert_eq!(named("ffhq_4_scales.ckpt"), None);
        assert_eq!(named("last.ckpt"), None);
    }
}
