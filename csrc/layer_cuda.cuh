// The gradient of a layer's weights goes from the product that makes it straight into Adam (adam_cuda.cuh).
// It is never written to memory: for the MLP that would be 51 MB, written and read again in every iteration.
//
//   d weight = rows^T columns       rows (n, height) and columns (n, width): what came into the layer and the
//   d bias = sum over n             gradient of what went out of it, or the other way round
//
// A block has kTile x kTile weights: it reads them and their moments, computes their gradient from kDeep rows
// of both matrices at a time, and writes them. Each sum is over n in one order, the same in every call.
#pragma once
#include <type_traits>

#include "adam_cuda.cuh"

namespace lvae {

constexpr int kTile = 64, kDeep = 64, kPitch = kTile + 8;    // the 8 spread a fragment over all banks
constexpr int kSide = 4;                                     // a thread's weights: kSide x kSide
// Blocks on a multiprocessor, and rows of weights that a thread reads before it needs the first: there are no
// registers for more.
constexpr int kBlocksTogether = 3, kRowsTogether = 2;

struct Layer {
  const void* rows;
  const void* columns;
  int64_t n, height, width;
  AdamTensor weight;    // (height, width); `gradient` of both is not read
  AdamTensor bias;      // of `height` weights, or of `width`
  bool bias_of_rows;
  bool tensor_cores;    // of float: rounded to TF32 (10 bits of fraction), summed in float; bf16 always
};

struct alignas(16) Tile {
  float row[kDeep][kPitch];
  __device__ float* operator[](int k) { return row[k]; }
  __device__ const float* operator[](int k) const { return row[k]; }
};

// Up to four elements: with `packed`, four in one piece or none, so that many loads can be on their way.
template <bool packed, typename T>
__device__ inline Pack<float, kAdamPack> some_of(const T* data, int size) {
  if constexpr (!packed) return four_of(data, false, size);
  Pack<T, kAdamPack> found{};
  if (size) found = *reinterpret_cast<const Pack<T, kAdamPack>*>(data);
  Pack<float, kAdamPack> four;
#pragma unroll
  for (int j = 0; j < kAdamPack; ++j) four.v[j] = widen(found.v[j]);
  return four;
}
template <bool packed, typename T>
__device__ inline void put_some(T* data, int size, const Pack<float, kAdamPack>& four) {
  if (!packed || size) put_four(data, packed, size, four);
}
// How many of the four elements from `first` on lie before `end`.
__device__ inline int count_before(int64_t end, int64_t first) {
  return end <= first ? 0 : end - first < kAdamPack ? int(end - first) : kAdamPack;
}

// A thread's share of kDeep x kTile elements of `data` (n, width), zeros beyond its end: read, then put down.
template <bool packed>
struct TilePart {
  static constexpr int kTurns = kDeep * kTile / kAdamPack / kThreads, kAcross = kTile / kAdamPack;
  Pack<float, kAdamPack> four[kTurns];
  int row, column;

  template <typename T>
  __device__ TilePart(const T* data, int64_t n, int64_t width, int64_t from, int64_t first)
      : row(threadIdx.x / kAcross), column(threadIdx.x % kAcross * kAdamPack) {
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const int64_t k = from + row + turn * (kThreads / kAcross);
      four[turn] =
          some_of<packed>(data + k * width + first + column, k < n ? count_before(width, first + column) : 0);
    }
  }
  // plain_nans: write every NaN as 0x7fc00000, which `to_tf32` keeps.
  template <bool plain_nans>
  __device__ void put(Tile& tile) const {
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      Pack<float, kAdamPack> now = four[turn];
#pragma unroll
      for (int k = 0; plain_nans && k < kAdamPack; ++k)
        if (now.v[k] != now.v[k]) now.v[k] = bits_of<float>(uint32_t(0x7fc00000));
      *reinterpret_cast<Pack<float, kAdamPack>*>(&tile[row + turn * (kThreads / kAcross)][column]) = now;
    }
  }
};

// sum[i][j] += rows[k][4 y + i] columns[k][4 x + j]
__device__ inline void add_product(float (&sum)[kSide][kSide], const Tile& rows, const Tile& columns, int y,
                                   int x) {
#pragma unroll 8
  for (int k = 0; k < kDeep; ++k) {
    const auto a = *reinterpret_cast<const Pack<float, kSide>*>(&rows[k][kSide * y]);
    const auto b = *reinterpret_cast<const Pack<float, kSide>*>(&columns[k][kSide * x]);
#pragma unroll
    for (int i = 0; i < kSide; ++i)
#pragma unroll
      for (int j = 0; j < kSide; ++j) sum[i][j] += a.v[i] * b.v[j];
  }
}

