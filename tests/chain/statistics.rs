//! What is drawn has the distribution the networks give it.

use crate::exact::{after, chi_square, conditionals, counts, transitions};
use crate::support::{all_grids, chain, config, encoder_decoder, gpt, number, plain_rows, row, unconditional, weights};
use imagebart::chain::{Chain, ChainConfig, Compat, EditOptions, EditRow, RowCondition, ScaleConfig, ScaleSettings};
use imagebart::torch::weights::Weights;
use imagebart::transformer::Placement;

const CODES: usize = 3;
const TOKENS: usize = 3;
const DRAWS: usize = 8000;

/// A GPT and an encoder-decoder over three tokens of three codes.
fn tiny() -> ChainConfig {
    config(CODES as u32, [1, TOKENS as u32], vec![encoder_decoder("plain"), gpt()], unconditional())
}

/// All that many rows, in batches.
fn sampled(chain: &Chain, settings: ScaleSettings) -> Vec<Vec<u16>> {
    let rows: Vec<_> = (0..DRAWS).map(|index| row(chain.config(), index, RowCondition::None, settings)).collect();
    rows.chunks(1000).flat_map(|rows| chain.sample(rows).unwrap()).collect()
}

const FREE: [Option<u16>; TOKENS] = [None; TOKENS];

#[test]
fn sampled_grids_have_the_exact_distribution() {
    let chain = chain(&tiny());
    let cells = CODES.pow(TOKENS as u32);
    // The GPT does not see x_2, so any row of its matrix is p(x_1).
    let p_1 = transitions(&conditionals(&chain, 2), &FREE, CODES).remove(0);
    let p_0 = after(&p_1, &transitions(&conditionals(&chain, 1), &FREE, CODES));
    let grids = sampled(&chain, ScaleSettings::default());
    let counts = counts(&grids, CODES, cells);
    let agreement = chi_square(&counts, &p_0);
    assert!(agreement < 1.0, "chi-square is {agreement:.2} of its critical value");
    // The test has the power to tell: not uniform, and not what half the depth gives.
    assert!(chi_square(&counts, &vec![1.0 / cells as f64; cells]) > 2.0);
    assert!(chi_square(&counts, &p_1) > 2.0);
}

#[test]
fn both_levels_are_drawn_jointly() {
    let chain = chain(&tiny());
    let rows = plain_rows(chain.config(), DRAWS);
    let cells = CODES.pow(TOKENS as u32);
    let mut counted = vec![0.0; cells * cells];
    for rows in rows.chunks(1000) {
        let steps = chain.sample_steps(rows, Default::default()).unwrap();
        for (x_1, x_0) in steps[0].tokens.iter().zip(&steps[1].tokens) {
            counted[number(x_1, CODES) * cells + number(x_0, CODES)] += 1.0;
        }
        assert_eq!(steps[0].tokens, steps[1].x_t);
    }
    let p_1 = transitions(&conditionals(&chain, 2), &FREE, CODES).remove(0);
    let step = transitions(&conditionals(&chain, 1), &FREE, CODES);
    let joint: Vec<f64> = p_1.iter().zip(&step).flat_map(|(p, row)| row.iter().map(move |q| p * q)).collect();
    let agreement = chi_square(&counted, &joint);
    assert!(agreement < 1.0, "chi-square is {agreement:.2} of its critical value");
    let p_0 = after(&p_1, &step);
    let independent: Vec<f64> = p_1.iter().flat_map(|p| p_0.iter().map(move |q| p * q)).collect();
    assert!(chi_square(&counted, &independent) > 2.0, "x_0 depends on x_1");
}

#[test]
fn settings_change_the_distribution_as_they_say() {
    let chain = chain(&tiny());
    let settings = ScaleSettings { temperature: 0.7, top_p: Some(0.9), top_k: Some(2), ..ScaleSettings::default() };
    let grids = all_grids(TOKENS, CODES);
    let slices: Vec<&[u16]> = grids.iter().map(Vec::as_slice).collect();
    let rows = vec![row(chain.config(), 0, RowCondition::None, settings); grids.len()];
    let matrix = |scale: u32| -> Vec<Vec<f64>> {
        let from = |x_t: &Vec<u16>| {
            let x_t = vec![x_t.as_slice(); grids.len()];
            let p = chain.probabilities(&rows, scale, (&x_t, &slices), Compat::None, None).unwrap();
            let of = |(index, grid): (usize, &Vec<u16>)| {
                let token = |(at, &id): (usize, &u16)| p.double_value(&[index as i64, at as i64, i64::from(id)]);
                grid.iter().enumerate().map(token).product()
            };
            grids.iter().enumerate().map(of).collect()
        };
        grids.iter().map(from).collect()
    };
    let expected = after(&matrix(2)[0], &matrix(1));
    let counts = counts(&sampled(&chain, settings), CODES, grids.len());
    assert!(expected.contains(&0.0), "top-k leaves something out");
    let agreement = chi_square(&counts, &expected);
    assert!(agreement < 1.0, "chi-square is {agreement:.2} of its critical value");
}

