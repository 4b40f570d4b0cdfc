//! How the token column is encoded: by codebook size and row count alone.
//!
//! The repetition levels of the token lists cost next to nothing because version 1 data pages compress them with the
//! values. `cargo bench --bench latents` prints what each choice costs.

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

/// Tokens of a full row group: 8192 rows of 16×16 grids, about 2.6 MB at 10 bits a token.
pub const ROW_GROUP_TOKENS: usize = 1 << 21;
/// Bytes of a data page of tokens, more than a row group has: fewer borders between the streams of bytes.
const TOKEN_PAGE: usize = 16 << 20;
/// zstd level of the token column. Tokens have no repetitions to find, and higher levels find some that cost more than
/// they save: at K = 2048, 11.04 bits a token at level 1, 11.57 at level 3, 11.42 at level 15.
const TOKEN_LEVEL: i32 = 1;
/// Largest codebook for which a dictionary is considered. Above it, bytes split by significance cost no dictionary and
/// ⌈log2 K⌉ + 0.05 bits a token at most (K = 4096, uniform tokens: + 0.003 to 0.053, by where the row count lets zstd's
/// blocks fall); below it, up to half a bit more.
const LARGEST_DICTIONARY: u32 = 2048;
/// From how many tokens per codebook entry a dictionary pays: an entry costs about 16 bits in each row group, so that
/// the dictionary stays below 1/8 bit per token.
const TOKENS_PER_ENTRY: u64 = 128;

/// How the token column is encoded, before zstd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Bit-packed indexes into a dictionary: ⌈log2 K⌉ bits a token, plus the dictionary in every row group.
    Dictionary,
    /// The bytes of equal significance together: no dictionary to pay for. zstd then finds the few values of the high
    /// byte, and none of the two that are always zero.
    ByteStreamSplit,
}

impl Layout {
    /// The layout of a unit of `rows` rows of `tokens` tokens each, of a codebook of `codebook_size` entries.
    pub fn choose(codebook_size: u32, tokens: usize, rows: usize) -> Layout {
        let in_group = (rows.min(row_group_rows(tokens)) as u64).saturating_mul(tokens as u64);
        let pays = in_group >= u64::from(codebook_size).saturating_mul(TOKENS_PER_ENTRY);
        if pays && codebook_size <= LARGEST_DICTIONARY { Layout::Dictionary } else { Layout::ByteStreamSplit }
    }

    /// The settings of a file with this layout, on top of those all tables share.
    pub(crate) fn properties(
        self,
        codebook_size: u32,
        base: WriterPropertiesBuilder,
    ) -> Result<WriterProperties, ParquetError> {
        let column = ColumnPath::new(["tokens", "list", "element"].map(str::to_owned).to_vec());
        let base = base
            .set_column_compression(column.clone(), Compression::ZSTD(ZstdLevel::try_new(TOKEN_LEVEL)?))
            .set_column_dictionary_enabled("key".into(), false)
            .set_column_dictionary_enabled("index".into(), false)
            .set_column_data_page_size_limit(column.clone(), TOKEN_PAGE);
        let all = match self {
            // A dictionary that reaches its limit falls back to plain values of 13 to 19 bits: the limit is above all
            // K entries of 4 bytes.
            Layout::Dictionary => {
                base.set_column_dictionary_page_size_limit(column, (codebook_size as usize + 1).saturating_mul(4))
            }
            Layout::ByteStreamSplit => base
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::BYTE_STREAM_SPLIT),
        };
        Ok(all.build())
    }
}

/// Rows of a full row group.
pub(crate) fn row_group_rows(tokens: usize) -> usize {
    (ROW_GROUP_TOKENS / tokens.max(1)).max(1)
}
