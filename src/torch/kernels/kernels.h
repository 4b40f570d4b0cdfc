// What kernels.cpp (threads, C ABI) and isa.cpp (arithmetic, compiled once per instruction set) share.
#pragma once
#include <cstdint>

namespace imagebart {

// Winograd F(4x4, 3x3): a tile is 4x4 outputs of 6x6 inputs; 36 products for each pair of channels instead of 144.
constexpr int64_t TILE = 4, PATCH = 6, POINTS = PATCH * PATCH;
// Interpolation points 0, +-A, +-B, infinity. Every product of theirs in the transforms is exact in fp32, and the error is half
// of that of the usual 0, +-1, +-2 (Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution").
constexpr double POINT_A = 0.625, POINT_B = 1.5;
// Output channels of a panel of weights; tiles or output pixels of a block; input channels transformed at a time.
constexpr int64_t PANEL = 32, BLOCK = 32, CHUNK = 32;
// The largest kernel of a direct convolution, in pixels.
constexpr int64_t TAPS = 9;

// A convolution, as `shim/kernels.rs` fills it in. All tensors are fp32, contiguous, channels innermost.
struct Convolution {
  const float *x;                // [batch, in_height, in_width, in_channels]
  const float *weights;          // packed: imagebart_pack_*
  const float *bias;             // [channels]
  const float *scale, *shift;    // [batch, in_channels] or null: first, x becomes swish(scale * x + shift); Winograd only
  const float *residual;         // [batch, height, width, channels], or null: added to the result
  float *y;                      // [batch, height, width, channels]; may be `residual`
  int64_t batch, in_height, in_width, in_channels, height, width, channels;
  int64_t side, stride, padding; // of the kernel; `padding` is above and left, zeros follow right and below as needed
  int64_t magnify;               // 2: every input pixel counts as 2x2, Winograd only; else 1
};

// A linear layer of few rows, y = x weight^T + bias. All tensors are fp32 and dense.
struct Linear {
  const float *x;       // [rows, in]
  const float *weight;  // [out, in]
  const float *bias;    // [out], or null
  float *y;             // [rows, out]
  int64_t rows, in, out;
};

// How a convolution is cut into work items. An output's sum is the same whatever the cut.
struct Plan {
  int64_t block_n, block_h, block_w;     // images, rows and columns of tiles of a Winograd block
  int64_t blocks_n, blocks_y, blocks_x;  // their number; a direct convolution has blocks_x blocks of BLOCK pixels
  int64_t panels, splits;                // an item computes about panels / splits panels
  int64_t items;
};

struct Isa {
  void (*winograd)(const Convolution &, const Plan &, int64_t item, float *scratch);
  void (*direct)(const Convolution &, const Plan &, int64_t item, float *scratch);
  // y = scale * x + shift for pixels of one image, then swish if asked.
  void (*affine)(const float *x, int64_t pixels, int64_t channels, const float *scale, const float *shift, bool swish,
                 float *y);
  // Sums of (x - origin) and (x - origin)^2 over pixels, for each channel.
  void (*moments)(const float *x, int64_t pixels, int64_t channels, const float *origin, float *sum, float *square);
  // Outputs first .. first + count of a linear layer, for all rows.
  void (*linear)(const Linear &, int64_t first, int64_t count);
};

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// Floats between transformed tiles: padded, so that rows do not fall on the same cache sets.
inline int64_t tile_stride(int64_t channels) { return ceil_div(channels, CHUNK) * CHUNK + 16; }
constexpr int64_t STRIP_FLOATS = BLOCK * PATCH * PATCH * CHUNK;
constexpr int64_t PRODUCT_FLOATS = POINTS * BLOCK * PANEL;
// Scratch memory of a thread.
inline int64_t scratch_floats(int64_t in_channels) {
  return STRIP_FLOATS + PRODUCT_FLOATS + POINTS * BLOCK * tile_stride(in_channels);
}

extern const Isa isa_baseline, isa_avx2, isa_avx512;

}  // namespace imagebart
