//! Grids larger than the trained one: every token under the window it belongs to, and nothing else.

use crate::exact::chosen;
use crate::support::{chain, classes, key, plain_rows, row, text, three_scales, unconditional};
use imagebart::chain::{Chain, Compat, LargeGrid, Row, RowCondition, SampleOptions, ScaleSettings, Start};
use imagebart::random::Purpose;
use imagebart::transformer::{ConditionIds, Source};
use std::ops::Range;
use tch::Tensor;

/// Windows along a side: where each begins, and what is drawn under it.
type Side<'a> = &'a [(usize, Range<usize>)];

/// A large grid for chains of 3 × 2 tokens, with its windows by hand.
struct Example {
    large: LargeGrid,
    down: Vec<(usize, Range<usize>)>,
    across: Vec<(usize, Range<usize>)>,
}

fn examples() -> Vec<Example> {
    let side = |windows: &[(usize, Range<usize>)]| windows.to_vec();
    vec![
        // A window for each token, as taming has it.
        Example {
            large: LargeGrid { grid: (5, 4), stride: 1 },
            down: side(&[(0, 0..2), (1, 2..3), (2, 3..5)]),
            across: side(&[(0, 0..2), (1, 2..3), (2, 3..4)]),
        },
        Example {
            large: LargeGrid { grid: (7, 4), stride: 2 },
            down: side(&[(0, 0..2), (2, 2..4), (4, 4..7)]),
            across: side(&[(0, 0..2), (2, 2..4)]),
        },
        Example {
            large: LargeGrid { grid: (3, 5), stride: 2 },
            down: side(&[(0, 0..3)]),
            across: side(&[(0, 0..2), (1, 2..3), (3, 3..5)]),
        },
    ]
}

fn options(large: LargeGrid) -> SampleOptions<'static> {
    SampleOptions { large: Some(large), ..SampleOptions::default() }
}

/// The window of a token, and the token's place in it.
fn window((down, across): (Side, Side), row: usize, column: usize) -> ((usize, usize), usize) {
    let of = |side: Side, at: usize| side.iter().find(|(_, own)| own.contains(&at)).unwrap().0;
    let (top, left) = (of(down, row), of(across, column));
    ((top, left), (row - top) * 2 + column - left)
}

/// The part of a grid of `width` columns in a window of 3 × 2.
fn cut(grid: &[u16], width: usize, (top, left): (usize, usize)) -> Vec<u16> {
    (0..6).map(|local| grid.get((top + local / 2) * width + left + local % 2).copied().unwrap_or(0)).collect()
}

/// The tokens of an unconditional row without any cache: every token from its window alone, every number by hand.
fn recomputed(chain: &Chain, row: usize, Example { large, down, across }: &Example) -> Vec<u16> {
    let (tokens, width, codes) = (large.tokens(), large.grid.1 as usize, chain.config().codebook_size);
    let ids = |grid: &[u16]| Tensor::from_slice(&grid.iter().map(|&id| i64::from(id)).collect::<Vec<_>>()).unsqueeze(0);
    let mut x: Vec<u16> = (0..tokens as u32).map(|at| key(row).below(Purpose::Start, at, codes) as u16).collect();
    for scale in (1..=chain.config().scales()).rev() {
        let mut drawn: Vec<u16> = Vec::new();
        for at in 0..tokens {
            let (place, local) = window((down, across), at / width, at % width);
            let x_t = ids(&cut(&x, width, place));
            let number = Tensor::from_slice(&[i64::from(scale)]);
            let source = Source { scale: &number, condition: ConditionIds::None, x_t: Some(&x_t) };
            // What is not drawn yet is 0: no logits of the token depend on it.
            let known = ids(&cut(&drawn, width, place));
            let logits = chain.network(scale).unwrap().logits(&source, &known).unwrap();
            let uniform = key(row).at(scale as u16, 0).uniform(Purpose::Token, at as u32);
            drawn.push(chosen(&logits, local as i64, uniform));
        }
        x = drawn;
    }
    x
}

#[test]
fn every_token_is_drawn_from_its_window() {
    let chain = chain(&three_scales(unconditional()));
    for example in examples() {
        let sampled = chain.sample_as(&plain_rows(chain.config(), 6), options(example.large)).unwrap();
        for (row, tokens) in sampled.iter().enumerate() {
            assert_eq!(tokens, &recomputed(&chain, row, &example), "row {row} of {:?}", example.large);
        }
    }
}

