//! Counter-based random numbers: every draw is a pure function of what it is for.
//!
//! A draw is keyed by (seed, row, scale, pass, position), where a row is (unit, index in unit, crop). No stream is shared,
//! so a row's numbers do not depend on workers, ranks, batches or interruptions. The generator is Philox4x32-10
//! (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

use sha2::{Digest, Sha256};

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// One Philox4x32-10 block: four uniform words for a counter and a key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let product =
            [u64::from(MULTIPLIERS[0]) * u64::from(counter[0]), u64::from(MULTIPLIERS[1]) * u64::from(counter[2])];
        counter = [
            (product[1] >> 32) as u32 ^ counter[1] ^ key[0],
            product[1] as u32,
            (product[0] >> 32) as u32 ^ counter[3] ^ key[1],
            product[0] as u32,
        ];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// What a draw is for, so that two uses of one row never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Where a random crop lies.
    Crop,
    /// Which entry stands in for an outlier of a remapped codebook.
    Outlier,
    /// Gumbel noise of a Gumbel tokenizer.
    Gumbel,
    /// Weights of a freshly initialised network, and the demo's pictures.
    Init,
    /// The pure noise x_T that sampling starts from.
    Start,
    /// Sampling: the one number that chooses a token from its distribution.
    Token,
    /// The forward process: whether a token is redrawn.
    Redraw,
    /// The forward process: what it is redrawn to.
    Noise,
    /// The order of training rows.
    Shuffle,
    /// Training: whether a row is shown without its condition.
    Dropout,
    /// Joint training: the scale of a batch.
    Scale,
    /// Whether a training image is mirrored.
    Flip,
    /// Which features stand in for a codebook's dead entries.
    Restart,
    /// Which rows a resample of an evaluation holds.
    Resample,
    /// Which rows a subset of an evaluation holds.
    Subset,
    /// Editing: the candidates of a pass beside the first, and which one stays.
    Candidate,
}

impl Purpose {
    fn code(self) -> u32 {
        match self {
            Purpose::Crop => 1,
            Purpose::Outlier => 2,
            Purpose::Gumbel => 3,
            Purpose::Init => 4,
            Purpose::Start => 5,
            Purpose::Token => 6,
            Purpose::Redraw => 7,
            Purpose::Noise => 8,
            Purpose::Shuffle => 9,
            Purpose::Dropout => 10,
            Purpose::Scale => 11,
            Purpose::Flip => 12,
            Purpose::Restart => 13,
            Purpose::Resample => 14,
            Purpose::Subset => 15,
            Purpose::Candidate => 16,
        }
    }
}

/// The random numbers of one row: a key that is cheap to copy and to send between threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowKey {
    key: [u32; 2],
    stem: u32,
    lane: u32,
}

impl RowKey {
    /// The row of a run's `seed` that is crop `crop` of sample `index` in the work unit `unit`.
    pub fn new(seed: u64, unit: &str, index: u64, crop: u32) -> RowKey {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        hash.update((unit.len() as u64).to_le_bytes());
        hash.update(unit.as_bytes());
        hash.update(index.to_le_bytes());
        hash.update(crop.to_le_bytes());
        let digest = hash.finalize();
        let word = |at: usize| u32::from_le_bytes([digest[at], digest[at + 1], digest[at + 2], digest[at + 3]]);
        RowKey { key: [word(0), word(4)], stem: word(8), lane: 0 }
    }

    /// The same row's numbers for one `pass` over one scale: each pair has its own. What belongs to no scale is scale 0, pass 0.
    pub fn at(&self, scale: u16, pass: u16) -> RowKey {
        RowKey { lane: u32::from(scale) << 16 | u32::from(pass), ..*self }
    }

    /// 32 uniform bits for `position` of the draw `purpose`.
    pub fn bits(&self, purpose: Purpose, position: u32) -> u32 {
        philox([position / 4, purpose.code(), self.stem, self.lane], self.key)[(position % 4) as usize]
    }

    /// A uniform number in `[0, 1)` with 24 bits, exact in `f32`.
    pub fn uniform(&self, purpose: Purpose, position: u32) -> f32 {
        (self.bits(purpose, position) >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// A uniform integer in `0..bound`; 0 when `bound` is 0. The bias is below `bound / 2^32`.
    pub fn below(&self, purpose: Purpose, position: u32, bound: u32) -> u32 {
        ((u64::from(self.bits(purpose, position)) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let base = RowKey::new(1, "a.tar", 0, 0).bits(Purpose::Crop, 0);
        assert_ne!(base, RowKey::new(2, "a.tar", 0, 0).bits(Purpose::Crop, 0));
        assert_ne!(base, RowKey::new(1, "b.tar", 0, 0).bits(Purpose::Crop, 0));
        assert_ne!(base, RowKey::new(1, "a.tar", 1, 0).bits(Purpose::Crop, 0));
        assert_ne!(base, RowKey::new(1, "a.tar", 0, 1).bits(Purpose::Crop, 0));
        assert_ne!(base, RowKey::new(1, "a.tar", 0, 0).bits(Purpose::Outlier, 0));
        assert_ne!(base, RowKey::new(1, "a.tar", 0, 0).bits(Purpose::Crop, 1));
        assert_ne!(base, RowKey::new(1, "a.tar", 0, 0).at(1, 0).bits(Purpose::Crop, 0));
        assert_ne!(base, RowKey::new(1, "a.tar", 0, 0).at(0, 1).bits(Purpose::Crop, 0));
        assert_eq!(base, RowKey::new(1, "a.tar", 0, 0).at(0, 0).bits(Purpose::Crop, 0));
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let row = RowKey::new(7, "u", 3, 0);
        let mut counts = [0u32; 5];
        for position in 0..50_000 {
            counts[row.below(Purpose::Outlier, position, 5) as usize] += 1;
        }
        assert!(counts.iter().all(|&n| (9_600..10_400).contains(&n)), "{counts:?}");
        assert_eq!(row.below(Purpose::Outlier, 0, 0), 0);
    }
}
