// Kernels for the CPU: the VQGAN's convolution with what stands before and after it, GroupNorm, and the linear layers of a
// transformer's single steps. A C ABI over raw fp32 pointers; `src/torch/shim/kernels.rs` is the only caller. Results depend
// neither on the number of threads nor on timing: every output is summed by one thread, in one order.

#include "kernels.h"

#include <dlfcn.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

using namespace imagebart;

namespace {

// IMAGEBART_X86: build.rs compiled isa.cpp for AVX2 and AVX-512 too.
const Isa *const *available(int *count) {
  static const Isa *tables[3];
  static const int found = [] {
    int n = 0;
    tables[n++] = &isa_baseline;
#ifdef IMAGEBART_X86
    const bool fma = __builtin_cpu_supports("fma");
    if (fma && __builtin_cpu_supports("avx2")) tables[n++] = &isa_avx2;
    if (fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) tables[n++] = &isa_avx512;
#endif
    return n;
  }();
  *count = found;
  return tables;
}

// The instruction set asked for, or the best one when there are not so many.
const Isa &instructions(int choice) {
  int count = 0;
  const Isa *const *tables = available(&count);
  return *tables[choice >= 0 && choice < count ? choice : count - 1];
}

// Runs work(worker) for each worker in 0..threads, on libtorch's own threads where its OpenMP runtime can be found, so that two
// pools never fight for the cores. A worker's number may be all there is: the work is shared by counters.
template <typename Work>
void team(int threads, const Work &work) {
  std::atomic<int> next{0};
  auto run = [&] { work(next.fetch_add(1)); };
  using Run = decltype(run);
  auto call = [](void *data) { (*static_cast<Run *>(data))(); };
  // libgomp's entry point of `#pragma omp parallel`; LLVM's and Intel's runtimes have it too.
  using Parallel = void (*)(void (*)(void *), void *, unsigned, unsigned);
  static const auto parallel = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  if (threads <= 1) return run();
  if (parallel != nullptr) return parallel(call, &run, static_cast<unsigned>(threads), 0);
  std::vector<std::thread> others;
  try {
    while (static_cast<int>(others.size()) < threads - 1) others.emplace_back(run);
  } catch (...) {
    // Fewer threads do the same work.
  }
  run();
  for (std::thread &thread : others) thread.join();
}

// Runs task(item, worker) for each item in 0..items.
template <typename Task>
void share(int64_t items, int threads, const Task &task) {
  std::atomic<int64_t> next{0};
  team(static_cast<int>(least(threads, items)), [&](int worker) {
    for (int64_t item; (item = next.fetch_add(1)) < items;) task(item, worker);
  });
}

// Blocks of tiles as square as the image allows, for few pixels on their borders; small images share a block.
Plan plan_winograd(const Convolution &p) {
  Plan plan = {};
  const int64_t rows = ceil_div(p.height, TILE), columns = ceil_div(p.width, TILE);
  plan.block_w = least(columns, 8);
  plan.block_h = least(rows, BLOCK / plan.block_w);
  plan.block_n = least(p.batch, BLOCK / (plan.block_w * plan.block_h));
  plan.blocks_x = ceil_div(columns, plan.block_w);
  plan.blocks_y = ceil_div(rows, plan.block_h);
  plan.blocks_n = ceil_div(p.batch, plan.block_n);
  return plan;
}

Plan plan_direct(const Convolution &p) {
  Plan plan = {};
  plan.blocks_x = ceil_div(p.batch * p.height * p.width, BLOCK);
  plan.blocks_y = plan.blocks_n = 1;
  return plan;
}

int convolve(const Convolution &p, Plan plan, decltype(Isa::direct) kernel, int threads) {
  const int64_t blocks = plan.blocks_n * plan.blocks_y * plan.blocks_x;
  plan.panels = ceil_div(p.channels, PANEL);
  plan.splits = threads <= 1 ? 1 : least(plan.panels, ceil_div(4 * threads, blocks));
  plan.items = blocks * plan.splits;
  constexpr size_t LINE = 64;
  const size_t each = static_cast<size_t>(ceil_div(scratch_floats(p.in_channels) * 4, LINE)) * LINE;
  char *scratch = static_cast<char *>(std::aligned_alloc(LINE, each * static_cast<size_t>(threads)));
  if (scratch == nullptr) return 1;
  share(plan.items, threads, [&](int64_t item, int worker) {
    kernel(p, plan, item, reinterpret_cast<float *>(scratch + each * static_cast<size_t>(worker)));
  });
  std::free(scratch);
  return 0;
}

// Pixels whose moments are summed in fp32 before double takes over; also a work item of pointwise kernels.
constexpr int64_t PIXELS = 512;

// Calls task(image, first pixel, pixels, item) for pieces of images, on threads.
template <typename Task>
void share_pixels(int64_t batch, int64_t pixels, int threads, const Task &task) {
  const int64_t pieces = ceil_div(pixels, PIXELS);
  share(batch * pieces, threads, [&](int64_t item, int) {
    const int64_t first = item % pieces * PIXELS;
    task(item / pieces, first, least(PIXELS, pixels - first), item);
  });
}

// Mean and 1 / sqrt(variance + epsilon) of channels whose moments around `origin` are given.
void normal(const double *sum, const double *square, const float *origin, int64_t channels, int64_t pixels, double epsilon,
            double *mean, double *inverse) {
  const double count = static_cast<double>(pixels);
  double total = 0.0, spread = 0.0;
  for (int64_t i = 0; i < channels; i++) total += origin[i] + sum[i] / count;
  *mean = total / static_cast<double>(channels);
  for (int64_t i = 0; i < channels; i++) {
    const double offset = origin[i] + sum[i] / count - *mean;
    spread += square[i] - sum[i] * sum[i] / count + count * offset * offset;
  }
  *inverse = 1.0 / std::sqrt(std::fmax(spread, 0.0) / (count * static_cast<double>(channels)) + epsilon);
}

template <typename Function>
int guarded(const Function &function) {
  try {
    return function();
  } catch (...) {
    return 1;
  }
}

}  // namespace