#[test]
fn the_trained_size_is_drawn_as_ever() {
    let chain = chain(&three_scales(classes(4, true)));
    let guided = ScaleSettings { guidance: 2.0, top_k: Some(5), ..ScaleSettings::default() };
    let rows: Vec<Row> =
        (0..5).map(|index| row(chain.config(), index, RowCondition::Class(index as u32 % 4), guided)).collect();
    let expected = chain.sample_scored(&rows, SampleOptions::default()).unwrap();
    for stride in 1..=2 {
        let large = options(LargeGrid { grid: (3, 2), stride });
        assert_eq!(chain.sample_scored(&rows, large).unwrap(), expected, "stride {stride}");
    }
}

#[test]
fn rows_of_large_grids_do_not_depend_on_their_batch() {
    let chain = chain(&three_scales(text(20, 4)));
    let plain = ScaleSettings::default();
    let settings = [
        plain,
        ScaleSettings { guidance: 2.5, ..plain },
        ScaleSettings { temperature: 0.5, top_k: Some(4), ..plain },
        ScaleSettings { top_p: Some(0.8), guidance: 0.5, ..plain },
    ];
    let text = |index: usize| RowCondition::Text((0..index as u32).collect());
    let rows: Vec<Row> = settings
        .into_iter()
        .enumerate()
        .map(|(index, settings)| row(chain.config(), index, text(index), settings))
        .collect();
    let large = options(LargeGrid { grid: (4, 7), stride: 2 });
    let together = chain.sample_as(&rows, large).unwrap();
    assert_eq!(chain.sample_as(&rows, large).unwrap(), together);
    for (row, expected) in rows.iter().zip(&together) {
        assert_eq!(&chain.sample_as(std::slice::from_ref(row), large).unwrap()[0], expected);
    }
    // Condition and guidance matter.
    let others = [row(chain.config(), 1, text(3), settings[1]), row(chain.config(), 1, text(1), plain)];
    assert!(others.iter().all(|other| chain.sample_as(std::slice::from_ref(other), large).unwrap()[0] != together[1]));
}

/// The likelihood is the sum over all tokens, each under the window it was drawn under.
#[test]
fn likelihoods_are_those_of_the_windows() {
    let chain = chain(&three_scales(unconditional()));
    for Example { large, down, across } in examples() {
        let width = large.grid.1 as usize;
        let rows = plain_rows(chain.config(), 3);
        let mut expected = vec![0.0; rows.len()];
        for step in chain.sample_steps(&rows, options(large)).unwrap() {
            for (index, (x_t, tokens)) in step.x_t.iter().zip(&step.tokens).enumerate() {
                assert_eq!((x_t.len(), tokens.len()), (large.tokens(), large.tokens()));
                for (at, &token) in tokens.iter().enumerate() {
                    let (place, local) = window((&down, &across), at / width, at % width);
                    let grids = [cut(x_t, width, place), cut(tokens, width, place)];
                    let rows = std::slice::from_ref(&rows[index]);
                    let p = chain.probabilities(rows, step.scale, (&[&grids[0]], &[&grids[1]]), Compat::None, None);
                    expected[index] += p.unwrap().double_value(&[0, local as i64, i64::from(token)]).ln();
                }
            }
        }
        let scored = chain.sample_scored(&rows, options(large)).unwrap();
        for ((_, likelihood), expected) in scored.iter().zip(expected) {
            assert!((likelihood - expected).abs() < 1e-3, "{likelihood} {expected}");
        }
    }
}

#[test]
fn large_grids_can_be_started_from_and_what_does_not_fit_is_refused() {
    let chain = chain(&three_scales(unconditional()));
    let rows = plain_rows(chain.config(), 1);
    let large = LargeGrid { grid: (4, 3), stride: 1 };
    let from = |grids: &[&[u16]]| {
        let start = Some(Start { scale: 1, grids });
        chain.sample_steps(&rows, SampleOptions { start, ..options(large) })
    };
    let steps = from(&[&[3; 12]]).unwrap();
    assert_eq!((steps.len(), steps[0].scale, &steps[0].x_t[0][..]), (1, 1, &[3; 12][..]));
    let error = from(&[&[3; 6]]).unwrap_err().to_string();
    assert_eq!(error, "row 0: the grid to start from has 6 tokens, the grid has 12");
    let fault = |grid, stride| chain.sample_as(&rows, options(LargeGrid { grid, stride })).unwrap_err().to_string();
    assert!(fault((2, 9), 1).starts_with("a grid of 2 × 9 tokens is smaller than 3 × 2"));
    assert!(fault((3, 9), 3).starts_with("a stride of 3 tokens must be 1 to 2"));
    assert!(fault((300, 300), 1).contains("more than 65536"));
}
