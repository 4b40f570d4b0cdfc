//! The data-set card: `README.md` beside samples or an export, in the form that the Hugging Face hub reads.
//!
//! It says how many images there are and what became of the others, how they were drawn and by what, and under which licence. All
//! of that follows from the tables, the run's identity and the pipeline file, so that a run that was interrupted has the card of
//! one that was not; it is written once all units are there. Its last line is a digest of what is above: a card that somebody has
//! edited, or a `README.md` that never was one, is left as it is.

mod counts;
mod text;

pub(super) use counts::Counts;
pub(super) use text::{Card, Form};

use super::JobError;
use crate::config::Pipeline;
use crate::digest::hex;
use crate::tables::{Decisions, OutputDir, Run, SamplesIdentity, SamplesReader};
use sha2::{Digest, Sha256};

/// The card's name.
pub(super) const CARD: &str = "README.md";
/// What begins its last line, up to the digest.
const SEAL: &str = "<!-- Written by imagebart, which leaves it alone once it is edited. SHA-256 of the lines above: ";
const SEAL_END: &str = " -->\n";
/// Several ranks may end at once, and one that begins may sweep another's stage of the card.
const TRIES: u32 = 5;

/// Writes the card beside the samples of `dir`, if all their units are there. `pipeline` is that of the run.
pub(super) async fn write(dir: &OutputDir<SamplesIdentity>, pipeline: &Pipeline) -> Result<(), JobError> {
    let samples = SamplesReader::open(dir.clone()).await.map_err(JobError::failed)?;
    if super::filter::check_finished(dir, &samples).await.is_err() {
        // Another process has the rest.
        return Ok(());
    }
    let there = dir.get(&dir.root().clone().join(CARD)).await.map_err(JobError::failed)?;
    if there.as_ref().is_some_and(|text| !is_ours(text)) {
        tracing::warn!(
            "{}/{CARD} was edited, or never was a card of imagebart, and is left as it is: take it away to have the card written",
            dir.place().trim_end_matches('/')
        );
        return Ok(());
    }
    let decisions = Decisions::read(dir).await.map_err(JobError::failed)?;
    let provenance = samples.provenance();
    let decisions = decisions.filter(|decisions| decisions.samples == provenance.identity.sha256());
    let counts = Counts::read(dir, &samples, decisions.as_ref()).await.map_err(JobError::failed)?;
    let card = Card { form: Form::Run, provenance, counts: &counts, section: &pipeline.card, pipeline: Some(pipeline) };
    let text = sealed(card.to_string());
    if there.is_some_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    for _ in 1..TRIES {
        if dir.put(CARD, text.clone()).await.is_ok() {
            return Ok(());
        }
    }
    dir.put(CARD, text).await.map_err(JobError::failed)
}

/// Takes away the card of samples that are about to be drawn anew, unless somebody has edited it.
pub(super) async fn clear(dir: &OutputDir<SamplesIdentity>) -> Result<(), JobError> {
    let path = dir.root().clone().join(CARD);
    match dir.get(&path).await.map_err(JobError::failed)? {
        Some(text) if is_ours(&text) => dir.delete(&path).await.map_err(JobError::failed),
        _ => Ok(()),
    }
}

/// The text with its digest behind it.
pub(super) fn sealed(text: String) -> String {
    let digest = hex(&Sha256::digest(text.as_bytes()));
    format!("{text}{SEAL}{digest}{SEAL_END}")
}

/// Whether a file is a card as it was written.
fn is_ours(file: &[u8]) -> bool {
    let own = || {
        let text = std::str::from_utf8(file).ok()?;
        let (above, digest) = text.strip_suffix(SEAL_END)?.rsplit_once(SEAL)?;
        Some(hex(&Sha256::digest(above.as_bytes())) == digest)
    };
    own() == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_card_is_told_from_one_of_ours() {
        let card = sealed("# A\n\nb\n".to_owned());
        assert!(is_ours(card.as_bytes()));
        assert!(card.ends_with("-->\n") && card.starts_with("# A\n\nb\n<!-- Written by imagebart"));
        for edited in [card.replace("# A", "# B"), format!("{card}more\n"), "# mine\n".to_owned(), String::new()] {
            assert!(!is_ours(edited.as_bytes()), "{edited}");
        }
        assert!(!is_ours(&[0xff, 0xfe]));
    }
}
