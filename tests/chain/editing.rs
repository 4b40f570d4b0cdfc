//! Edits: what is known stays, what the networks read, and what is refused.

use crate::support::{chain, classes, config, encoder_decoder, gpt, key, plain_rows, row, three_scales, unconditional};
use imagebart::chain::{Chain, Compat, EditOptions, EditRow, RowCondition, ScaleSettings};
use imagebart::config::ScheduleValue;
use imagebart::diffusion::forward;
use imagebart::random::RowKey;
use tch::Tensor;

const COMPATS: [Compat; 2] = [Compat::None, Compat::Authors];

/// Rows with images of their own, and every token known whose place `known` says.
fn edits(chain: &Chain, count: usize, known: impl Fn(usize) -> bool) -> Vec<EditRow> {
    let (tokens, codes) = (chain.config().tokens(), chain.config().codebook_size as usize);
    let image = |index: usize| (0..tokens).map(|at| ((index * 5 + at * 7) % codes) as u16).collect();
    let rows = plain_rows(chain.config(), count).into_iter().enumerate();
    rows.map(|(index, row)| EditRow { row, tokens: image(index), known: (0..tokens).map(&known).collect() }).collect()
}

fn options(compat: Compat) -> EditOptions {
    EditOptions { compat, ..EditOptions::default() }
}

/// x_t of each row on its path through the forward process.
fn path(chain: &Chain, rows: &[EditRow], level: u32) -> Vec<Vec<u16>> {
    let ids: Vec<i64> = rows.iter().flat_map(|row| row.tokens.iter().map(|&id| i64::from(id))).collect();
    let x_0 = Tensor::from_slice(&ids).view([rows.len() as i64, -1]);
    let keys: Vec<RowKey> = rows.iter().map(|row| row.row.key).collect();
    let codes = chain.config().codebook_size.into();
    let x_t = forward(&x_0, chain.schedule(), codes, &keys).unwrap().at(level).unwrap();
    let grids = Vec::<Vec<i64>>::try_from(x_t).unwrap();
    grids.into_iter().map(|grid| grid.into_iter().map(|id| id as u16).collect()).collect()
}

#[test]
fn an_edit_with_everything_known_returns_the_image() {
    let chain = chain(&three_scales(unconditional()));
    let rows = edits(&chain, 5, |_| true);
    for compat in COMPATS {
        let edited = chain.edit(&rows, &options(compat)).unwrap();
        assert!(edited.iter().zip(&rows).all(|(edited, row)| edited == &row.tokens));
    }
    assert!(chain.edit(&[], &EditOptions::default()).unwrap().is_empty());
}

#[test]
fn known_tokens_stay_and_free_ones_are_drawn() {
    let chain = chain(&three_scales(unconditional()));
    let rows = edits(&chain, 12, |at| at % 2 == 0);
    for compat in COMPATS {
        let edited = chain.edit(&rows, &options(compat)).unwrap();
        for (edited, row) in edited.iter().zip(&rows) {
            assert!((0..6).step_by(2).all(|at| edited[at] == row.tokens[at]));
        }
        let free = |at: usize| edited.iter().map(|tokens| tokens[at]).collect::<std::collections::BTreeSet<_>>();
        assert!(free(1).len() > 1 && free(3).len() > 1);
        // The image under the mask does not matter.
        let mut other = rows.clone();
        other.iter_mut().for_each(|row| row.tokens[1] = 8 - row.tokens[1]);
        assert_eq!(chain.edit(&other, &options(compat)).unwrap(), edited);
        for (row, expected) in rows.iter().zip(&edited).take(3) {
            assert_eq!(&chain.edit(std::slice::from_ref(row), &options(compat)).unwrap()[0], expected, "alone");
        }
    }
}

