// The kernels for CUDA, free of torch: they compile in seconds, and on the CPU, where the tests run them
// (tests/cuda_on_host.h).
//
// Two launches. terms_kernel reads each logit, pixel and latent once, writes the gradients and two partial
// sums a block. finish_kernel, one block, adds the partial sums and writes the results. Nothing waits for
// the host, the number of blocks follows from sizes and alignment alone, and no sum depends on which block or
// warp is first: no atomics, a fixed order everywhere. So a run repeats to the bit, and a graph can hold it.
#pragma once
#include "lvae_problem.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define LVAE_LAUNCH(kernel, blocks, threads, stream, ...) kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__)
#else
#include "cuda_on_host.h"
#define LVAE_LAUNCH(kernel, blocks, threads, stream, ...) \
  cuda_on_host::launch(blocks, threads, [=] { kernel(__VA_ARGS__); })
#endif

namespace lvae {

#if !defined(LVAE_MAX_BLOCKS)
#define LVAE_MAX_BLOCKS 1024    // fills every GPU of today; the tests make it small, so that threads loop
#endif
constexpr int kMaxBlocks = LVAE_MAX_BLOCKS, kThreads = 256, kWarp = 32, kPartials = 2 * kMaxBlocks;

// Elements that a thread moves at a time: 16 bytes of logits, the widest load up to Hopper.
template <typename T> constexpr int kPack = 16 / sizeof(T);
template <typename T, int size>
struct alignas(sizeof(T) * size < 16 ? sizeof(T) * size : 16) Pack {
  T v[size];
};

LVAE_INLINE bool aligned(const void* data, size_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}

// The sum over the block, valid in thread 0. Lanes are added in a tree inside each warp, then the warps'
// sums in a tree inside warp 0: always the same order.
__device__ inline double block_sum(double v) {
  __shared__ double warp_sum[kThreads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int d = kWarp / 2; d > 0; d /= 2) v += __shfl_down_sync(0xffffffffu, v, d);    // lane j reads j + d
  if (lane == 0) warp_sum[warp] = v;
  __syncthreads();    // lane 0 of every warp has written
  if (warp == 0) {
    v = lane < kThreads / kWarp ? warp_sum[lane] : 0;
    for (int d = kWarp / 2; d > 0; d /= 2) v += __shfl_down_sync(0xffffffffu, v, d);
  }
  __syncthreads();    // warp 0 has read: the next call may write
  return v;
}

// One pixel: its squared error; its gradient goes to `d`.
template <typename T, typename X>
__device__ inline Wide<T> one_pixel(T logit, X x, Scale<Wide<T>> scale, Wide<T> coef, T* d) {
  Wide<T> gradient;
  const Wide<T> error = pixel<Wide<T>>(widen(logit), Wide<T>(widen(x)), scale, coef, &gradient);
  *d = Narrow<T>::from(gradient);
  return error;
}

// The pixels of one thread: their sum. `packs` is 0 where a pointer is not aligned for packs.
template <typename T, typename X>
__device__ inline double pixels_of(const Problem& p, int64_t packs, int64_t thread, int64_t threads) {
  constexpr int size = kPack<T>;
  const T* __restrict__ logits = static_cast<const T*>(p.logits);
  const X* __restrict__ x = static_cast<const X*>(p.x);
  T* __restrict__ d_logits = static_cast<T*>(p.d_logits);
  const Scale<Wide<T>> scale(p.scale);
  const Wide<T> coef = Wide<T>(p.pixel_coef());
  double sum = 0;
  // Thread t reads packs t, t + threads, t + 2 threads ...: neighbours read neighbouring 16 bytes.
  for (int64_t i = thread; i < packs; i += threads) {
    const Pack<T, size> l = reinterpret_cast<const Pack<T, size>*>(logits)[i];
    const Pack<X, size> u = reinterpret_cast<const Pack<X, size>*>(x)[i];
    Pack<T, size> d;
    Wide<T> errors = 0;
#pragma unroll
    for (int j = 0; j < size; ++j) errors += one_pixel(l.v[j], u.v[j], scale, coef, &d.v[j]);
    sum += errors;
    if (d_logits) reinterpret_cast<Pack<T, size>*>(d_logits)[i] = d;
  }
  // What does not fill a pack, one element a thread: all of it where there are no packs.
  for (int64_t i = packs * size + thread; i < p.pixels; i += threads) {
    T d;
    sum += one_pixel(logits[i], x[i], scale, coef, &d);
    if (d_logits) d_logits[i] = d;
  }
  return sum;
}

// The latents of one thread: their sum, computed in A.
template <typename A>
__device__ inline double latents_of(const Problem& p, int64_t thread, int64_t threads) {
  const A coef = A(p.latent_coef());
  double sum = 0;
  // Thread t reads latents t, t + threads ... of all rows, wherever the strides put them.
  for (int64_t i = thread; i < p.rows * p.latents; i += threads) {
    const int64_t row = i / p.latents, column = i % p.latents;
    const A mu = A(load(p.mu.data, p.mu.kind, row * p.mu.row + column * p.mu.column));
    const A logvar = A(load(p.logvar.data, p.logvar.kind, row * p.logvar.row + column * p.logvar.column));
    A d_mu, d_logvar;
    sum += latent<A>(mu, logvar, coef, &d_mu, &d_logvar);
    if (p.mu.grad) store(p.mu.grad, p.mu.kind, i, d_mu);
    if (p.logvar.grad) store(p.logvar.grad, p.logvar.kind, i, d_logvar);
  }
  return sum;
}

// partial: the sums of block b are numbers 2 b (pixels) and 2 b + 1 (latents).
template <typename T, typename X>
__global__ void __launch_bounds__(kThreads, 4) terms_kernel(Problem p, int64_t packs, double* partial) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t threads = int64_t(gridDim.x) * blockDim.x;
  const double latents = block_sum(latents_of<Wide<T>>(p, thread, threads));
  const double pixels = block_sum(pixels_of<T, X>(p, packs, thread, threads));
  if (threadIdx.x > 0) return;
  partial[2 * blockIdx.x] = pixels;
  partial[2 * blockIdx.x + 1] = latents;
}

