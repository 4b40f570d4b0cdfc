//! What no network can undercut: bounds of the losses that are known before anything is trained.

use super::Schedule;
use super::posterior::Mixture;

/// The loss of who knows nothing, in nats a token: every code is as likely as any other, ln K.
pub fn uniform_bound(codes: i64) -> f64 {
    (codes.max(1) as f64).ln()
}

/// The expected hard loss at scale t, 1..=T, that noise alone makes, in nats a token: E H(x_{t-1} | x_t, x_0).
///
/// Of a token that is disturbed, nobody can know to which code. Given x_0 and x_t the tokens of x_{t-1} are independent of each
/// other, so neither the tokens before nor the other ones of x_t help, and a network that was told x_0 would still pay the entropy
/// of q(x_{t-1} | x_t, x_0) for every token. The real one is not told, and pays more:
///
/// ```text
/// E hard = E H(x_{t-1} | x_t, x_0) + E soft,      soft = KL(q(x_{t-1} | x_t, x_0) || p)
/// ```
///
/// since x_{t-1} is drawn from q: the hard loss is the soft one above this floor, on average over many batches. The soft loss
/// in turn has the floor 0, which says nothing of the data: what is left of it in the best network is what x_0 tells of
/// x_{t-1} beyond x_t and the tokens before, the entropy of the data, which nobody knows.
///
/// The posterior is one of two mixtures, for x_t = x_0 and for x_t another code, whatever the codes; the first happens with
/// probability a + (1 - a) / K, where a is the cumulative alpha of t. So the expectation is a sum of two terms and needs no data.
/// At scale 1 it is 0: x_{t-1} is x_0.
pub fn noise_floor(schedule: &Schedule, codes: i64, t: u32) -> f64 {
    let codes = codes.max(1) as f64;
    let (before, alpha) = (f64::from(schedule.cumulative(t.saturating_sub(1))), f64::from(schedule.alpha(t)));
    let kept = before * alpha;
    let same = kept + (1.0 - kept) / codes;
    let entropy = |is_same| -Mixture::new(before, alpha, codes, is_same).negative_entropy;
    // With one code there is no other.
    let other = if codes > 1.0 { (1.0 - same) * entropy(false) } else { 0.0 };
    (same * entropy(true) + other).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::super::{Posteriors, forward, hard_loss};
    use super::*;
    use crate::config::ScheduleValue;
    use crate::random::RowKey;
    use tch::{Device, Kind, Tensor};

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// 2^18 tokens of random grids, disturbed by the forward process: entropies and losses of the posterior that knows x_0.
    #[test]
    fn the_floor_is_what_the_forward_process_shows() -> Outcome {
        let (codes, rows, tokens) = (12, 1 << 10, 1 << 8);
        for (name, scales) in [("geometric", 3), ("alphacum:1,0.9,0.5,0.1,0.02", 4)] {
            let schedule = Schedule::new(&ScheduleValue::Name(name.to_owned()), scales)?;
            let posteriors = Posteriors::new(&schedule, codes, Device::Cpu)?;
            let ids: Vec<i64> = (0..rows * tokens).map(|i| i * 7919 % codes).collect();
            let x_0 = Tensor::from_slice(&ids).view([rows, tokens]);
            let keys: Vec<RowKey> = (0..rows as u64).map(|row| RowKey::new(5, "floors", row, 0)).collect();
            let walked = forward(&x_0, &schedule, codes, &keys)?;
            for t in 1..=scales {
                let scale = Tensor::full([rows], i64::from(t), (Kind::Int64, Device::Cpu));
                let (before, x_t) = walked.pair(&scale)?;
                let posterior = posteriors.at(&scale, &x_0, &x_t)?;
                let floor = noise_floor(&schedule, codes, t);
                let entropy = posterior.entropy()?.mean(Kind::Double).double_value(&[]);
                assert!((entropy - floor).abs() < 0.01, "{name}, scale {t}: {floor}, entropies say {entropy}");
                let of_truth = posterior.of(&before)?.log().mean(Kind::Double).double_value(&[]);
                assert!((of_truth + floor).abs() < 0.01, "{name}, scale {t}: {floor}, draws say {of_truth}");
            }
        }
        Ok(())
    }

    /// A network that is told x_0 has the floor as its hard loss.
    #[test]
    fn the_hard_loss_of_the_posterior_is_the_floor() -> Outcome {
        let (codes, t) = (5, 2);
        let schedule = Schedule::new(&ScheduleValue::Name("geometric".to_owned()), 3)?;
        let x_0 = Tensor::arange(1 << 16, (Kind::Int64, Device::Cpu)).remainder(codes).view([256, 256]);
        let keys: Vec<RowKey> = (0..256).map(|row| RowKey::new(6, "floors", row, 0)).collect();
        let scale = Tensor::full([256], t, (Kind::Int64, Device::Cpu));
        let (before, x_t) = forward(&x_0, &schedule, codes, &keys)?.pair(&scale)?;
        let logits = Posteriors::new(&schedule, codes, Device::Cpu)?.at(&scale, &x_0, &x_t)?.dense()?.log();
        let hard = hard_loss(&logits, &before)?.mean(Kind::Double).double_value(&[]);
        let floor = noise_floor(&schedule, codes, t as u32);
        assert!((hard - floor).abs() < 0.01, "{hard} for {floor}");
        Ok(())
    }

    #[test]
    fn bounds_of_special_schedules() -> Outcome {
        let geometric = Schedule::new(&ScheduleValue::Name("geometric".to_owned()), 4)?;
        for t in 1..=4 {
            let floor = noise_floor(&geometric, 1024, t);
            assert!(floor >= 0.0 && floor < uniform_bound(1024), "{floor}");
        }
        assert_eq!(noise_floor(&geometric, 1024, 1), 0.0);
        assert_eq!((noise_floor(&geometric, 1, 3), uniform_bound(1)), (0.0, 0.0));
        // The last step redraws everything: x_T tells nothing, and x_{T-1} is half noise of 2 codes, so 3/4 to 1/4.
        let halves = Schedule::new(&ScheduleValue::Name("alphacum:1,0.5,0".to_owned()), 2)?;
        let expected = -(0.75f64 * 0.75f64.ln() + 0.25 * 0.25f64.ln());
        assert!((noise_floor(&halves, 2, 2) - expected).abs() < 1e-6);
        Ok(())
    }
}