#[test]
fn networks_read_known_tokens_as_noisy_as_their_scale() {
    let chain = chain(&three_scales(unconditional()));
    let rows = edits(&chain, 4, |at| at < 3);
    let once = EditOptions { repeats: vec![1; 3], ..EditOptions::default() };
    for step in chain.edit_steps(&rows, &once, None).unwrap() {
        let (x_t, below) = (path(&chain, &rows, step.scale), path(&chain, &rows, step.scale - 1));
        for row in 0..rows.len() {
            assert_eq!(step.x_t[row][..3], x_t[row][..3], "scale {}", step.scale);
            assert_eq!(step.tokens[row][..3], below[row][..3], "scale {}", step.scale);
        }
    }
    // The authors': clean at all scales.
    let once = EditOptions { compat: Compat::Authors, ..once };
    for step in chain.edit_steps(&rows, &once, None).unwrap() {
        assert!((0..4).all(|row| step.x_t[row][..3] == rows[row].tokens[..3]));
    }
}

#[test]
fn repeats_noise_the_whole_grid_again() {
    let scales = vec![encoder_decoder("plain"), encoder_decoder("plain"), gpt()];
    let chain = chain(&config(9, [8, 8], scales, unconditional()));
    let rows = edits(&chain, 20, |at| at < 32);
    let mut changed = [(0.0, 0.0); 2];
    for (compat, changed) in COMPATS.into_iter().zip(&mut changed) {
        let options = EditOptions { compat, repeats: vec![2, 1, 1], ..EditOptions::default() };
        let steps = chain.edit_steps(&rows, &options, None).unwrap();
        let visited: Vec<(u32, u32)> = steps.iter().map(|step| (step.scale, step.pass)).collect();
        assert_eq!(visited, [(3, 0), (2, 0), (1, 0), (1, 1)]);
        let pairs = steps[2].tokens.iter().zip(&steps[3].x_t).flat_map(|(x_0, x_1)| x_0.iter().zip(x_1).enumerate());
        for (at, (before, after)) in pairs {
            let cell = if at < 32 { &mut changed.0 } else { &mut changed.1 };
            *cell += f64::from(u8::from(before != after)) / 640.0;
        }
    }
    // A redrawn token stays what it was with probability 1/K; 640 draws have a standard deviation below 0.02.
    let expected = f64::from(chain.schedule().beta(1)) * 8.0 / 9.0;
    for (share, factor) in [(changed[0], 1.0), (changed[1], 0.5)] {
        for share in [share.0, share.1] {
            assert!((share - factor * expected).abs() < 0.07, "{changed:?}, expected {expected}");
        }
    }
}

#[test]
fn an_edit_may_start_from_the_image_noised_a_little() {
    let chain = chain(&three_scales(unconditional()));
    let rows = edits(&chain, 6, |_| false);
    let variation = EditOptions { start: Some(1), repeats: vec![1; 3], ..EditOptions::default() };
    let steps = chain.edit_steps(&rows, &variation, None).unwrap();
    assert_eq!(steps.len(), 1);
    assert_eq!(steps[0].x_t, path(&chain, &rows, 1));
    // From pure noise nothing of the image is left.
    let whole = chain.edit(&rows, &EditOptions { repeats: vec![1; 3], ..EditOptions::default() }).unwrap();
    let drawn = chain.sample(&plain_rows(chain.config(), 6)).unwrap();
    assert_eq!(whole, drawn, "an edit with nothing known is a sample");
}

#[test]
fn the_first_candidate_is_the_plain_pass_and_where_nothing_is_known_any_will_do() {
    let chain = chain(&three_scales(unconditional()));
    let of = |candidates: u32| EditOptions { candidates: vec![candidates; 3], ..options(Compat::None) };
    let rows = edits(&chain, 8, |at| at >= 3);
    assert_eq!(chain.edit(&rows, &of(1)).unwrap(), chain.edit(&rows, &options(Compat::None)).unwrap());
    let chosen = chain.edit(&rows, &of(6)).unwrap();
    assert_ne!(chosen, chain.edit(&rows, &of(1)).unwrap());
    for (chosen, row) in chosen.iter().zip(&rows) {
        assert_eq!(chosen[3..], row.tokens[3..], "known tokens stay");
    }
    // A row's choice is its own.
    assert_eq!(chain.edit(&rows[5..6], &of(6)).unwrap(), chosen[5..6]);
    let open = edits(&chain, 8, |_| false);
    assert_ne!(chain.edit(&open, &of(6)).unwrap(), chain.edit(&open, &of(1)).unwrap());
}

