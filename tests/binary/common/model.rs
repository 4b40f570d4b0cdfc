//! A small chain on disk, what draws from it, and what it drew.

#[path = "../../chain/support.rs"]
pub mod support;

use imagebart::chain::directory::SCALE_PREFIX;
use imagebart::chain::{ChainConfig, ModelDirectory};
use imagebart::config::ConditionSection;
use imagebart::jobs::open_output;
use imagebart::tables::{SampleRow, SamplesIdentity, SamplesReader};
use imagebart::text::{WordCounts, train};
use imagebart::torch::weights::{self, Weights, WeightsFile};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Codes of the tokenizer, tokens of its grid, and pixels of an image's side.
pub const CODES: u32 = 64;
pub const TOKENS: usize = 64;
pub const SIDE: u32 = 32;

/// Two scales over 8 × 8 tokens of 64 codes: an encoder-decoder, and a GPT above it.
pub fn chain(condition: ConditionSection) -> ChainConfig {
    support::config(CODES, [8, 8], vec![support::encoder_decoder("residual-scaled"), support::gpt()], condition)
}

/// A model directory of [`chain`] at `root`.
pub fn model(root: &Path, condition: ConditionSection) {
    std::fs::create_dir_all(root).expect("folder");
    let file = root.join("tokenizer.safetensors");
    super::tokenizer(&file);
    let tokenizer = load(&file).0;
    let config = chain(condition);
    ModelDirectory::write_config(root, &config, tokenizer.fingerprint()).expect("chain.toml");
    for network in &config.networks {
        let weights = support::weights(network).expect("weights");
        ModelDirectory::write_scale(root, network.scales[0], &network.network, weights.tensors()).expect("scale");
    }
}

/// The tensors and the metadata of a file.
pub fn load(file: &Path) -> (Weights, BTreeMap<String, String>) {
    let mut file = WeightsFile::open(file).expect("a file of weights");
    (file.load_all().expect("its tensors"), file.metadata().clone())
}

/// Rewrites the tensors of scale `scale`, without the prefix in their names.
pub fn change_scale(root: &Path, scale: u32, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    let file = root.join(format!("scale-{scale}.safetensors"));
    let bare = |name: String| name.strip_prefix(SCALE_PREFIX).map(str::to_owned).expect("the released names");
    let (weights, metadata) = load(&file);
    let mut tensors = weights.into_tensors().into_iter().map(|(name, tensor)| (bare(name), tensor)).collect();
    change(&mut tensors);
    let named: BTreeMap<String, Tensor> =
        tensors.into_iter().map(|(name, tensor)| (format!("{SCALE_PREFIX}{name}"), tensor)).collect();
    weights::write(&file, &named, &metadata).expect("scale");
}

/// A pipeline file that draws from the model at `root`/model, which is made if it is not there: ten rows in units of four.
pub fn pipeline(root: &Path, condition: ConditionSection, more: &str) -> PathBuf {
    let directory = root.join("model");
    if !directory.exists() {
        model(&directory, condition);
    }
    let text = format!(
        "[image]\nsize = {SIDE}\n\n[chain]\nmodel = \"{}\"\n\n[tokenizer]\nbatch_size = 1\n\n[output]\nurl = \"{}\"\n\n\
         [run]\nseed = 7\nthreads = 1\n\n[sample]\ncount = 10\nunit_rows = 4\nbatch_size = 3\n{more}",
        directory.display(),
        root.join("out").display(),
    );
    let path = root.join("pipeline.toml");
    std::fs::write(&path, text).expect("pipeline");
    path
}

/// A model conditioned on texts of six tokens at `root`, and a pipeline that draws from it.
pub fn prompted(root: &Path) -> String {
    let mut words = WordCounts::new().expect("a counter");
    words.add("a red circle above a blue square").expect("words");
    let tokenizer = train(words, 330, Path::new("text-tokenizer.json")).expect("a tokenizer");
    let vocabulary = u32::try_from(tokenizer.vocabulary()).expect("a small one");
    let file = pipeline(root, support::text(vocabulary, 6), "");
    std::fs::write(root.join("model/text-tokenizer.json"), tokenizer.bytes()).expect("text tokenizer");
    file.to_str().expect("a path").to_owned()
}

/// All rows of the samples at `out`, in order.
pub fn rows(out: &Path) -> Vec<SampleRow> {
    use futures::TryStreamExt;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let dir = open_output(out.to_str().expect("a path"), false).await.expect("the output");
        let reader = SamplesReader::open(dir.of::<SamplesIdentity>()).await.expect("samples");
        reader.rows().try_collect().await.expect("rows")
    })
}

/// The token grids of the samples at `out`.
pub fn tokens(out: &Path) -> Vec<Vec<u16>> {
    rows(out).into_iter().map(|row| row.tokens).collect()
}
