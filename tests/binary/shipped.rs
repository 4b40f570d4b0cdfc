//! The trained chain that comes with the program, judged: a gate for whatever changes what it draws.

use imagebart::chain::SettingsLists;
use imagebart::jobs::demo::artist::Completing;
use imagebart::jobs::demo::evaluate::{EvaluateOptions, evaluate};
use imagebart::torch::device::DeviceChoice;
use std::num::NonZeroUsize;
use std::path::Path;

/// 40 captions of the test, in wide bounds: `examples/shapes/README.md` has the figures of 200.
#[test]
fn the_shipped_chain_draws_what_captions_say() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shapes/model");
    let files = std::fs::read_dir(&model).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    let bytes: u64 = files.sum();
    assert!(bytes <= 12_000_000, "{bytes} bytes are more than the repository is to carry");

    let options = EvaluateOptions {
        model,
        to: None,
        count: 40,
        seed: 1,
        device: DeviceChoice::Cpu,
        settings: SettingsLists { guidance: vec![1.5], ..SettingsLists::default() },
        threads: NonZeroUsize::MIN,
        completing: Completing { repeats: vec![1; 3], candidates: vec![1, 1, 24], draws: 1 },
    };
    let evaluation = evaluate(&options).unwrap();
    assert_eq!(evaluation.scales, 3);
    assert!(evaluation.psnr >= 30.0, "{evaluation}");
    assert!(evaluation.reconstructions.attributes >= 0.97, "{evaluation}");
    assert!(evaluation.drawn.attributes >= 0.88, "{evaluation}");
    assert!(evaluation.bits_per_token <= 0.3, "{evaluation}");
    assert!(evaluation.lower.with_caption.shapes >= 0.8, "{evaluation}");
    assert!(evaluation.upper.with_caption.shapes >= 0.35, "{evaluation}");
}