// One block; it reads what every block of terms_kernel has written.
__global__ void __launch_bounds__(kThreads) finish_kernel(Problem p, const double* partial, int blocks) {
  double pixels = 0, latents = 0;
  // Thread t adds the sums of blocks t, t + kThreads ...
  for (int i = threadIdx.x; i < blocks; i += kThreads) {
    pixels += partial[2 * i];
    latents += partial[2 * i + 1];
  }
  pixels = block_sum(pixels);
  latents = block_sum(latents);
  if (threadIdx.x == 0) p.finish(pixels, latents);
}

template <typename T>
__device__ inline void scale_all(T* data, int64_t size, Wide<T> factor) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t threads = int64_t(gridDim.x) * blockDim.x;
  // Thread t reads and writes elements t, t + threads ...
  for (int64_t i = thread; i < size; i += threads) data[i] = Narrow<T>::from(widen(data[i]) * factor);
}

// data *= factor. The factor is in the device's memory, so the host cannot see that it is 1 without
// waiting; the kernel can, and then it has read one number and ends. loss.backward() sends a 1.
__global__ void __launch_bounds__(kThreads) scale_kernel(Scalings all) {
#pragma unroll
  for (int k = 0; k < kScalings; ++k) {
    const Scaling& item = all.item[k];
    const double factor = item.factor.data ? load(item.factor.data, item.factor.kind, 0) : 1;
    if (factor == 1) continue;
    by_kind(item.kind, [&](auto t) {
      using T = decltype(t);
      scale_all<T>(static_cast<T*>(item.data), item.size, Wide<T>(factor));
    });
  }
}

inline int blocks_for(int64_t threads) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  return int(blocks < 1 ? 1 : blocks > kMaxBlocks ? kMaxBlocks : blocks);
}

template <typename T, typename X, typename Stream>
void launch_elbo(const Problem& p, double* partial, Stream stream) {
  const bool packed = aligned(p.logits, alignof(Pack<T, kPack<T>>)) &&
                      aligned(p.d_logits, alignof(Pack<T, kPack<T>>)) &&
                      aligned(p.x, alignof(Pack<X, kPack<T>>));
  const int64_t packs = packed ? p.pixels / kPack<T> : 0;
  const int64_t reads = packed ? packs : p.pixels, elements = p.rows * p.latents;
  const int blocks = blocks_for(reads > elements ? reads : elements);
  LVAE_LAUNCH((terms_kernel<T, X>), blocks, kThreads, stream, p, packs, partial);
  LVAE_LAUNCH(finish_kernel, 1, kThreads, stream, p, partial, blocks);
}

// Everything is put on `stream`. partial: memory for kPartials doubles.
template <typename Stream>
void launch_elbo(const Problem& p, double* partial, Stream stream) {
  by_kind(p.kind, [&](auto t) {
    using T = decltype(t);
    p.x_is_byte ? launch_elbo<T, uint8_t>(p, partial, stream) : launch_elbo<T, Wide<T>>(p, partial, stream);
  });
}

template <typename Stream>
void launch_scale(const Scalings& all, Stream stream) {
  int64_t size = 0;
  for (const Scaling& item : all.item) size = item.size > size ? item.size : size;
  LVAE_LAUNCH(scale_kernel, blocks_for(size), kThreads, stream, all);
}

}    // namespace lvae
