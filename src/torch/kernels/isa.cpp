// The arithmetic of the kernels, compiled once per instruction set: IMAGEBART_ISA names its table of functions,
// IMAGEBART_LANES is the number of floats in a register. Nothing with external linkage may be instantiated here (no standard
// library): the linker would be free to use this instruction set's copy everywhere.

#include "kernels.h"

namespace imagebart {
namespace {

constexpr int LANES = IMAGEBART_LANES;
typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t Int __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define INLINE inline __attribute__((always_inline))

INLINE Vec load(const float *p) { return *reinterpret_cast<const Unaligned *>(p); }
INLINE void store(float *p, Vec v) { *reinterpret_cast<Unaligned *>(p) = v; }

// e^x within about 1 ulp where it is a normal number, held at both ends of that range; NaN stays NaN. The polynomial is that
// of Cephes' expf.
INLINE Vec exp(Vec x) {
  const Vec zero = {};
  x = x > zero + 88.0f ? zero + 88.0f : x;
  x = x < zero - 87.0f ? zero - 87.0f : x;
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec n = (x * 1.44269504088896341f + round) - round;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = zero + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Int exponent = (__builtin_convertvector(n, Int) + 127) << 23;
  return p * (Vec)exponent;
}

INLINE Vec swish(Vec x) { return x / (exp(-x) + 1.0f); }

// One number, by the same arithmetic as many.
INLINE float swish(float x) {
  const Vec v = {};
  return swish(v + x)[0];
}

// out[m][lane] = sum over taps and channels of a[tap][m][channel] * b[tap][channel][lane], in this order, for V registers of
// lanes. Rows of b and out are PANEL floats apart, taps of a BLOCK pointers.
template <int M, int V>
INLINE void multiply(const float *const *a, int64_t taps, const float *b, int64_t channels, float *out) {
  Vec sum[M][V];
  #pragma GCC unroll 16
  for (int m = 0; m < M; m++)
    #pragma GCC unroll 4
    for (int v = 0; v < V; v++) sum[m][v] = Vec{};
  for (int64_t tap = 0; tap < taps; tap++, a += BLOCK) {
    const float *row[M];
    #pragma GCC unroll 16
    for (int m = 0; m < M; m++) row[m] = a[m];
    for (int64_t c = 0; c < channels; c++, b += PANEL) {
      Vec w[V];
      #pragma GCC unroll 4
      for (int v = 0; v < V; v++) w[v] = load(b + v * LANES);
      #pragma GCC unroll 16
      for (int m = 0; m < M; m++) {
        const float s = row[m][c];
        #pragma GCC unroll 4
        for (int v = 0; v < V; v++) sum[m][v] += s * w[v];
      }
    }
  }
  #pragma GCC unroll 16
  for (int m = 0; m < M; m++)
    #pragma GCC unroll 4
    for (int v = 0; v < V; v++) store(out + m * PANEL + v * LANES, sum[m][v]);
}

template <int M>
void multiply_panel(const float *const *a, int64_t taps, const float *b, int64_t channels, float *out) {
  for (int64_t lane = 0; lane < PANEL; lane += 2 * LANES) multiply<M, 2>(a, taps, b + lane, channels, out + lane);
}

// Rows at a time: as many as the registers hold sums of (32 registers with AVX-512, else 16).
constexpr int ROWS = LANES == 16 ? 8 : 6;

void multiply_rows(const float *const *a, int64_t rows, int64_t taps, const float *b, int64_t channels, float *out) {
  for (; rows >= ROWS; rows -= ROWS, a += ROWS, out += ROWS * PANEL) multiply_panel<ROWS>(a, taps, b, channels, out);
  for (; rows >= 4; rows -= 4, a += 4, out += 4 * PANEL) multiply_panel<4>(a, taps, b, channels, out);
  for (; rows >= 1; rows -= 1, a += 1, out += PANEL) multiply_panel<1>(a, taps, b, channels, out);
}

constexpr float A1 = POINT_A, B1 = POINT_B, A2 = A1 * A1, B2 = B1 * B1, A3 = A2 * A1, B3 = B2 * B1;

// One dimension of the input transform: coefficients of the polynomials that vanish at all points but one.
INLINE void transform_input(const Vec *d, Vec *o) {
  o[0] = d[0] * (A2 * B2) + (d[4] - d[2] * (A2 + B2));
  const Vec ea = d[4] - d[2] * B2, oa = (d[3] - d[1] * B2) * A1;
  o[1] = ea + oa;
  o[2] = ea - oa;
  const Vec eb = d[4] - d[2] * A2, ob = (d[3] - d[1] * A2) * B1;
  o[3] = eb + ob;
  o[4] = eb - ob;
  o[5] = d[1] * (A2 * B2) + (d[5] - d[3] * (A2 + B2));
}

// One dimension of the output transform: powers of the points. Results are `step` apart.
INLINE void transform_output(const Vec *m, Vec *o, int step) {
  const Vec ea = m[1] + m[2], oa = m[1] - m[2], eb = m[3] + m[4], ob = m[3] - m[4];
  o[0] = m[0] + ea + eb;
  o[step] = oa * A1 + ob * B1;
  o[2 * step] = ea * A2 + eb * B2;
  o[3 * step] = oa * A3 + (ob * B3 + m[5]);
}

// Stores lanes 0..count plus bias and residual.
INLINE void finish(const Convolution &p, Vec value, int64_t channel, int64_t at, int64_t count) {
  if (count >= LANES) {
    value += load(p.bias + channel);
    if (p.residual != nullptr) value += load(p.residual + at);
    store(p.y + at, value);
    return;
  }
  for (int64_t i = 0; i < count; i++)
    p.y[at + i] = value[i] + p.bias[channel + i] + (p.residual != nullptr ? p.residual[at + i] : 0.0f);
}

// A rectangle of tiles: image, first tile, number of tiles.
struct Tiles {
  int64_t image, y, x, rows, columns;
};

// The input pixels of tiles, channels first..first + CHUNK, into `strip` [pixel rows][pixel columns][CHUNK]; zero outside the
// image and beyond the last channel.
void fill(const Convolution &p, const Tiles &tiles, int64_t first, float *strip) {
  const int64_t count = least(CHUNK, p.in_channels - first);
  const int64_t offset = tiles.image * p.in_channels + first;
  const float *scale = p.scale != nullptr ? p.scale + offset : nullptr;
  const float *shift = p.scale != nullptr ? p.shift + offset : nullptr;
  const int64_t y0 = tiles.y * TILE - 1, x0 = tiles.x * TILE - 1;
  for (int64_t y = y0; y < y0 + tiles.rows * TILE + 2; y++) {
    for (int64_t x = x0; x < x0 + tiles.columns * TILE + 2; x++, strip += CHUNK) {
      if (y < 0 || y >= p.height || x < 0 || x >= p.width) {
        for (int64_t i = 0; i < CHUNK; i++) strip[i] = 0.0f;
        continue;
      }
      const int64_t pixel = (tiles.image * p.in_height + y / p.magnify) * p.in_width + x / p.magnify;
      const float *from = p.x + pixel * p.in_channels + first;
      if (count == CHUNK) {
        for (int64_t i = 0; i < CHUNK; i += LANES) {
          const Vec v = load(from + i);
          store(strip + i, scale != nullptr ? swish(v * load(scale + i) + load(shift + i)) : v);
        }
        continue;
      }
      for (int64_t i = 0; i < CHUNK; i++) {
        const float v = i < count ? from[i] : 0.0f;
        strip[i] = i < count && scale != nullptr ? swish(v * scale[i] + shift[i]) : v;
      }
    }
  }
}

// A patch of the strip to its POINTS values, `step` floats apart.
INLINE void transform_patch(const float *from, int64_t row, float *to, int64_t step) {
  Vec half[POINTS];
  for (int x = 0; x < PATCH; x++) {
    Vec d[PATCH], o[PATCH];
    #pragma GCC unroll 6
    for (int y = 0; y < PATCH; y++) d[y] = load(from + y * row + x * CHUNK);
    transform_input(d, o);
    #pragma GCC unroll 6
    for (int y = 0; y < PATCH; y++) half[y * PATCH + x] = o[y];
  }
  for (int y = 0; y < PATCH; y++) {
    Vec o[PATCH];
    transform_input(half + y * PATCH, o);
    #pragma GCC unroll 6
    for (int x = 0; x < PATCH; x++) store(to + (y * PATCH + x) * step, o[x]);
  }
}

// Transforms tiles into `to` [POINTS][BLOCK][stride], from its first row on. Returns their number.
int64_t transform_tiles(const Convolution &p, const Tiles &tiles, float *strip, float *to, int64_t stride) {
  const int64_t row = (tiles.columns * TILE + 2) * CHUNK;
  for (int64_t first = 0; first < p.in_channels; first += CHUNK) {
    fill(p, tiles, first, strip);
    float *tile = to + first;
    for (int64_t y = 0; y < tiles.rows; y++)
      for (int64_t x = 0; x < tiles.columns; x++, tile += stride)
        for (int64_t i = 0; i < CHUNK; i += LANES)
          transform_patch(strip + y * TILE * row + x * TILE * CHUNK + i, row, tile + i, BLOCK * stride);
  }
  return tiles.rows * tiles.columns;
}

// Products [POINTS][BLOCK][PANEL] of tiles, from their first row on, to output pixels.
void finish_tiles(const Convolution &p, const Tiles &tiles, const float *products, int64_t panel) {
  const int64_t channels = least(PANEL, p.channels - panel * PANEL);
  for (int64_t tile = 0; tile < tiles.rows * tiles.columns; tile++) {
    const int64_t y0 = (tiles.y + tile / tiles.columns) * TILE, x0 = (tiles.x + tile % tiles.columns) * TILE;
    const int64_t rows = least(TILE, p.height - y0), columns = least(TILE, p.width - x0);
    for (int64_t i = 0; i < channels; i += LANES) {
      Vec half[TILE * PATCH], out[TILE * TILE];
      for (int x = 0; x < PATCH; x++) {
        Vec m[PATCH];
        #pragma GCC unroll 6
        for (int y = 0; y < PATCH; y++) m[y] = load(products + ((y * PATCH + x) * BLOCK + tile) * PANEL + i);
        transform_output(m, half + x, PATCH);
      }
      for (int y = 0; y < TILE; y++) transform_output(half + y * PATCH, out + y * TILE, 1);
      for (int64_t y = 0; y < rows; y++) {
        for (int64_t x = 0; x < columns; x++) {
          const int64_t pixel = (tiles.image * p.height + y0 + y) * p.width + x0 + x, channel = panel * PANEL + i;
          finish(p, out[y * TILE + x], channel, pixel * p.channels + channel, channels - i);
        }
      }
    }
  }
}

void winograd(const Convolution &p, const Plan &plan, int64_t item, float *scratch) {
  const int64_t split = item % plan.splits, block = item / plan.splits;
  const int64_t x = block % plan.blocks_x * plan.block_w, y = block / plan.blocks_x % plan.blocks_y * plan.block_h;
  const int64_t image = block / plan.blocks_x / plan.blocks_y * plan.block_n;
  const int64_t images = least(plan.block_n, p.batch - image);
  Tiles tiles = {image, y, x, least(plan.block_h, ceil_div(p.height, TILE) - y),
                 least(plan.block_w, ceil_div(p.width, TILE) - x)};
  const int64_t stride = tile_stride(p.in_channels);
  float *strip = scratch, *products = strip + STRIP_FLOATS, *inputs = products + PRODUCT_FLOATS;

  int64_t rows = 0;
  for (; tiles.image < image + images; tiles.image++)
    rows += transform_tiles(p, tiles, strip, inputs + rows * stride, stride);

  const int64_t end = plan.panels * (split + 1) / plan.splits;
  for (int64_t panel = plan.panels * split / plan.splits; panel < end; panel++) {
    const float *weights = p.weights + panel * POINTS * p.in_channels * PANEL;
    for (int64_t point = 0; point < POINTS; point++, weights += p.in_channels * PANEL) {
      const float *a[BLOCK];
      for (int64_t i = 0; i < rows; i++) a[i] = inputs + (point * BLOCK + i) * stride;
      multiply_rows(a, rows, 1, weights, p.in_channels, products + point * BLOCK * PANEL);
    }
    const float *from = products;
    for (tiles.image = image; tiles.image < image + images; tiles.image++, from += tiles.rows * tiles.columns * PANEL)
      finish_tiles(p, tiles, from, panel);
  }
}

void direct(const Convolution &p, const Plan &plan, int64_t item, float *scratch) {
  const int64_t split = item % plan.splits, first = item / plan.splits * BLOCK;
  const int64_t rows = least(BLOCK, p.batch * p.height * p.width - first), taps = p.side * p.side;
  float *zeros = scratch, *products = scratch + STRIP_FLOATS;
  const float *a[TAPS * BLOCK];
  for (int64_t i = 0; i < p.in_channels; i++) zeros[i] = 0.0f;
  for (int64_t tap = 0; tap < taps; tap++) {
    for (int64_t i = 0; i < rows; i++) {
      const int64_t pixel = first + i, image = pixel / (p.height * p.width);
      const int64_t y = pixel / p.width % p.height * p.stride - p.padding + tap / p.side;
      const int64_t x = pixel % p.width * p.stride - p.padding + tap % p.side;
      const bool inside = y >= 0 && y < p.in_height && x >= 0 && x < p.in_width;
      a[tap * BLOCK + i] = inside ? p.x + ((image * p.in_height + y) * p.in_width + x) * p.in_channels : zeros;
    }
  }
  const int64_t end = plan.panels * (split + 1) / plan.splits;
  for (int64_t panel = plan.panels * split / plan.splits; panel < end; panel++) {
    multiply_rows(a, rows, taps, p.weights + panel * taps * p.in_channels * PANEL, p.in_channels, products);
    const int64_t channel = panel * PANEL, channels = least(PANEL, p.channels - channel);
    for (int64_t i = 0; i < rows; i++)
      for (int64_t lane = 0; lane < channels; lane += LANES)
        finish(p, load(products + i * PANEL + lane), channel + lane, (first + i) * p.channels + channel + lane,
               channels - lane);
  }
}

void affine(const float *x, int64_t pixels, int64_t channels, const float *scale, const float *shift, bool swished,
            float *y) {
  for (int64_t pixel = 0; pixel < pixels; pixel++, x += channels, y += channels) {
    int64_t i = 0;
    for (; i + LANES <= channels; i += LANES) {
      const Vec v = load(x + i) * load(scale + i) + load(shift + i);
      store(y + i, swished ? swish(v) : v);
    }
    for (; i < channels; i++) {
      const float v = x[i] * scale[i] + shift[i];
      y[i] = swished ? swish(v) : v;
    }
  }
}

template <int V>
INLINE void sum_channels(const float *x, int64_t pixels, int64_t channels, const float *origin, float *sum, float *square) {
  Vec o[V], s[V], q[V];
  #pragma GCC unroll 4
  for (int v = 0; v < V; v++) o[v] = load(origin + v * LANES), s[v] = q[v] = Vec{};
  for (int64_t pixel = 0; pixel < pixels; pixel++, x += channels) {
    #pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const Vec d = load(x + v * LANES) - o[v];
      s[v] += d;
      q[v] += d * d;
    }
  }
  #pragma GCC unroll 4
  for (int v = 0; v < V; v++) store(sum + v * LANES, s[v]), store(square + v * LANES, q[v]);
}

void moments(const float *x, int64_t pixels, int64_t channels, const float *origin, float *sum, float *square) {
  int64_t i = 0;
  for (; i + 4 * LANES <= channels; i += 4 * LANES)
    sum_channels<4>(x + i, pixels, channels, origin + i, sum + i, square + i);
  for (; i + LANES <= channels; i += LANES)
    sum_channels<1>(x + i, pixels, channels, origin + i, sum + i, square + i);
  for (; i < channels; i++) {
    sum[i] = square[i] = 0.0f;
    for (int64_t pixel = 0; pixel < pixels; pixel++) {
      const float d = x[pixel * channels + i] - origin[i];
      sum[i] += d;
      square[i] += d * d;
    }
  }
}

// The sum over all lanes, by halves.
INLINE float total(Vec v) {
  #pragma GCC unroll 4
  for (int half = LANES / 2; half > 0; half /= 2) {
    Int other;
    #pragma GCC unroll 16
    for (int lane = 0; lane < LANES; lane++) other[lane] = lane ^ half;
    v += __builtin_shuffle(v, other);
  }
  return v[0];
}

// The last, incomplete register of a row: `count` floats, then zeros.
INLINE Vec load_part(const float *p, int64_t count) {
  Vec v = {};
  for (int64_t i = 0; i < count; i++) v[i] = p[i];
  return v;
}

// W outputs of M rows. Every sum runs through one register in the order of the inputs, whatever W and M: a row's result does
// not depend on the rows beside it.
template <int W, int M>
void dots(const Linear &p, int64_t output, int64_t row) {
  Vec sum[W][M];
  #pragma GCC unroll 8
  for (int w = 0; w < W; w++)
    #pragma GCC unroll 4
    for (int m = 0; m < M; m++) sum[w][m] = Vec{};
  const float *weight = p.weight + output * p.in, *x = p.x + row * p.in;
  const auto add = [&](const auto &read) {
    Vec b[W];
    #pragma GCC unroll 8
    for (int w = 0; w < W; w++) b[w] = read(weight + w * p.in);
    #pragma GCC unroll 4
    for (int m = 0; m < M; m++) {
      const Vec a = read(x + m * p.in);
      #pragma GCC unroll 8
      for (int w = 0; w < W; w++) sum[w][m] += a * b[w];
    }
  };
  int64_t i = 0;
  for (; i + LANES <= p.in; i += LANES, weight += LANES, x += LANES) add([](const float *q) { return load(q); });
  if (i < p.in) add([&](const float *q) { return load_part(q, p.in - i); });
  #pragma GCC unroll 8
  for (int w = 0; w < W; w++) {
    const float bias = p.bias == nullptr ? 0.0f : p.bias[output + w];
    #pragma GCC unroll 4
    for (int m = 0; m < M; m++) p.y[(row + m) * p.out + output + w] = total(sum[w][m]) + bias;
  }
}

// W outputs of all rows: the weights come from memory for the first rows, and from the cache for the others.
template <int W>
void outputs(const Linear &p, int64_t output) {
  int64_t row = 0;
  for (; row + 4 <= p.rows; row += 4) dots<W, 4>(p, output, row);
  switch (p.rows - row) {
    case 1: return dots<W, 1>(p, output, row);
    case 2: return dots<W, 2>(p, output, row);
    case 3: return dots<W, 3>(p, output, row);
  }
}

void linear(const Linear &p, int64_t first, int64_t count) {
  int64_t output = first;
  // One row alone needs more sums under way than four outputs give.
  if (p.rows == 1)
    for (; output + 8 <= first + count; output += 8) dots<8, 1>(p, output, 0);
  for (; output + 4 <= first + count; output += 4) outputs<4>(p, output);
  for (; output < first + count; output++) outputs<1>(p, output);
}

}  // namespace

extern const Isa IMAGEBART_ISA = {winograd, direct, affine, moments, linear};

}  // namespace imagebart