// Before sm_80 there are no tensor cores for TF32; the product is in float there.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool kTensorCores = false;
#else
constexpr bool kTensorCores = true;
#endif

#if defined(__CUDACC__)
// c += a b of 16 x 8, by a warp; PTX mma.m16n8k8 says which lane has which numbers.
__device__ inline void warp_product(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
               "%9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
#endif

// To the nearest number of TF32, halves away from zero. A NaN stays one only if its low 13 bits are 0: so are
// those of the NaN that TilePart::put writes, and of one of bfloat16.
__device__ inline uint32_t to_tf32(float v) { return (bits_of<uint32_t>(v) + 0x1000) & 0xffffe000; }

// What a warp sums up on the tensor cores: 32 x 16 of the block's product, as 2 x 2 fragments. Of c = a b
// each lane has, with group = lane / 4 and member = lane % 4:
//
//   a  (16, 8)   [group] and [group + 8] of column member, then of column member + 4
//   b  (8, 8)    [member] and [member + 4] of column group
//   c  (16, 8)   columns 2 member and 2 member + 1 of [group], then of [group + 8]
struct Fragments {
  float sum[2][2][4];
  int row, column, group, member;    // where the warp's part begins; the lane's place in a fragment

  __device__ Fragments() : sum{} {
    const int warp = threadIdx.x / kWarp;
    row = warp / 4 * 32, column = warp % 4 * 16;
    group = threadIdx.x % kWarp / 4, member = threadIdx.x % 4;
  }
  __device__ void add_product(const Tile& rows, const Tile& columns) {
#pragma unroll 2
    for (int k = member; k < kDeep; k += 8) {
      uint32_t a[2][4], b[2][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int r = row + 16 * i + group, c = column + 8 * i + group;
        a[i][0] = to_tf32(rows[k][r]), a[i][1] = to_tf32(rows[k][r + 8]);
        a[i][2] = to_tf32(rows[k + 4][r]), a[i][3] = to_tf32(rows[k + 4][r + 8]);
        b[i][0] = to_tf32(columns[k][c]), b[i][1] = to_tf32(columns[k + 4][c]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j) warp_product(sum[i][j], a[i], b[j]);
    }
  }
  __device__ void put(Tile& product) const {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k)
          product[row + 16 * i + group + k / 2 * 8][column + 8 * j + 2 * member + k % 2] = sum[i][j][k];
  }
};

// Ask for a tile of a weight and its moments: they come to the L2 cache while the product is made.
__device__ inline void fetch_tile(const AdamTensor& t, int64_t height, int64_t width, int64_t top,
                                  int64_t first) {
#if defined(__CUDA_ARCH__)
  constexpr int kLine = 32;    // numbers that lie in one line of the cache
  const int64_t row = top + threadIdx.x / 2, column = first + threadIdx.x % 2 * kLine,
                i = row * width + column;
  if (threadIdx.x < kTile * kTile / kLine && row < height && column < width)
    for (const float* data : {t.weight + i, t.exp_avg + i, t.exp_avg_sq + i})
      asm volatile("prefetch.global.L2 [%0];" ::"l"(data));
#endif
}

template <typename T, bool want_tensor_cores, bool packed>
__global__ void __launch_bounds__(kThreads, kBlocksTogether) layer_kernel(Layer p) {
  constexpr bool tensor_cores = want_tensor_cores && kTensorCores;
  static_assert(kTile == kDeep && kTile == 16 * kSide && kThreads == 256);
  __shared__ Tile rows, columns;
  const int across = int((p.width + kTile - 1) / kTile);
  const int64_t top = int64_t(blockIdx.x / across) * kTile, first = int64_t(blockIdx.x % across) * kTile;
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  const AdamTensor& t = p.weight;
  fetch_tile(t, p.height, p.width, top, first);
  const int64_t mine =
      (p.bias_of_rows ? top : first) + threadIdx.x;    // of the biases, if this block has any
  const bool biased = (p.bias_of_rows ? first : top) == 0 && threadIdx.x < kTile && mine < p.bias.size;
  float sum[kSide][kSide] = {}, bias = 0;
  Fragments fragments;
  for (int64_t from = 0; from < p.n; from += kDeep) {
    const TilePart<packed> a(static_cast<const T*>(p.rows), p.n, p.height, from, top);
    const TilePart<packed> b(static_cast<const T*>(p.columns), p.n, p.width, from, first);
    if (from > 0) __syncthreads();    // the last rows have been read
    constexpr bool rounded = tensor_cores && std::is_same_v<T, float>;
    a.template put<rounded>(rows), b.template put<rounded>(columns);
    __syncthreads();
    if constexpr (tensor_cores)
      fragments.add_product(rows, columns);
    else
      add_product(sum, rows, columns, y, x);
    if (biased) {
      const Tile& tile = p.bias_of_rows ? rows : columns;
#pragma unroll 16
      for (int k = 0; k < kDeep; ++k) bias += tile[k][threadIdx.x];
    }
  }
  if constexpr (tensor_cores) {
    __syncthreads();
    fragments.put(rows);
    __syncthreads();
  }
  const Rates of_weight(t);
  const int64_t row = top + kSide * y, column = first + kSide * x, place = row * p.width + column;
  const int there = count_before(p.width, column);
#pragma unroll
  for (int i = 0; i < kSide; i += kRowsTogether) {
    Pack<float, kSide> w[kRowsTogether], m[kRowsTogether], v[kRowsTogether];
#pragma unroll
    for (int j = 0; j < kRowsTogether; ++j) {
      const int64_t at = place + (i + j) * p.width;
      const int size = row + i + j < p.height ? there : 0;
      w[j] = some_of<packed>(t.weight + at, size);
      m[j] = some_of<packed>(t.exp_avg + at, size);
      v[j] = some_of<packed>(t.exp_avg_sq + at, size);
    }
#pragma unroll
    for (int j = 0; j < kRowsTogether; ++j) {
      const int64_t at = place + (i + j) * p.width;
      const int size = row + i + j < p.height ? there : 0;
      if constexpr (tensor_cores) {
        const auto four = *reinterpret_cast<const Pack<float, kSide>*>(&rows[kSide * y + i + j][kSide * x]);
#pragma unroll
        for (int k = 0; k < kSide; ++k) sum[i + j][k] = four.v[k];
      }
#pragma unroll
      for (int k = 0; k < kSide; ++k) adam_element(w[j].v[k], sum[i + j][k], m[j].v[k], v[j].v[k], of_weight);
      put_some<packed>(t.weight + at, size, w[j]);
      put_some<packed>(t.exp_avg + at, size, m[j]);
      put_some<packed>(t.exp_avg_sq + at, size, v[j]);
      if (t.copy) put_some<packed>(t.copy + at, size, w[j]);
    }
  }
  if (biased) {
    const AdamTensor& b = p.bias;
    adam_element(b.weight[mine], bias, b.exp_avg[mine], b.exp_avg_sq[mine], Rates(b));
    if (b.copy) b.copy[mine] = Narrow<bf16>::from(b.weight[mine]);
  }
}

// Whether both matrices and the weights can be moved four elements at a time.
template <typename T>
bool in_fours(const Layer& p) {
  const AdamTensor& t = p.weight;
  return p.height % kAdamPack == 0 && p.width % kAdamPack == 0 && aligned(p.rows, sizeof(T) * kAdamPack) &&
         aligned(p.columns, sizeof(T) * kAdamPack) && aligned(t.weight, 16) && aligned(t.exp_avg, 16) &&
         aligned(t.exp_avg_sq, 16) && aligned(t.copy, 8);
}

// One update of a layer's weights, put on `stream`. The numbers of updates stay: `launch_adam` counts them.
template <typename T, bool tensor_cores, typename Stream>
void launch_layer(const Layer& p, Stream stream) {
  const int64_t blocks = (p.height + kTile - 1) / kTile * ((p.width + kTile - 1) / kTile);
  if (blocks == 0) return;
  if (in_fours<T>(p))
    LVAE_LAUNCH((layer_kernel<T, tensor_cores, true>), int(blocks), kThreads, stream, p);
  else
    LVAE_LAUNCH((layer_kernel<T, tensor_cores, false>), int(blocks), kThreads, stream, p);
}
template <typename Stream>
void launch_layer(const Layer& p, Kind kind, Stream stream) {
  if (kind == Kind::bf16)
    launch_layer<bf16, true>(p, stream);
  else if (p.tensor_cores)
    launch_layer<float, true>(p, stream);
  else
    launch_layer<float, false>(p, stream);
}

}    // namespace lvae
