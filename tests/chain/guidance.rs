//! Classifier-free guidance.

use crate::support::{chain, classes, row, three_scales};
use imagebart::chain::{Chain, Compat, Row, RowCondition, ScaleSettings};
use tch::{Kind, Tensor};

fn guided(guidance: f32) -> ScaleSettings {
    ScaleSettings { guidance, ..ScaleSettings::default() }
}

fn rows(chain: &Chain, condition: &RowCondition, settings: ScaleSettings) -> Vec<Row> {
    (0..8).map(|index| row(chain.config(), index, condition.clone(), settings)).collect()
}

#[test]
fn none_at_all_is_the_null_condition_and_one_the_condition() {
    let chain = chain(&three_scales(classes(4, true)));
    let class = RowCondition::Class(2);
    let sample = |condition: &RowCondition, settings| chain.sample(&rows(&chain, condition, settings)).unwrap();
    let null = sample(&RowCondition::Null, guided(1.0));
    let conditional = sample(&class, guided(1.0));
    assert_eq!(sample(&class, guided(0.0)), null);
    assert_eq!(sample(&RowCondition::Null, guided(7.0)), null, "the null condition has nothing to be guided by");
    assert_ne!(conditional, null);
    assert_ne!(sample(&class, guided(5.0)), conditional);
}

/// The guided distribution is the softmax of null + g (conditional - null).
#[test]
fn logits_are_mixed_as_the_formula_says() {
    let chain = chain(&three_scales(classes(4, true)));
    let grid = [0u16, 3, 8, 1, 1, 5];
    let at = |condition: &RowCondition, settings, scale| -> Tensor {
        let rows = [row(chain.config(), 0, condition.clone(), settings)];
        let grids: (&[&[u16]], &[&[u16]]) = (&[&[8, 2, 0, 4, 4, 7]], &[&grid]);
        chain.probabilities(&rows, scale, grids, Compat::None, None).unwrap().log()
    };
    for scale in 1..=3 {
        for guidance in [0.0, 0.5, 1.0, 3.5] {
            let conditional = at(&RowCondition::Class(1), guided(1.0), scale);
            let null = at(&RowCondition::Null, guided(1.0), scale);
            let expected = &null + f64::from(guidance) * (&conditional - &null);
            let expected = expected.softmax(-1, Kind::Double);
            let ours = at(&RowCondition::Class(1), guided(guidance), scale).exp();
            assert!(ours.allclose(&expected, 0.0, 1e-5, false), "scale {scale}, guidance {guidance}");
        }
    }
}
