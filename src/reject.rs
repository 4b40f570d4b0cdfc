//! Why an image did not make it into the latents: rows of the `rejects` table.

use std::collections::BTreeSet;
use std::fmt;

/// A reason code. The codes are part of the `rejects` table: users filter on them, so they never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The label is not an integer, or out of range.
    BadLabel,
    /// Raw pixels that do not fit their shape, or a shape that is no image's.
    BadShape,
    /// The caption is not UTF-8.
    BadUtf8Caption,
    /// A container's structure is damaged: nothing after this point can be trusted.
    CorruptContainer,
    /// A checksum that does not fit its data.
    CrcMismatch,
    /// The image's own data is damaged.
    DecodeError,
    /// A sample has the same field twice.
    DuplicateMember,
    /// A file or field of zero bytes.
    Empty,
    /// A sample lacks a field its neighbours have, because its members do not lie together.
    IncompleteSample,
    /// An edit's mask that has not the size of its image.
    MaskSize,
    /// A sample without an image.
    MissingField,
    /// A link, device or directory where a file should be.
    NotARegularFile,
    /// Bytes of no image format.
    NotAnImage,
    /// A file without Parquet's signature.
    NotAParquet,
    /// More pixels or bytes than the configured limit.
    TooLarge,
    /// Fewer pixels than the configured minimum.
    TooSmall,
    /// The data ends early.
    Truncated,
    /// A member name that points outside its archive.
    UnsafePath,
    /// A real image, of a kind that is not decoded here.
    UnsupportedFormat,
}

impl Reason {
    /// Every reason, for readers of the `rejects` table.
    pub const ALL: [Reason; 19] = [
        Reason::BadLabel,
        Reason::BadShape,
        Reason::BadUtf8Caption,
        Reason::CorruptContainer,
        Reason::CrcMismatch,
        Reason::DecodeError,
        Reason::DuplicateMember,
        Reason::Empty,
        Reason::IncompleteSample,
        Reason::MaskSize,
        Reason::MissingField,
        Reason::NotARegularFile,
        Reason::NotAnImage,
        Reason::NotAParquet,
        Reason::TooLarge,
        Reason::TooSmall,
        Reason::Truncated,
        Reason::UnsafePath,
        Reason::UnsupportedFormat,
    ];

    /// The code as it stands in the `rejects` table.
    pub fn code(self) -> &'static str {
        match self {
            Reason::BadLabel => "bad_label",
            Reason::BadShape => "bad_shape",
            Reason::BadUtf8Caption => "bad_utf8_caption",
            Reason::CorruptContainer => "corrupt_container",
            Reason::CrcMismatch => "crc_mismatch",
            Reason::DecodeError => "decode_error",
            Reason::DuplicateMember => "duplicate_member",
            Reason::Empty => "empty",
            Reason::IncompleteSample => "incomplete_sample",
            Reason::MaskSize => "mask_size",
            Reason::MissingField => "missing_field",
            Reason::NotARegularFile => "not_a_regular_file",
            Reason::NotAnImage => "not_an_image",
            Reason::NotAParquet => "not_a_parquet",
            Reason::TooLarge => "too_large",
            Reason::TooSmall => "too_small",
            Reason::Truncated => "truncated",
            Reason::UnsafePath => "unsafe_path",
            Reason::UnsupportedFormat => "unsupported_format",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Every stage that may refuse a sample, as it stands in the `rejects` table.
pub const STAGES: [&str; 5] = ["read", "decode", "mask", "tokenize", "encode"];

/// One row of the `rejects` table: a sample, or the rest of a broken container, that was not encoded, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The shard or file it came from, relative to the dataset's root.
    pub source: String,
    /// The sample's key; empty for the rest of a container.
    pub key: String,
    /// Position of the sample in its work unit, counted over all samples, rejected ones included.
    pub index: u64,
    /// The work unit's name.
    pub unit: String,
    /// The stage that refused it: one of [`STAGES`].
    pub stage: &'static str,
    pub reason: Reason,
    /// One sentence for the user: what was wrong with it.
    pub message: String,
}

/// Which samples of a unit its rejects account for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// The indexes of the rejects themselves.
    pub indexes: BTreeSet<u64>,
    /// From where on the unit was given up as a whole: the first reject without a key.
    rest: Option<u64>,
}

impl Rejected {
    /// Adds a reject.
    pub fn add(&mut self, reject: &Reject) {
        self.indexes.insert(reject.index);
        // A reject without a key stands for all that follows it.
        if reject.key.is_empty() {
            self.rest = Some(self.rest.map_or(reject.index, |first| first.min(reject.index)));
        }
    }

    /// Whether the sample at `index` is one of them.
    pub fn has(&self, index: u64) -> bool {
        self.indexes.contains(&index) || self.rest.is_some_and(|first| index >= first)
    }
}
