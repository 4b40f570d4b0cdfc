//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
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
    },

    /// Check the tables under a URL: schema, provenance, counts, token range, checksums, gaps and strays.
    Verify {
        /// Where the tables are (the pipeline's output.url).
        url: String,
    },

    /// Look at latents: originals beside their reconstructions, as a PNG contact sheet or an HTML page.
    Gallery {
        /// Where the tables are (the pipeline's output.url).
        url: String,

        /// The file to write, ending in .html or .png. May be repeated.
        #[arg(long, required = true)]
        to: Vec<PathBuf>,

        /// How many images to show.
        #[arg(long, default_value_t = 64)]
        count: usize,

        /// Pairs in a row of the contact sheet. Default: as many as make it about 4:3.
        #[arg(long)]
        columns: Option<u32>,

        /// The tokenizer's weights, if they are not where the recorded pipeline says.
        #[arg(long)]
        tokenizer: Option<PathBuf>,
    },

    /// Turn a taming-transformers VQGAN checkpoint (.ckpt) into safetensors, without ever running the code in it.
    Import {
        /// The checkpoint files.
        #[arg(required = true)]
        checkpoints: Vec<PathBuf>,

        /// The model directory to write.
        #[arg(long)]
        to: PathBuf,

        /// The image side the network was trained at, which the weights do not tell.
        #[arg(long, default_value_t = 256)]
        resolution: i64,

        /// Replace weights that are already there.
        #[arg(long)]
        overwrite: bool,
    },

    /// The whole way on a small data set that it draws itself: shards, latents, verification, gallery.
    Demo {
        /// Where to put it.
        #[arg(long, default_value = "out/demo")]
        out: PathBuf,
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
