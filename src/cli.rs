//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use imagebart::jobs::export::ExportFormat;
use std::path::PathBuf;

/// Image datasets to discrete latents, streaming from object storage to Parquet.
#[derive(Debug, Parser)]
#[command(name = "imagebart", version, about, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,

    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Where tensors are computed: cpu, cuda, cuda:N, or auto (CUDA when it can be used).
    #[arg(long, global = true, default_value = "auto")]
    pub device: String,

    /// Seed of every random draw (overrides run.seed of the pipeline file).
    #[arg(long, global = true)]
    pub seed: Option<u64>,

    /// This process's number, from 0, when several share the work. Default: torchrun's, Slurm's or Kubernetes' variables.
    #[arg(long, global = true)]
    pub rank: Option<u32>,

    /// How many processes share the work.
    #[arg(long, global = true)]
    pub world: Option<u32>,

    /// Log lines as text for people or JSON for machines.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Print what would be done (units, shapes, parameters, memory) and touch nothing.
    #[arg(long, global = true)]
    pub dry_run: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// A pipeline file and what overrides it.
#[derive(Clone, Debug, Args)]
pub struct PipelineArgs {
    /// The pipeline file (TOML); see pipelines/ for examples.
    pub pipeline: PathBuf,

    /// Override a key of the pipeline file. May be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// What to import.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// The checkpoint files, from scale 1 up unless --config tells. A --config that lists them needs none here.
    #[arg(required_unless_present = "config")]
    pub checkpoints: Vec<PathBuf>,

    /// The model directory to write.
    #[arg(long)]
    pub to: PathBuf,

    /// The authors' YAML: that of each checkpoint in the same order, or one that lists checkpoints and configs.
    #[arg(long)]
    pub config: Vec<PathBuf>,

    /// The averaged weights, which the authors sample with, or those of the last training step.
    #[arg(long, value_enum, default_value_t = WhichWeights::Ema)]
    pub weights: WhichWeights,

    /// The chain's tokenizer, if it is not the checkpoints' first stage: a VQGAN's .ckpt, or a tokenizer.safetensors.
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,

    /// Take the VQGAN alone, also of a checkpoint that holds more.
    #[arg(long)]
    pub tokenizer_only: bool,

    /// What encoder-decoders add to their logits, where they have log_scalors and no --config tells.
    #[arg(long, value_enum)]
    pub variant: Option<WhichVariant>,

    /// Heads of a GPT, where no --config tells; 16 in all released models.
    #[arg(long)]
    pub heads: Option<i64>,

    /// Number of classes, 0 for none. Default: as the --config says, else as the networks' sizes suggest.
    #[arg(long)]
    pub classes: Option<u32>,

    /// The image side the VQGAN was trained at, which the weights do not tell. Default: as the --config says, else 256.
    #[arg(long)]
    pub resolution: Option<i64>,

    /// Replace a model that is already there.
    #[arg(long)]
    pub overwrite: bool,
}

/// Which weights of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhichWeights {
    Ema,
    Raw,
}

/// What a gallery shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhichTable {
    Latents,
    Samples,
}

