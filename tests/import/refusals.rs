//! What `imagebart import` refuses of chains, in which words, and that it then leaves nothing behind.

use crate::chain_checkpoints::{Repository, SCALES, State, checkpoint, names, network, state};
use crate::pytorch::{FORMATS, Format, Storage, attacks, call};
use imagebart::chain::ModelDirectory;
use imagebart::jobs::import::{ImportOptions, describe, import};
use imagebart::transformer::{NetworkConfig, Variant};
use std::process::Command;

fn options(repository: &Repository) -> ImportOptions {
    ImportOptions { configs: repository.configs(), ..bare(repository) }
}

/// Without configs, but with what then has to be said.
fn bare(repository: &Repository) -> ImportOptions {
    ImportOptions {
        variant: Some(Variant::ResidualScaled),
        heads: Some(2),
        ..ImportOptions::new(repository.checkpoints(), repository.to())
    }
}

/// The message of an import that fails and leaves nothing behind.
fn refused(repository: &Repository, options: &ImportOptions) -> String {
    let message = import(options).unwrap_err().to_string();
    assert_eq!(repository.written(), Vec::<String>::new(), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

/// The message for checkpoints of which each was changed.
fn refused_after(change: &dyn Fn(u32, &mut State)) -> String {
    let repository = Repository::new(Format::Zip, false, change);
    refused(&repository, &options(&repository))
}

fn assert_contains(message: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn missing_mismatched_and_surplus_tensors_are_named() {
    let message = refused_after(&|scale, state| {
        if scale == 2 {
            state.remove("transformer_ema.encodernormweight");
            state.floats("transformer_ema.decodernormbias", &[3], &[0.0; 3]);
            state.floats("transformer_ema.encoderextra", &[1], &[0.0]);
        }
    });
    let parts = ["scale2.ckpt", "scale2.yaml describes", "missing (1): transformer_ema.encodernormweight"];
    assert_contains(&message, &parts);
    let parts = ["transformer_ema.decodernormbias (is [3], must be [12])", "unused (1): transformer_ema.encoderextra"];
    assert_contains(&message, &parts);

    // A checkpoint with more layers than its config is another model, not one with unused tensors.
    let repository = Repository::new(Format::Zip, false, &|_, _| {});
    repository.edit("configs/scale3.yaml", "n_layer: 2", "n_layer: 1");
    let message = refused(&repository, &options(&repository));
    assert_contains(&message, &["scale3.ckpt", "unused (16): transformer_ema.blocks1attnkeybias"]);

    let message = refused_after(&|_, state| {
        let value = &mut state.entries.iter_mut().find(|(name, _)| name == "transformer_ema.lognothing");
        assert!(value.is_none());
        let (_, value) = state
            .entries
            .iter_mut()
            .find(|(name, _)| name == "transformer_ema.decodernormbias" || name.ends_with("ln_fbias"))
            .unwrap();
        *value = call("my.tensors", "rebuild", vec![value.clone()]);
    });
    assert_contains(&message, &["scale1.ckpt", "transformer_ema.decodernormbias", "my.tensors.rebuild"]);
}

#[test]
fn what_nobody_knows_is_listed_and_left_out() {
    let repository = Repository::new(Format::Zip, false, &|scale, state| {
        if scale == 1 {
            state.floats("discriminator.main.weight", &[2], &[0.0; 2]);
            state.floats("transformer.extra", &[2], &[0.0; 2]);
            state.floats("first_stage_model.loss.logvar", &[], &[0.0]);
        }
    });
    let imagebart::jobs::import::Imported::Chain(report) = import(&options(&repository)).unwrap() else { panic!() };
    assert_eq!(report.scales[0].rest.unused, ["discriminator.main.weight", "transformer.extra"]);
    assert_eq!(report.scales[0].rest.dropped, ["first_stage_model.loss.logvar"]);
    assert_contains(&report.to_string(), &["unused (2): discriminator.main.weight, transformer.extra"]);
}

#[test]
fn configs_and_checkpoints_must_agree() {
    let edited = |name: &str, from: &str, to: &str| {
        let repository = Repository::new(Format::Zip, false, &|_, _| {});
        repository.edit(name, from, to);
        refused(&repository, &options(&repository))
    };
    let message = edited("configs/scale2.yaml", "redraw_prob: geometric", "redraw_prob: bernoulli_PSIM");
    assert_contains(&message, &["the schedule", "scale1.yaml", "scale2.yaml", "[1.0, 0.66666", "[1.0, 0.848"]);
    let message = edited("configs/scale1.yaml", "redraw_prob: geometric", "redraw_prob: linear");
    assert_contains(&message, &["scale1.yaml", "linear"]);
    let message = edited("configs/scale1.yaml", "n_scales: 3\n    single", "n_scales: 4\n    single");
    assert_contains(&message, &["the number of scales is 4 in", "scale1.yaml, but 3 in", "scale1.ckpt"]);
    let message = edited("configs/scale2.yaml", "single_scale: 2", "single_scale: 1");
    assert_contains(&message, &["both", "scale1.ckpt", "scale2.ckpt", "are scale 1"]);
    let message = edited("configs/scale3.yaml", "n_unmasked: 0", "n_unmasked: 4");
    assert_contains(&message, &["n_unmasked", "is 4 in", "scale3.yaml", "scale3.ckpt"]);
    let message = edited("configs/scale1.yaml", "ch_mult: [ 1,2 ]", "ch_mult: [ 1,4 ]");
    assert_contains(&message, &["the shape of the first stage", "scale1.yaml", "scale1.ckpt"]);
    let message = edited("configs/scale1.yaml", "dec_num_tokens: 5", "dec_num_tokens: x");
    assert_contains(&message, &["scale1.yaml", "dec_num_tokens = \"x\" is not a whole number"]);

    // The buffers against one another, and a schedule that is none.
    let message = refused_after(&|scale, state| {
        if scale == 3 {
            state.floats("alphacum", &[4], &[1.0, 0.5, 0.25, 0.0]);
        }
    });
    assert_contains(&message, &["the schedule", "scale1.yaml", "scale3.ckpt", "[1.0, 0.5, 0.25, 0.0]"]);
    let repository =
        Repository::new(Format::Zip, false, &|_, state| state.floats("alphacum", &[4], &[1.0, 0.5, 0.6, 0.0]));
    assert_contains(&refused(&repository, &bare(&repository)), &["scale1.ckpt", "alpha 2", "0.6", "above"]);
}

#[test]
fn order_and_number_of_checkpoints() {
    let repository = Repository::new(Format::Zip, false, &|_, _| {});
    let mut wrong = options(&repository);
    wrong.configs.swap(0, 2);
    assert_contains(&refused(&repository, &wrong), &["scale1.ckpt", "scale3.yaml describes", "missing"]);
    wrong.configs = repository.configs();
    wrong.configs.swap(0, 1);
    let message = refused(&repository, &wrong);
    assert_contains(&message, &["scale2.ckpt", "is scale 1 by its config", "log_scalors were trained for scale 2"]);
    wrong.configs.pop();
    let error = import(&wrong).unwrap_err();
    assert!(error.is_usage() && error.to_string().starts_with("2 --config for 3 checkpoints"), "{error}");

    let mut bare = bare(&repository);
    bare.checkpoints.swap(1, 2);
    assert_contains(&refused(&repository, &bare), &["scale3.ckpt is", "given as scale 2", "it holds a GPT"]);
    bare.checkpoints.swap(1, 2);
    bare.checkpoints.swap(0, 1);
    assert_contains(&refused(&repository, &bare), &["given as scale 1", "trained for scale 2"]);
    bare.checkpoints.remove(0);
    assert_contains(&refused(&repository, &bare), &["3 scales", "no checkpoint is given for scale 3"]);
    bare.checkpoints = [repository.checkpoints(), repository.checkpoints()].concat();
    assert_contains(&refused(&repository, &bare), &["scale1.ckpt would be scale 4 of a chain of 3: too many"]);

    // Where no tensor tells, the file's name still speaks.
    let silent = Repository::new(Format::Zip, false, &|scale, state| {
        if scale < SCALES {
            state.floats("transformer_ema.log_scalors", &[3], &[0.0; 3]);
        }
    });
    let mut bare = self::bare(&silent);
    bare.checkpoints.swap(0, 1);
    assert_contains(&refused(&silent, &bare), &["scale2.ckpt", "given as scale 1", "its name says 2"]);
}

#[test]
fn tokenizer_and_networks_must_fit() {
    let message = refused_after(&|_, state| state.longs("first_stage_model.quantize.used", &[4], &[1, 3, 4, 9]));
    assert_contains(&message, &["the tokenizer of", "scale1.ckpt has 4 codes", "has 5"]);
    let message = refused_after(&|_, state| state.remove("first_stage_model.quantize.used"));
    assert_contains(&message, &["scale1.ckpt has 16 codes", "has 5"]);
    let message = refused_after(&|scale, state| {
        if scale == 2 {
            let specs = crate::chain_checkpoints::first_stage().tensors();
            let spec = specs.iter().find(|spec| spec.name == "decoder.conv_in.bias").unwrap();
            state.floats("first_stage_model.decoder.conv_in.bias", &spec.shape, &vec![9.0; spec.numel() as usize]);
        }
    });
    assert_contains(&message, &["scale1.ckpt", "scale2.ckpt", "differ (in decoder.conv_in.bias)", "--tokenizer"]);
    let message = refused_after(&|_, state| state.remove_under("first_stage_model."));
    assert_contains(&message, &["no checkpoint holds a first stage", "--tokenizer"]);
    let message = refused_after(&|_, state| state.remove("first_stage_model.decoder.conv_in.bias"));
    assert_contains(&message, &["scale1.ckpt", "missing (1): decoder.conv_in.bias"]);
}

#[test]
fn the_tokenizer_may_come_from_elsewhere() {
    let repository = Repository::new(Format::Zip, false, &|scale, state| {
        if scale > 1 {
            state.remove_under("first_stage_model.");
        }
    });
    // One that holds it is enough.
    import(&options(&repository)).unwrap();
    let alone = ImportOptions {
        tokenizer_only: true,
        ..ImportOptions::new(vec![repository.path("models/scale1.ckpt")], repository.path("vqgan"))
    };
    import(&alone).unwrap();
    let first = std::fs::read(repository.to().join("tokenizer.safetensors")).unwrap();

    let without = Repository::new(Format::Zip, false, &|_, state| state.remove_under("first_stage_model."));
    for (folder, file) in [("a", "vqgan/tokenizer.safetensors"), ("b", "models/scale1.ckpt")] {
        let options =
            ImportOptions { tokenizer: Some(repository.path(file)), to: without.path(folder), ..options(&without) };
        import(&options).unwrap();
        let model = ModelDirectory::open(without.path(folder)).unwrap();
        model.load_tokenizer(Default::default()).unwrap();
    }
    // The file of ours is copied as it is; it was made without the config, so that its resolution is another.
    assert_eq!(
        std::fs::read(without.path("a/tokenizer.safetensors")).unwrap(),
        std::fs::read(repository.path("vqgan/tokenizer.safetensors")).unwrap()
    );
    assert_ne!(std::fs::read(without.path("b/tokenizer.safetensors")).unwrap(), first);
    let options = ImportOptions {
        tokenizer: Some(repository.path("models/scale2.ckpt")),
        to: without.path("c"),
        ..options(&without)
    };
    assert_contains(&import(&options).unwrap_err().to_string(), &["scale2.ckpt holds no VQGAN"]);
}

#[test]
fn odd_values_are_refused_by_tensor() {
    let message = refused_after(&|_, state| state.longs("sos_token", &[1], &[7]));
    assert_contains(&message, &["sos_token of", "scale1.ckpt", "[7.0]", "code 0"]);
    let repository = Repository::new(Format::Zip, false, &|_, state| state.remove("alphacum"));
    assert_contains(&refused(&repository, &bare(&repository)), &["scale1.ckpt", "alphacum", "--config"]);
    // With configs the buffer is not needed.
    import(&options(&repository)).unwrap();
    let message = refused_after(&|scale, state| {
        if scale == 3 {
            state.floats("transformer.blocks.0.attn.mask", &[16, 16], &[1.0; 256]);
        }
    });
    assert_contains(&message, &["transformer.blocks.0.attn.mask of", "scale3.ckpt", "[16, 16]"]);
    let message = refused_after(&|_, state| state.remove_under("transformer"));
    assert_contains(&message, &["scale1.ckpt holds no network of a chain"]);
}

#[test]
fn attacks_are_refused_and_nothing_is_run() {
    for (name, attack) in attacks() {
        let repository = Repository::new(Format::Zip, false, &|scale, state| {
            if scale == 2 {
                state.entries.push(("x".to_owned(), attack.clone()));
            }
        });
        assert_contains(&refused(&repository, &options(&repository)), &["scale2.ckpt", "refused", name]);
    }
}

#[test]
fn a_truncated_checkpoint_is_named_wherever_it_ends() {
    for format in FORMATS {
        let repository = Repository::new(format, false, &|_, _| {});
        let whole = std::fs::read(repository.path("models/scale2.ckpt")).unwrap();
        let cuts = (0..40).map(|at| whole.len() * at / 40).chain([1, 7, 64, whole.len() - 1, whole.len() - 9]);
        for cut in cuts {
            repository.write("models/scale2.ckpt", &whole[..cut]);
            assert_contains(&refused(&repository, &options(&repository)), &["scale2.ckpt"]);
        }
    }
    // A flipped bit in a tensor of the zip format is found when it is read, after others were written.
    let repository = Repository::new(Format::Zip, false, &|_, _| {});
    let name = "transformer_ema.ln_fweight";
    let mut state = state(Format::Zip, 3, &network(3, false));
    state.floats(name, &[8], &[123.456; 8]);
    let mut bytes = checkpoint(state);
    let pattern = 123.456f32.to_le_bytes();
    let at = bytes.windows(4).position(|window| window == pattern).unwrap();
    bytes[at] ^= 1;
    repository.write("models/scale3.ckpt", bytes);
    assert_contains(&refused(&repository, &options(&repository)), &["scale3.ckpt", name]);
}

#[test]
fn storages_beyond_the_file_are_refused() {
    let message = refused_after(&|_, state| {
        let huge = Storage { class: "FloatStorage", key: "huge".to_owned(), elements: 1 << 40, bytes: vec![0; 64] };
        state.entries.push(("transformer_ema.huge".to_owned(), huge.whole(Format::Zip, &[1 << 40])));
        state.storages.push(huge);
    });
    assert_contains(&message, &["scale1.ckpt", "transformer_ema.huge", "more bytes than the whole file"]);
}

#[test]
fn a_model_that_is_there_is_replaced_as_a_whole_and_on_request_only() {
    let repository = Repository::new(Format::Zip, false, &|_, _| {});
    let mut options = options(&repository);
    import(&options).unwrap();
    std::fs::write(repository.to().join("notes.txt"), "mine").unwrap();
    std::fs::write(repository.to().join("scale-7.safetensors"), "of an older model").unwrap();
    let before = repository.written();
    let error = import(&options).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("chain.toml is there already: give --overwrite"), "{error}");
    assert_eq!(repository.written(), before);

    // A failing import leaves the old model as it was.
    options.overwrite = true;
    let old = std::fs::read(repository.path("model/scale-1.safetensors")).unwrap();
    let good = std::fs::read(repository.path("models/scale3.ckpt")).unwrap();
    repository.write("models/scale3.ckpt", &good[..good.len() / 2]);
    import(&options).unwrap_err();
    assert_eq!(
        (repository.written(), std::fs::read(repository.path("model/scale-1.safetensors")).unwrap()),
        (before, old)
    );

    repository.write("models/scale3.ckpt", good);
    import(&options).unwrap();
    let expected = ["chain.toml", "notes.txt", "scale-1.safetensors", "scale-2.safetensors", "scale-3.safetensors"];
    assert_eq!(repository.written(), [&expected[..], &["tokenizer.safetensors"]].concat());
}

#[test]
fn a_dry_run_tells_parameters_and_writes_nothing() {
    let repository = Repository::new(Format::Zip, false, &|_, _| {});
    let lines = describe(&options(&repository)).unwrap();
    for scale in 1..=SCALES {
        let parameters = network(scale, false).parameters();
        let line = lines.iter().find(|line| line.contains(&format!("scale-{scale}.safetensors"))).unwrap();
        assert_contains(line, &[&format!("{parameters} parameters"), &format!("scale{scale}.ckpt")]);
    }
    let kinds = network(SCALES, false);
    assert!(matches!(kinds, NetworkConfig::Gpt(_)) && lines.iter().any(|line| line.contains("GPT of dim 8")));
    assert!(!repository.to().exists());
}

#[test]
fn the_command_line() {
    let repository = Repository::new(Format::Zip, false, &|_, _| {});
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imagebart"));
        command.current_dir(repository.path(".")).arg("import").args(arguments).args(["--to", "model"]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let (code, text) = run(&["--config", "configs/sampling/all.yaml", "--dry-run"]);
    assert_eq!((code, repository.written().len()), (Some(0), 0), "{text}");
    let (code, text) = run(&["models/scale1.ckpt", "models/scale2.ckpt", "--config", "configs/scale1.yaml"]);
    assert_eq!(code, Some(2), "{text}");
    assert_contains(&text, &["1 --config for 2 checkpoints"]);
    let (code, text) = run(&[]);
    assert_eq!(code, Some(2), "{text}");
    let checkpoints = ["models/scale1.ckpt", "models/scale2.ckpt", "models/scale3.ckpt"];
    let (code, text) =
        run(&[&checkpoints[..], &["--variant", "residual-scaled", "--heads", "2", "--weights", "raw"]].concat());
    assert_eq!(code, Some(0), "{text}");
    assert_contains(&text, &["a chain of 3 scales", "weights of the last step", "note: "]);
    let (code, text) = run(&["models/scale1.ckpt", "--tokenizer-only", "--overwrite"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(names(&repository.to()).len(), 5);
}
