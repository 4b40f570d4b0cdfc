//! What a gallery's page says of its pictures: provenance, counts, what is missing.

use super::originals::Originals;
use super::page::Header;
use super::rows::Choice;
use super::{GalleryOptions, Tile};
use crate::config::Pipeline;
use crate::imaging::psnr;
use crate::tables::{Provenance, Run, SamplesIdentity};

/// Problems that a page lists in full.
const SHOWN_PROBLEMS: usize = 5;

/// The header of a page of reconstructions.
pub fn header(
    options: &GalleryOptions,
    provenance: &Provenance,
    recorded: Option<&Pipeline>,
    choice: &Choice,
    originals: &Originals,
) -> Header {
    let (shown, found) = (originals.pictures.len(), originals.pictures.iter().flatten().count());
    let mut notes: Vec<String> = originals.problems.iter().take(SHOWN_PROBLEMS).cloned().collect();
    if originals.problems.len() > SHOWN_PROBLEMS {
        notes.push(format!("{} more problems of this kind.", originals.problems.len() - SHOWN_PROBLEMS));
    }
    if found < shown {
        notes.push(format!("{} of {shown} originals were not found.", shown - found));
    }
    let identity = &provenance.identity;
    let image = &identity.preprocessing;
    let (rows, columns) = provenance.grid;
    let mut facts = vec![
        ("Tables", options.url.clone()),
        ("Identity", identity.sha256()),
        ("Tokenizer", identity.tokenizer.clone()),
        ("Tokens", format!("{rows} × {columns} of {} codes", provenance.codebook_size)),
        ("Dataset", identity.dataset.format.clone()),
        ("Image", format!("{0} × {0}, {1}, crop {2}, flip {3}", image.size, image.resize, image.crop, image.flip)),
        ("Encoded in", format!("{} on {}, batches of {}", identity.dtype, identity.device, identity.batch_size)),
        ("Seed", identity.seed.to_string()),
        ("Shown", format!("{shown} of the {} rows in {} files", choice.rows_seen, choice.files_seen)),
    ];
    if let Some(pipeline) = recorded {
        facts[4].1 = format!("{}, {}", identity.dataset.format, pipeline.dataset.url);
    }
    Header {
        title: "imagebart gallery".to_owned(),
        summary: format!(
            "{shown} samples: the picture the tokenizer was given, beside what it makes of the tokens. Point at a pair to lay \
             the original over the reconstruction."
        ),
        notes,
        facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

/// The header of a page of `shown` samples, without notes.
pub fn samples_header(
    url: &str,
    provenance: &Provenance<SamplesIdentity>,
    shown: usize,
    Choice { rows_seen, files_seen, more_files, .. }: &Choice,
) -> Header {
    let identity = &provenance.identity;
    let (rows, columns) = provenance.grid;
    let list = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(", ");
    let settings = &identity.settings;
    let top_k: Vec<String> = settings.top_k.iter().map(u32::to_string).collect();
    let mut facts = vec![
        ("Tables", url.to_owned()),
        ("Identity", identity.sha256()),
        ("Chain", identity.chain.clone()),
        ("Tokenizer", identity.tokenizer.clone()),
        ("Tokens", format!("{rows} × {columns} of {} codes", provenance.codebook_size)),
        ("Schedule", list(&identity.schedule)),
        ("Temperature", list(&settings.temperature)),
        ("Top-k", top_k.join(", ")),
        ("Top-p", list(&settings.top_p)),
        ("Guidance", list(&settings.guidance)),
        ("Classes", identity.rows.labels.clone()),
        ("Drawn in", format!("{} on {}, batches of {}", identity.dtype, identity.device, identity.batch_size)),
        ("Seed", identity.seed.to_string()),
        ("Shown", format!("{shown} of the {rows_seen} rows in {files_seen} files")),
    ];
    if let Some(large) = &identity.large {
        facts.push(("Window", format!("the chain's size, moved by at most {} tokens", large.stride)));
    }
    let some = match (*more_files, shown as u64 == *rows_seen) {
        (false, true) => String::new(),
        (false, false) => format!(", spread evenly over the {rows_seen} that are there; --count shows more"),
        (true, _) => format!(", spread evenly over the {rows_seen} of {files_seen} files; --count shows more"),
    };
    let summary = match &identity.edit {
        None => format!("{shown} samples{some}."),
        Some(edit) => {
            let repeats: Vec<String> = edit.repeats.iter().map(u32::to_string).collect();
            facts.push(("Drawn anew", edit.mode.clone()));
            facts.push(("Passes", format!("{} from scale 1 up, starting at scale {}", repeats.join(", "), edit.start)));
            format!("{shown} edited images{some}.")
        }
    };
    let facts = facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Header { title: "imagebart gallery".to_owned(), summary, notes: Vec::new(), facts }
}

/// Mean over the pairs of 10 log10(255² / mean square difference), in dB; none without pairs. Equal pictures count 99 dB.
pub fn mean_psnr<'a>(tiles: impl Iterator<Item = &'a Tile>) -> Option<f64> {
    let pairs = tiles.filter_map(|tile| Some(psnr(tile.original.found()?, &tile.picture)));
    let (count, sum) = pairs.fold((0u32, 0.0), |(count, sum), psnr| (count + 1, sum + psnr));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::super::Original;
    use super::*;
    use crate::imaging::Rgb;

    #[test]
    fn psnr_of_known_differences() {
        let picture = |value| Rgb { width: 2, height: 2, pixels: vec![value; 12] };
        let tile = |original: Option<Rgb>| Tile {
            original: original.map_or(Original::Missing, Original::Found),
            picture: picture(100),
        };
        let mean_psnr = |tiles: &[Tile]| mean_psnr(tiles.iter());
        assert_eq!(mean_psnr(&[tile(None)]), None);
        assert_eq!(mean_psnr(&[tile(Some(picture(100)))]), Some(99.0));
        let one_level = 20.0 * 255f64.log10();
        let found = mean_psnr(&[tile(Some(picture(101))), tile(None)]).unwrap();
        assert!((found - one_level).abs() < 1e-9, "{found}");
    }
}
