//! Metrics react as they must, and refuse what they must.

use imagebart::evaluate::{
    Estimate, Gaussian, Interval, Kid, KidSettings, Manifolds, MetricError, Moments, PictureError, Singular, Window,
    difference, frechet, inception_score, kernel_distance, nearest, ssim,
};
use imagebart::imaging::Rgb;
use imagebart::random::{Purpose, RowKey};
use tch::{Device, Kind, Tensor};

type Error = Box<dyn std::error::Error>;

const DIMS: i64 = 6;

/// `rows` points around `modes` corners, the same for the same seed.
fn points(seed: u64, rows: i64, modes: i64, noise: f64) -> Tensor {
    let key = RowKey::new(seed, "points", 0, 0);
    let uniform = |position: i64| f64::from(key.uniform(Purpose::Init, position as u32)) - 0.5;
    let value = |at: i64| {
        let (row, dim) = (at / DIMS, at % DIMS);
        let corner = if row % modes == dim { 4.0 } else { 0.0 };
        // The sum of some uniform numbers is nearly normal.
        corner + noise * (0..6).map(|part| uniform(at * 6 + part)).sum::<f64>()
    };
    Tensor::from_slice(&(0..rows * DIMS).map(value).collect::<Vec<f64>>()).view([rows, DIMS])
}

fn gaussian(features: &Tensor) -> Result<Gaussian, MetricError> {
    let mut moments = Moments::new(DIMS, Device::Cpu)?;
    moments.add(features)?;
    moments.gaussian()
}

/// Fréchet and kernel distance, then precision, recall, density and coverage.
fn all(generated: &Tensor, reference: &Tensor) -> Result<[f64; 6], Error> {
    let distance = frechet(&gaussian(generated)?, &gaussian(reference)?, Singular::Refuse)?.distance;
    let overlap = Manifolds::between(generated, reference, 3)?;
    let mean = |rows: Vec<f64>| Estimate::mean(rows).map_or(f64::NAN, |it| it.value);
    let overlap = [overlap.precision, overlap.recall, overlap.density, overlap.coverage].map(mean);
    let [precision, recall, density, coverage] = overlap;
    Ok([distance, kernel_distance(generated, reference)?, precision, recall, density, coverage])
}

#[test]
fn identical_sets_are_perfect() -> Result<(), Error> {
    let features = points(1, 300, 4, 1.0);
    let [distance, kernel, precision, recall, _, coverage] = all(&features, &features)?;
    assert!(distance.abs() < 1e-6, "{distance}");
    assert!(kernel < 0.0, "the unbiased estimate lies below 0 where the rows are the same: {kernel}");
    assert_eq!((precision, recall, coverage), (1.0, 1.0, 1.0));
    // Without full rank, too.
    let flat = Tensor::cat(&[&features, &features.narrow(1, 0, 1)], 1);
    let mut moments = Moments::new(DIMS + 1, Device::Cpu)?;
    moments.add(&flat)?;
    let flat = moments.gaussian()?;
    let found = frechet(&flat, &flat, Singular::Allow)?;
    assert!(found.distance.abs() < 1e-6 && found.ranks == (DIMS, DIMS), "{found:?}");
    let refused = frechet(&flat, &flat, Singular::Refuse).unwrap_err().to_string();
    assert!(refused.contains("is singular (rank 6 of 7)"), "{refused}");
    Ok(())
}

#[test]
fn noise_drives_distances_up_and_precision_down() -> Result<(), Error> {
    let reference = points(1, 400, 4, 1.0);
    let mut before: Option<[f64; 6]> = None;
    for noise in [1.0, 2.0, 4.0] {
        let now = all(&points(2, 300, 4, noise), &reference)?;
        if let Some(before) = before {
            assert!(now[0] > before[0] && now[1] > before[1], "{before:?}, {now:?}");
            assert!(now[2] < before[2] && now[4] < before[4], "{before:?}, {now:?}");
        }
        before = Some(now);
    }
    Ok(())
}

#[test]
fn dropped_modes_drive_recall_and_coverage_down() -> Result<(), Error> {
    let reference = points(1, 400, 4, 1.0);
    let mut before: Option<[f64; 6]> = None;
    for modes in [4, 2, 1] {
        let now = all(&points(2, 300, modes, 1.0), &reference)?;
        if let Some(before) = before {
            assert!(now[0] > before[0] && now[1] > before[1], "{before:?}, {now:?}");
            assert!(now[3] < before[3] && now[5] < before[5], "{before:?}, {now:?}");
            assert!((now[2] - before[2]).abs() < 0.1, "what is left is as good as before: {before:?}, {now:?}");
        }
        before = Some(now);
    }
    Ok(())
}

#[test]
fn inception_scores_count_classes() -> Result<(), Error> {
    // Sure of one of 5 classes each, evenly: as many as there are.
    let sure = Tensor::eye(5, (Kind::Double, Device::Cpu)).repeat([8, 1]) * 60.0;
    assert!((inception_score(&sure, 2)?.score - 5.0).abs() < 1e-6);
    // Sure of the same class always, or of none: 1.
    let same = sure.narrow(0, 0, 1).repeat([40, 1]);
    assert!((inception_score(&same, 4)?.score - 1.0).abs() < 1e-6);
    assert!((inception_score(&(&sure * 0.0), 4)?.score - 1.0).abs() < 1e-9);
    Ok(())
}