extern "C" {

// Number of instruction sets this machine has kernels for; each function below takes one of them, or -1 for the best.
int imagebart_instruction_sets() {
  int count = 0;
  available(&count);
  return count;
}

int64_t imagebart_packed_floats(int64_t in_channels, int64_t channels, int64_t side, int winograd) {
  return ceil_div(channels, PANEL) * PANEL * in_channels * (winograd ? POINTS : side * side);
}

// Weights [channels, in_channels, 3, 3] to panels [channels / PANEL][POINTS][in_channels][PANEL]; `out` holds zeros.
int imagebart_pack_winograd(const float *weights, int64_t in_channels, int64_t channels, float *out, int threads) {
  const double a = POINT_A, b = POINT_B, na = 2 * a * a * (a * a - b * b), nb = 2 * b * b * (b * b - a * a);
  const double g[PATCH][3] = {{1 / (a * a * b * b), 0, 0},   {1 / na, a / na, a * a / na}, {1 / na, -a / na, a * a / na},
                              {1 / nb, b / nb, b * b / nb}, {1 / nb, -b / nb, b * b / nb}, {0, 0, 1}};
  return guarded([&] {
    share(channels, threads, [&](int64_t o, int) {
      const float *w = weights + o * in_channels * 9;
      for (int64_t i = 0; i < in_channels; i++, w += 9) {
        double half[PATCH][3];
        for (int64_t y = 0; y < PATCH; y++)
          for (int64_t x = 0; x < 3; x++) half[y][x] = g[y][0] * w[x] + g[y][1] * w[3 + x] + g[y][2] * w[6 + x];
        for (int64_t point = 0; point < POINTS; point++) {
          const double *h = half[point / PATCH], *f = g[point % PATCH];
          out[((o / PANEL * POINTS + point) * in_channels + i) * PANEL + o % PANEL] =
              static_cast<float>(h[0] * f[0] + h[1] * f[1] + h[2] * f[2]);
        }
      }
    });
    return 0;
  });
}

// Weights [channels, in_channels, side, side] to panels [channels / PANEL][side * side][in_channels][PANEL]; `out` holds zeros.
void imagebart_pack_direct(const float *weights, int64_t in_channels, int64_t channels, int64_t side, float *out) {
  const int64_t taps = side * side;
  for (int64_t o = 0; o < channels; o++)
    for (int64_t i = 0; i < in_channels; i++)
      for (int64_t tap = 0; tap < taps; tap++)
        out[((o / PANEL * taps + tap) * in_channels + i) * PANEL + o % PANEL] = *weights++;
}

// 3x3, stride 1, padding 1. 0, or 1 when memory is short; so below.
int imagebart_winograd(const Convolution *p, int threads, int isa) {
  return guarded([&] { return convolve(*p, plan_winograd(*p), instructions(isa).winograd, threads); });
}

// Any kernel up to TAPS pixels.
int imagebart_direct(const Convolution *p, int threads, int isa) {
  return guarded([&] { return convolve(*p, plan_direct(*p), instructions(isa).direct, threads); });
}

// GroupNorm of x [batch, pixels, channels] as scale * x + shift: both [batch, channels].
int imagebart_group_norm(const float *x, int64_t batch, int64_t pixels, int64_t channels, int64_t groups, double epsilon,
                         const float *weight, const float *bias, float *scale, float *shift, int threads, int isa) {
  return guarded([&] {
    const Isa &functions = instructions(isa);
    const int64_t pieces = ceil_div(pixels, PIXELS), width = channels / groups;
    std::vector<float> sums(static_cast<size_t>(batch * pieces * 2 * channels));
    share_pixels(batch, pixels, threads, [&](int64_t image, int64_t first, int64_t count, int64_t item) {
      const float *origin = x + image * pixels * channels;
      float *sum = sums.data() + item * 2 * channels;
      functions.moments(origin + first * channels, count, channels, origin, sum, sum + channels);
    });
    std::vector<double> totals(static_cast<size_t>(2 * channels));
    for (int64_t image = 0; image < batch; image++) {
      totals.assign(totals.size(), 0.0);
      const float *piece = sums.data() + image * pieces * 2 * channels;
      for (int64_t i = 0; i < pieces; i++)
        for (double &total : totals) total += *piece++;
      for (int64_t c = 0; c < channels; c++) {
        double mean = 0.0, inverse = 0.0;
        const int64_t first = c / width * width;
        normal(totals.data() + first, totals.data() + channels + first, x + image * pixels * channels + first, width, pixels,
               epsilon, &mean, &inverse);
        scale[image * channels + c] = static_cast<float>(inverse * weight[c]);
        shift[image * channels + c] = static_cast<float>(bias[c] - mean * inverse * weight[c]);
      }
    }
    return 0;
  });
}

// A linear layer of few rows.
int imagebart_linear(const Linear *p, int threads, int isa) {
  // Outputs of a work item: enough to stream their weights, few enough that threads end together.
  constexpr int64_t OUTPUTS = 64;
  return guarded([&] {
    const Isa &functions = instructions(isa);
    share(ceil_div(p->out, OUTPUTS), threads, [&](int64_t item, int) {
      functions.linear(*p, item * OUTPUTS, least(OUTPUTS, p->out - item * OUTPUTS));
    });
    return 0;
  });
}

// y = scale * x + shift, through swish if asked; x and y [batch, pixels, channels], scale and shift [batch, channels].
int imagebart_affine(const float *x, int64_t batch, int64_t pixels, int64_t channels, const float *scale, const float *shift,
                     int swish, float *y, int threads, int isa) {
  return guarded([&] {
    const Isa &functions = instructions(isa);
    share_pixels(batch, pixels, threads, [&](int64_t image, int64_t first, int64_t count, int64_t) {
      const int64_t at = (image * pixels + first) * channels;
      functions.affine(x + at, count, channels, scale + image * channels, shift + image * channels, swish != 0, y + at);
    });
    return 0;
  });
}

}  // extern "C"
