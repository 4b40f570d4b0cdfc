//! `imagebart train-text-tokenizer`: captions of the latents -> tokenizer.json.

use super::{JobError, open_output, refusal};
use crate::tables::{LatentRow, LatentsReader, TableError};
use crate::text::{TextError, TextTokenizer, WordCounts, train};
use futures::TryStreamExt;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Captions whose lengths in tokens are told at the end.
const SAMPLE: usize = 2000;

/// Where captions are read and the tokenizer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextTokenizerOptions {
    /// Where the tables are: the pipeline's `output.url`.
    pub url: String,
    /// The file to write, on a local disk.
    pub to: PathBuf,
    /// How many ids to have at most.
    pub vocabulary: u32,
    /// Replace a file that is there.
    pub overwrite: bool,
}

/// What was learned. Displays as lines for the user.
#[derive(Clone, Debug, PartialEq)]
pub struct TextTokenizerSummary {
    pub to: PathBuf,
    /// Number of ids.
    pub vocabulary: i64,
    /// Captions that were learned from, one for each image however many crops it has, and images without.
    pub captions: u64,
    pub without: u64,
    /// Distinct words, and those forgotten because there were too many.
    pub words: usize,
    pub forgotten: u64,
    /// Tokens of the median, the 99th of a hundred, and the longest of the first captions.
    pub lengths: [usize; 3],
    pub fingerprint: String,
}

impl fmt::Display for TextTokenizerSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, most, longest] = self.lengths;
        writeln!(
            f,
            "{}: {} ids, from {} captions of {} words",
            self.to.display(),
            self.vocabulary,
            self.captions,
            self.words
        )?;
        if self.without > 0 {
            writeln!(f, "{} images have no caption", self.without)?;
        }
        if self.forgotten > 0 {
            writeln!(
                f,
                "{} rare words were not learned from: more than {} are not kept",
                self.forgotten,
                crate::text::MAX_WORDS
            )?;
        }
        write!(
            f,
            "a caption takes {median} tokens (median of the first {}), 99 in 100 take at most {most}, the longest {longest}: \
             condition.length should be about {most}",
            self.captions.min(SAMPLE as u64)
        )
    }
}

/// What [`train_text_tokenizer`] would do, for `--dry-run`.
pub async fn describe(options: &TextTokenizerOptions) -> Result<String, JobError> {
    check_target(options)?;
    let latents = LatentsReader::open(open_output(&options.url, false).await?).await.map_err(refusal)?;
    let (files, to) = (latents.files().len(), options.to.display());
    Ok(format!("captions of the {files} files at {} to {to}, at most {} ids", options.url, options.vocabulary))
}

/// Learns a text tokenizer from the captions of an output directory.
///
/// # Errors
/// [`JobError::Usage`], before any work, when nothing is there or the target cannot be used; when there are no captions.
pub async fn train_text_tokenizer(options: &TextTokenizerOptions) -> Result<TextTokenizerSummary, JobError> {
    check_target(options)?;
    let latents = LatentsReader::open(open_output(&options.url, false).await?).await.map_err(refusal)?;
    let captions = read(&latents).await?;
    let Captions { words, sample, without } = captions;
    let (count, known, forgotten) = (words.captions(), words.words(), words.forgotten());
    if known == 0 {
        return Err(JobError::Failed(format!(
            "the latents at {} have no captions ({without} images): encode a dataset that has them (dataset.captions)",
            options.url
        )));
    }
    let (to, vocabulary) = (options.to.clone(), options.vocabulary);
    let learned = tokio::task::spawn_blocking(move || {
        let tokenizer = train(words, vocabulary, &to)?;
        let lengths = lengths(&tokenizer, &sample)?;
        write(&to, tokenizer.bytes())?;
        Ok::<_, TextError>((tokenizer, lengths))
    });
    let (tokenizer, lengths) = learned.await.map_err(JobError::failed)?.map_err(JobError::failed)?;
    Ok(TextTokenizerSummary {
        to: options.to.clone(),
        vocabulary: tokenizer.vocabulary(),
        captions: count,
        without,
        words: known,
        forgotten,
        lengths,
        fingerprint: tokenizer.fingerprint().to_owned(),
    })
}

fn check_target(options: &TextTokenizerOptions) -> Result<(), JobError> {
    let to = options.to.display().to_string();
    if to.contains("://") {
        return Err(JobError::Usage(format!("{to} is a URL; the text tokenizer is written to a local file")));
    }
    if options.to.exists() && !options.overwrite {
        return Err(JobError::Usage(format!("{to} is there already: give --overwrite to replace it")));
    }
    if options.vocabulary < crate::text::MIN_VOCABULARY {
        let error = TextError::Vocabulary { vocabulary: options.vocabulary };
        return Err(JobError::Usage(error.to_string()));
    }
    Ok(())
}

/// What the tables' captions gave.
struct Captions {
    words: WordCounts,
    /// The first captions.
    sample: Vec<String>,
    /// Images without a caption.
    without: u64,
}

/// Counts the captions of all files, one for each image, one batch of rows in memory at a time.
async fn read(latents: &LatentsReader) -> Result<Captions, JobError> {
    let words = WordCounts::new().map_err(JobError::failed)?;
    let mut captions = Captions { words, sample: Vec::new(), without: 0 };
    for file in latents.files() {
        let mut rows = latents.file(file).await.and_then(|file| file.rows()).map_err(refusal)?;
        let mut last = None;
        while let Some(row) = rows.try_next().await.map_err(|error: TableError| JobError::failed(error))? {
            // Crops and mirror images of one picture share its index.
            if last.replace(row.index) != Some(row.index) {
                captions.add(row)?;
            }
        }
    }
    Ok(captions)
}

impl Captions {
    fn add(&mut self, row: LatentRow) -> Result<(), JobError> {
        match row.caption.filter(|caption| !caption.trim().is_empty()) {
            None => self.without += 1,
            Some(caption) => {
                self.words.add(&caption).map_err(JobError::failed)?;
                if self.sample.len() < SAMPLE {
                    self.sample.push(caption);
                }
            }
        }
        Ok(())
    }
}

/// Tokens of the median, the 99th of a hundred and the longest of the captions.
fn lengths(tokenizer: &TextTokenizer, captions: &[String]) -> Result<[usize; 3], TextError> {
    let mut lengths = captions.iter().map(|caption| tokenizer.length(caption)).collect::<Result<Vec<_>, _>>()?;
    lengths.sort_unstable();
    let at = |share: usize| lengths.get((lengths.len() * share / 100).min(lengths.len() - 1)).copied();
    Ok([at(50), at(99), lengths.last().copied()].map(|length| length.unwrap_or(0)))
}

/// Writes a file under its final name when it is whole.
fn write(path: &Path, bytes: &[u8]) -> Result<(), TextError> {
    let failed = |source| TextError::Write { path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let partial = PathBuf::from(format!("{}.partial", path.display()));
    let mut file = fs::File::create(&partial).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)
}