#[test]
fn what_has_no_value_is_refused() -> Result<(), Error> {
    let message = |error: MetricError| error.to_string();
    let features = points(1, 20, 4, 1.0);
    let broken = points(1, 20, 4, 1.0);
    let _ = broken.get(7).get(2).fill_(f64::NAN);
    let mut moments = Moments::new(DIMS, Device::Cpu)?;
    moments.add(&features)?;
    assert!(message(moments.add(&broken).unwrap_err()).starts_with("row 27 of the features has a value"));
    assert!(message(moments.add(&features.narrow(1, 0, 3)).unwrap_err()).contains("of 3 dimensions"));
    assert!(message(Moments::new(DIMS, Device::Cpu)?.gaussian().unwrap_err()).contains("at least 2 rows"));
    assert!(message(Manifolds::between(&features.narrow(0, 0, 3), &features, 3).unwrap_err()).contains("at least 4"));
    assert!(message(kernel_distance(&features.narrow(0, 0, 1), &features).unwrap_err()).contains("at least 2 rows"));
    assert!(message(inception_score(&features, 21).unwrap_err()).contains("at least 21 rows"));
    assert!(message(inception_score(&broken, 2).unwrap_err()).contains("row 7"));
    let picture = |side: u32| Rgb { width: side, height: side, pixels: vec![0; (side * side * 3) as usize] };
    let small = PictureError::Small { size: (10, 10), window: 11 };
    assert_eq!(ssim(&picture(10), &picture(10), Window::Gaussian), Err(small));
    assert!(ssim(&picture(10), &picture(9), Window::Uniform).unwrap_err().to_string().contains("10x10"));
    Ok(())
}

#[test]
fn neighbours_are_the_nearest() -> Result<(), Error> {
    let (features, others) = (points(1, 30, 4, 1.0), points(2, 50, 4, 1.0));
    let (numbers, squares) = nearest(&features, &others, 3)?;
    for row in 0..30 {
        let mut all: Vec<(f64, i64)> = (0..50)
            .map(|other| ((features.get(row) - others.get(other)).square().sum(Kind::Double).double_value(&[]), other))
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (place, (square, other)) in all.into_iter().take(3).enumerate() {
            assert_eq!(numbers.int64_value(&[row, place as i64]), other);
            assert!((squares.double_value(&[row, place as i64]) - square).abs() < 1e-9);
        }
    }
    Ok(())
}

/// 95 of 100 intervals of a mean hold the true one; three quarters are asked for here.
#[test]
fn intervals_hold_the_truth() -> Result<(), Error> {
    let mut held = 0;
    for seed in 0..100 {
        let key = RowKey::new(seed, "values", 0, 0);
        let values = (0..200).map(|at| f64::from(key.uniform(Purpose::Init, at))).collect();
        let replicates = Estimate::mean(values).ok_or("no values")?.replicates(200, seed);
        let interval = Interval::of(&replicates).ok_or("no interval")?;
        assert!((interval.error - (1.0f64 / 12.0 / 200.0).sqrt()).abs() < 0.006, "{interval:?}");
        held += u32::from(interval.low <= 0.5 && 0.5 <= interval.high);
    }
    assert!((75..=100).contains(&held), "{held}");
    Ok(())
}

#[test]
fn differences_know_what_is_noise() -> Result<(), Error> {
    let values = |shift: f64| (0..400).map(|at| f64::from(at % 20) + shift).collect::<Vec<f64>>();
    let estimate = |shift: f64| Estimate::mean(values(shift)).ok_or("no values");
    let (first, second) = (estimate(0.0)?, estimate(0.1)?);
    let (a, b) = (first.replicates(300, 5), second.replicates(300, 5));
    let told = |paired| difference((first.value, &a), (second.value, &b), paired).ok_or("no difference");
    // Every row is better by 0.1: in pairs that is sure, of other rows it is nothing.
    assert!(!told(true)?.within_noise() && told(false)?.within_noise());
    assert!((told(true)?.difference - 0.1).abs() < 1e-9);
    assert!(difference((0.0, &[]), (1.0, &b), true).is_none());
    Ok(())
}

#[test]
fn the_spread_of_a_kernel_distance_shrinks_with_its_subsets() -> Result<(), Error> {
    let (generated, reference) = (points(2, 400, 4, 1.5), points(1, 400, 4, 1.0));
    let kid = |size| Kid::between(&generated, &reference, KidSettings { subsets: 30, size, seed: 1 });
    let (small, large) = (kid(20)?, kid(200)?);
    assert!(small.spread > 2.0 * large.spread, "{} and {}", small.spread, large.spread);
    let interval =
        Interval::of(&Estimate { value: large.distance, contributions: large.contributions }.replicates(200, 1));
    let interval = interval.ok_or("no interval")?;
    assert!(interval.low < kernel_distance(&generated, &reference)? && interval.high > interval.low);
    Ok(())
}