/// What an encoder-decoder adds to its logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhichVariant {
    Scaled,
    Residual,
    ResidualScaled,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Turn the images of a dataset into latents: Parquet tables of token grids.
    ///
    /// Work is committed unit by unit. Run the same command again after an interruption: only what is missing is done.
    Encode {
        #[command(flatten)]
        pipeline: PipelineArgs,

        /// Delete the latents and rejects that are there, and start anew.
        #[arg(long)]
        overwrite: bool,

        /// Try the rejected images of finished units again, into files beside theirs: those with the given reasons
        /// (decode_error, truncated, …), or all.
        #[arg(long, value_name = "REASON", num_args = 0.., conflicts_with = "overwrite")]
        retry_rejects: Option<Vec<String>>,
    },

    /// Keep only the codes that latents use: a smaller tokenizer, and the latents in its terms.
    ///
    /// Tokens whose code is not kept get a random one, as in the paper. The latents that are there stay as they are.
    Shrink {
        #[command(flatten)]
        pipeline: PipelineArgs,

        /// Replace a tokenizer and latents that are already there.
        #[arg(long)]
        overwrite: bool,
    },

    /// Train the networks of a chain on latents, and write them into the model directory.
    ///
    /// Run the same command again after an interruption: it goes on from the last checkpoint. Several processes may train a chain,
    /// each a scale of its own.
    Train {
        #[command(flatten)]
        pipeline: PipelineArgs,

        /// Train only the network of this scale (1 is the finest). May be repeated.
        #[arg(long, value_name = "T")]
        scale: Vec<u32>,

        /// Delete the checkpoints that are there, and start anew.
        #[arg(long)]
        overwrite: bool,
    },

    /// Train a tokenizer, a VQGAN, on the images of a dataset.
    ///
    /// Checkpoints are written as it goes. Run the same command again after an interruption: it goes on from the newest one.
    TrainTokenizer {
        #[command(flatten)]
        pipeline: PipelineArgs,

        /// Delete the checkpoints that are there and start anew; replace a tokenizer that is already there.
        #[arg(long)]
        overwrite: bool,
    },

    /// Draw images from a chain: Parquet tables with tokens, images and seeds.
    ///
    /// Work is committed unit by unit. Run the same command again after an interruption: only what is missing is done.
    Sample {
        #[command(flatten)]
        pipeline: PipelineArgs,

        /// How many images to draw, or how many of each row of the prompts that does not say (overrides sample.count).
        #[arg(long)]
        count: Option<u64>,

        /// A table of texts or classes to draw: .parquet, .csv, .jsonl, or plain text, one a line; a local path or a URL
        /// (overrides sample.prompts).
        #[arg(long, value_name = "FILE")]
        prompts: Option<String>,

        /// Delete the samples that are there, and start anew.
        #[arg(long)]
        overwrite: bool,

        /// Draw this one image of a run again, from the batch that held it, and compare it with the one in the table.
        #[arg(long, conflicts_with = "overwrite")]
        key: Option<String>,

        /// The file that --key writes. Default: the image's name, in the current directory.
        #[arg(long, value_name = "FILE", requires = "key")]
        to: Option<PathBuf>,

        /// Let --key draw an image of a run of another class of device, where it may be another.
        #[arg(long, requires = "key")]
        force: bool,
    },

    /// Draw parts of images anew: what a mask says, a half (edit.mode), or margins around them.
    ///
    /// Each image has a mask of its name and size, white where the image is to stay (edit.white says otherwise). Work is committed
    /// unit by unit. Run the same command again after an interruption: only what is missing is done.
    Edit {
        #[command(flatten)]
        pipeline: PipelineArgs,

        /// A folder of images, or a .parquet with the columns image and mask: a local path or a URL (overrides edit.images).
        #[arg(long)]
        images: Option<String>,

        /// A folder of masks (overrides edit.masks).
        #[arg(long)]
        masks: Option<String>,

        /// How many images to draw over each, unless its row says (overrides edit.count).
        #[arg(long)]
        count: Option<u64>,

        /// Delete the samples that are there, and start anew.
        #[arg(long)]
        overwrite: bool,
    },

    /// Measure how good a tokenizer and a chain are: reconstruction, generation, likelihood.
    ///
    /// Writes evaluation.json, evaluation.parquet and evaluation.html. What is measured depends on what the pipeline has: see
    /// docs/evaluate.md.
    Evaluate {
        /// The pipeline file (TOML); see pipelines/ for examples.
        #[arg(required_unless_present = "compare")]
        pipeline: Option<PathBuf>,

        /// Override a key of the pipeline file. May be repeated.
        #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
        overrides: Vec<String>,

        /// Tell FID and the like of fewer than 2048 rows, too, and of singular covariances.
        #[arg(long)]
        force: bool,

        /// Compare two evaluations, by their evaluation.json or its folder, and say which differences are within noise.
        #[arg(long, num_args = 2, value_names = ["FIRST", "SECOND"], conflicts_with_all = ["pipeline", "overrides", "force"])]
        compare: Vec<PathBuf>,
    },

    /// Decide what of a run's samples is kept: duplicates, copies of training data, caps and rates over the whole run.
    ///
    /// The decisions are a table of their own beside the samples, which never change.
    Filter {
        #[command(flatten)]
        pipeline: PipelineArgs,

        /// Replace decisions of other rules, or about other samples.
        #[arg(long)]
        overwrite: bool,
    },

    /// Write what was accepted and kept of a run's samples as a data set: WebDataset shards, or a folder of images.
    Export {
        /// Where the samples are (the pipeline's output.url).
        url: String,

        /// How the data set is to lie on the disk.
        #[arg(long, value_enum)]
        format: ExportFormat,

        /// A new or empty place for it: a local path or a URL.
        #[arg(long)]
        to: String,

        /// Images of a shard, or of a folder.
        #[arg(long, default_value_t = 1000)]
        per_shard: u64,

        /// The licence to write into the data-set card, such as cc-by-4.0.
        #[arg(long)]
        licence: Option<String>,

        /// Write over what is there.
        #[arg(long)]
        overwrite: bool,
    },

    /// Check the tables under a URL: schema, provenance, counts, token range, checksums, gaps and strays.
    Verify {
        /// Where the tables are (the pipeline's output.url).
        url: String,
    },

    /// Look at what was made, as a PNG contact sheet or an HTML page: samples, or originals beside their reconstructions.
    Gallery {
        /// Where the tables are (the pipeline's output.url).
        url: String,

        /// The file to write, ending in .html or .png. May be repeated.
        #[arg(long, required = true)]
        to: Vec<PathBuf>,

        /// How many images to show.
        #[arg(long, default_value_t = 64)]
        count: usize,

        /// Pairs or samples in a row of the contact sheet. Default: as many as make it about 4:3.
        #[arg(long)]
        columns: Option<u32>,

        /// The tokenizer's weights, if they are not where the recorded pipeline says.
        #[arg(long)]
        tokenizer: Option<PathBuf>,

        /// Which table to show. Default: the latents where there are any, else the samples.
        #[arg(long, value_enum)]
        table: Option<WhichTable>,
    },

    /// Turn released PyTorch checkpoints (.ckpt) into a model directory, without ever running the code in them.
    ///
    /// Checkpoints of an ImageBART chain become tokenizer, networks and chain.toml; a taming-transformers VQGAN alone becomes
    /// tokenizer.safetensors.
    Import(Box<ImportArgs>),

    /// Learn a text tokenizer from the captions of latents: a byte-level BPE, as tokenizer.json.
    TrainTextTokenizer {
        /// Where the tables are (the pipeline's output.url).
        url: String,

        /// The file to write.
        #[arg(long)]
        to: PathBuf,

        /// How many token ids to have at most, 256 single bytes included.
        #[arg(long, default_value_t = 8192)]
        vocabulary: u32,

        /// Replace a file that is already there.
        #[arg(long)]
        overwrite: bool,
    },

    /// Draw the demo's captioned shapes as a data set to train on: WebDataset shards in three splits.
    ///
    /// Shards that are there are kept.
    DemoData {
        /// Where to put it.
        #[arg(long, default_value = "out/shapes/data")]
        out: PathBuf,

        /// Pictures to train on.
        #[arg(long, default_value_t = 32_000)]
        training: u64,

        /// Pictures to validate with.
        #[arg(long, default_value_t = 1000)]
        validation: u64,

        /// Pictures to test with.
        #[arg(long, default_value_t = 1000)]
        test: u64,

        /// Pictures of a shard.
        #[arg(long, default_value_t = 2000)]
        per_shard: u64,

        /// Captions of the test that are listed in test-captions.txt.
        #[arg(long, default_value_t = 200)]
        captions: u64,
    },

    /// Judge how well a chain draws the demo's shapes, on captions and pictures that it was never trained on.
    DemoEval {
        /// The model directory.
        model: PathBuf,

        /// A folder for evaluation.json and evaluation.md.
        #[arg(long)]
        to: Option<PathBuf>,

        /// Captions, and pictures of the test.
        #[arg(long, default_value_t = 200)]
        count: u64,

        /// Divides the logits: a number, or one for each scale from 1 up.
        #[arg(long, value_delimiter = ',')]
        temperature: Vec<f32>,

        /// Draws among this many of the likeliest tokens.
        #[arg(long, value_delimiter = ',')]
        top_k: Vec<u32>,

        /// Draws from the smallest set of tokens with this much probability.
        #[arg(long, value_delimiter = ',')]
        top_p: Vec<f32>,

        /// Classifier-free guidance; 1 is none.
        #[arg(long, value_delimiter = ',')]
        guidance: Vec<f32>,

        /// How often each scale runs in completions, from scale 1 up; `edit`'s default if left out.
        #[arg(long, value_delimiter = ',')]
        repeats: Vec<u32>,

        /// Candidates of each scale's passes in completions, from scale 1 up; one each if left out.
        #[arg(long, value_delimiter = ',')]
        candidates: Vec<u32>,

        /// Completions that are drawn of each torn picture; the likeliest is judged.
        #[arg(long, default_value_t = 1)]
        draws: u64,
    },

    /// Copy a model directory with its weights as 16-bit floats: half the bytes.
    Half {
        /// The model directory.
        model: PathBuf,

        /// The directory to write.
        #[arg(long)]
        to: PathBuf,

        /// Replace a model that is already there.
        #[arg(long)]
        overwrite: bool,
    },

    /// The whole way on a small data set that it draws itself: shards, latents, verification, gallery.
    Demo {
        /// Where to put it.
        #[arg(long, default_value = "out/demo")]
        out: PathBuf,

        /// Draw with this model directory instead of the trained model that comes with the program.
        #[arg(long)]
        model: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