/// An edit's exact distribution by following all grids: the known token's path through the forward process, the networks with
/// the token clamped, and repeats that noise x_0 by one whole step.
#[test]
fn edits_have_the_distribution_the_editor_describes() {
    let chain = chain(&tiny());
    let survives = f64::from(chain.schedule().cumulative(1));
    let noise = forward_step(f64::from(chain.schedule().beta(1)));
    let first = first_level(&chain, survives);
    let denoise = transitions(&conditionals(&chain, 1), &[Some(KNOWN), None, None], CODES);
    let mut expected = after(&first, &denoise);
    for passes in 1..=3 {
        let counts = edited(&chain, EditOptions { repeats: vec![passes, 1], ..EditOptions::default() });
        let agreement = chi_square(&counts, &expected);
        assert!(agreement < 1.0, "{passes} passes: chi-square is {agreement:.2} of its critical value");
        if passes == 1 {
            // The authors' clean tokens at level 1 give something else, and the test tells.
            let theirs = after(&first_level(&chain, 1.0), &denoise);
            assert!(chi_square(&counts, &theirs) > 2.0);
            let options = EditOptions { compat: Compat::Authors, repeats: vec![1, 1], ..EditOptions::default() };
            let agreement = chi_square(&edited(&chain, options), &theirs);
            assert!(agreement < 1.0, "authors: chi-square is {agreement:.2} of its critical value");
        }
        expected = after(&after(&expected, &noise), &denoise);
    }
}

/// A known token that one before it is drawn without.
const BEHIND: u16 = 2;

/// Two candidates of a pass with one known token: each pair is drawn, and one of the two stays in proportion to the
/// probability of the known token behind it.
#[test]
fn of_two_candidates_one_stays_by_what_is_known_behind_it() {
    // Less sure of its tokens than the others, so that several candidates come about.
    let blunt = |network: &ScaleConfig| {
        let mut tensors = weights(network)?.into_tensors();
        let head = tensors.get_mut("head.weight").expect("a head");
        *head = &*head * 0.3;
        Ok(Weights::from_tensors("blunt weights", tensors)?)
    };
    let config = config(CODES as u32, [1, TOKENS as u32], vec![gpt()], unconditional());
    let chain = Chain::new(config, Placement::cpu(), blunt).unwrap();
    let conditionals = conditionals(&chain, 1);
    let given = [None, Some(BEHIND), None];
    let drawn = transitions(&conditionals, &given, CODES).remove(0);
    let weights: Vec<f64> = conditionals[0].iter().map(|steps| steps[1]).collect();
    let stays = |it: usize, other: usize| weights[it] / (weights[it] + weights[other]);
    let against = |it: usize| (0..drawn.len()).map(|other| drawn[other] * stays(it, other)).sum::<f64>();
    let expected: Vec<f64> = (0..drawn.len()).map(|it| 2.0 * drawn[it] * against(it)).collect();
    let edit = |row| EditRow { row, tokens: vec![0, BEHIND, 0], known: vec![false, true, false] };
    let counted = |candidates: u32| {
        let options = EditOptions { candidates: vec![candidates], ..EditOptions::default() };
        let rows: Vec<EditRow> = plain_rows(chain.config(), DRAWS).into_iter().map(edit).collect();
        let grids: Vec<Vec<u16>> = rows.chunks(1000).flat_map(|rows| chain.edit(rows, &options).unwrap()).collect();
        counts(&grids, CODES, CODES.pow(TOKENS as u32))
    };
    let agreement = chi_square(&counted(2), &expected);
    assert!(agreement < 1.0, "chi-square is {agreement:.2} of its critical value");
    let alone = counted(1);
    assert!(chi_square(&alone, &drawn) < 1.0);
    let told = chi_square(&alone, &expected);
    assert!(told > 2.0, "one candidate is told from two: {told:.2}");
    // Many come near to the distribution given the known token.
    let all: f64 = drawn.iter().zip(&weights).map(|(drawn, weight)| drawn * weight).sum();
    let posterior: Vec<f64> = drawn.iter().zip(&weights).map(|(drawn, weight)| drawn * weight / all).collect();
    let many = counted(64);
    let (near, far) = (chi_square(&many, &posterior), chi_square(&many, &drawn));
    assert!(near < 1.0 && far > 2.0, "{near:.2} {far:.2}");
}

/// The token of every edited image that is known.
const KNOWN: u16 = 2;

/// How often edits give each grid.
fn edited(chain: &Chain, options: EditOptions) -> Vec<f64> {
    let rows = plain_rows(chain.config(), DRAWS).into_iter();
    let edit = |row| EditRow { row, tokens: vec![KNOWN, 1, 0], known: vec![true, false, false] };
    let rows: Vec<EditRow> = rows.map(edit).collect();
    let grids: Vec<Vec<u16>> = rows.chunks(1000).flat_map(|rows| chain.edit(rows, &options).unwrap()).collect();
    counts(&grids, CODES, CODES.pow(TOKENS as u32))
}

/// p(x_1) of an edit whose known token is still itself there with probability `survives`, else any.
fn first_level(chain: &Chain, survives: f64) -> Vec<f64> {
    let scale_2 = conditionals(chain, 2);
    let mut p_1 = vec![0.0; CODES.pow(TOKENS as u32)];
    for value in 0..CODES as u16 {
        let stays = if value == KNOWN { survives } else { 0.0 };
        let weight = stays + (1.0 - survives) / CODES as f64;
        let drawn = &transitions(&scale_2, &[Some(value), None, None], CODES)[0];
        p_1.iter_mut().zip(drawn).for_each(|(p, drawn)| *p += weight * drawn);
    }
    p_1
}

/// One step of the forward process over all grids.
fn forward_step(beta: f64) -> Vec<Vec<f64>> {
    let grids = all_grids(TOKENS, CODES);
    let token = |from: &u16, to: &u16| f64::from(u8::from(from == to)) * (1.0 - beta) + beta / CODES as f64;
    let step = |from: &Vec<u16>, to: &Vec<u16>| from.iter().zip(to).map(|(from, to)| token(from, to)).product();
    grids.iter().map(|from| grids.iter().map(|to| step(from, to)).collect()).collect()
}