#[test]
fn edits_obey_their_condition() {
    let chain = chain(&three_scales(classes(4, true)));
    let edit = |condition: RowCondition, guidance: f32| {
        let settings = ScaleSettings { guidance, ..ScaleSettings::default() };
        let edit = |index| EditRow {
            row: row(chain.config(), index, condition.clone(), settings),
            tokens: vec![1, 2, 3, 4, 5, 6],
            known: vec![true, true, false, false, false, false],
        };
        chain.edit(&(0..6).map(edit).collect::<Vec<_>>(), &EditOptions::default()).unwrap()
    };
    assert_ne!(edit(RowCondition::Class(0), 1.0), edit(RowCondition::Class(3), 1.0));
    assert_eq!(edit(RowCondition::Class(0), 0.0), edit(RowCondition::Null, 1.0));
}

#[test]
fn default_repeats_are_the_authors_but_where_they_only_start_over() {
    let mut config = three_scales(unconditional());
    let repeats = |config: &_, compat| chain(config).default_repeats(compat);
    assert_eq!(repeats(&config, Compat::Authors), [3, 3, 3]);
    assert_eq!(repeats(&config, Compat::None), [3, 3, 1]);
    config.schedule = ScheduleValue::Name("bernoulli_PSIM".to_owned());
    assert_eq!(repeats(&config, Compat::Authors), [5, 5, 1]);
    assert_eq!(repeats(&config, Compat::None), [5, 5, 1]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let chain = chain(&three_scales(unconditional()));
    let good = edits(&chain, 2, |_| true);
    let fault = |options: EditOptions| chain.edit(&good, &options).unwrap_err().to_string();
    let cases = [
        (EditOptions { start: Some(4), ..options(Compat::None) }, "scale 4 is not one of the chain's, 1 to 3"),
        (EditOptions { start: Some(0), ..options(Compat::None) }, "scale 0 is not one of the chain's, 1 to 3"),
        (EditOptions { start: Some(2), ..options(Compat::Authors) }, "compat = \"authors\" starts at the last scale"),
        (
            EditOptions { repeats: vec![1, 1], ..options(Compat::None) },
            "repeats lists 2 values; give one for each scale, 3",
        ),
        (EditOptions { repeats: vec![1, 0, 1], ..options(Compat::None) }, "repeats = 0 at scale 2"),
        (
            EditOptions { candidates: vec![2], ..options(Compat::None) },
            "candidates lists 1 values; give one for each scale, 3",
        ),
        (
            EditOptions { candidates: vec![1, 1, 0], ..options(Compat::None) },
            "candidates = 0 at scale 3: it must be 1 to 4096",
        ),
        (EditOptions { repeats: vec![1, 1, 70_000], ..options(Compat::None) }, "repeats = 70000 at scale 3"),
    ];
    for (options, expected) in cases {
        let fault = fault(options);
        assert!(fault.starts_with(expected), "{fault}");
    }
    let fault = |change: fn(&mut EditRow)| {
        let mut rows = good.clone();
        change(&mut rows[1]);
        chain.edit(&rows, &EditOptions::default()).unwrap_err().to_string()
    };
    assert_eq!(fault(|row| row.known.truncate(4)), "row 1: the mask has 4 tokens, the grid has 6");
    assert_eq!(fault(|row| row.tokens.push(0)), "row 1: the image has 7 tokens, the grid has 6");
    assert_eq!(fault(|row| row.tokens[2] = 9), "row 1: token 9 is not below 9, the number of codes");
    assert_eq!(key(1), good[1].row.key);
}
