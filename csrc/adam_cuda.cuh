// Adam (Sec. 6.3: betas 0.9 and 0.999, eps 1e-8) for all tensors at once, free of torch as lvae_cuda.cuh is.
//
//   m += (1 - beta1) (g - m)                      exp_avg
//   v += (1 - beta2) (g^2 - v)                    exp_avg_sq
//   w -= lr / b1 m / (sqrt(v / b2) + eps)         b = 1 - beta^n, n the number of this update
//
// Two launches for up to kAdamTensors tensors: adam_kernel, a block of which has kAdamBlock elements of one
// tensor, four a thread; then count_kernel, since no block can know when the others have read n - 1. Rates
// and numbers of updates are read on the device, so that a CUDA graph can replay both.
//
// Computed in float. What multiplies is 1 - beta, rounded once: 1 - 0.999f is off by 1.3e-5 of itself. v of
// the first thousand updates would be off as much, and b is not. b comes from expm1, without a difference of
// nearly equal numbers.
#pragma once
#include <cmath>

#include "lvae_cuda.cuh"

namespace lvae {

constexpr float kLessBeta1 = 1 - 0.9, kLessBeta2 = 1 - 0.999, kEps = 1e-8;
constexpr float kLogBeta1 = -0.10536051565782628, kLogBeta2 = -0.0010005003335835335;
constexpr int kAdamPack = 4, kAdamBlock = kThreads * kAdamPack;
constexpr int kAdamTensors = 48;    // their description fits the 4 KB that every GPU's launch takes

// A weight and what belongs to it: float, all of one dense layout; step and lr are one number each. Where
// products are in bfloat16 they take `copy`, the weight rounded, and `gradient` is that of the copy.
struct AdamTensor {
  float* weight;
  const void* gradient;    // bf16 if there is a copy, else float
  float* exp_avg;
  float* exp_avg_sq;
  float* step;    // updates done before this one
  const float* lr;
  bf16* copy;    // may be null
  int64_t size;
};
struct AdamTensors {
  AdamTensor tensor[kAdamTensors];
  int first[kAdamTensors + 1];    // blocks first[k] ... first[k + 1] - 1 have tensor k
  int count;
};

// Off by 2^-22 of themselves at most, and free of the branches that the exact ones have on a GPU.
__device__ inline float near_root(float v) {
#if defined(__CUDA_ARCH__)
  asm("sqrt.approx.f32 %0, %0;" : "+f"(v));
  return v;
#else
  return sqrtf(v);
#endif
}
__device__ inline float near_quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdividef(a, b);
#else
  return a / b;
#endif
}

// What the updates of all elements of a tensor have in common: lr / b1 and 1 / sqrt(b2).
struct Rates {
  float rate, root;
  __device__ explicit Rates(const AdamTensor& t) {
    const float n = *t.step + 1;
    rate = *t.lr / -expm1f(n * kLogBeta1);
    root = 1 / sqrtf(-expm1f(n * kLogBeta2));
  }
};

__device__ inline void adam_element(float& w, float g, float& m, float& v, const Rates& rates) {
  m += kLessBeta1 * (g - m);
  v += kLessBeta2 * (g * g - v);
  w -= near_quotient(rates.rate * m, near_root(v) * rates.root + kEps);
}

// Which tensor block `b` is for: the last one whose first block is not after it.
__device__ inline int tensor_of(const AdamTensors& all, int b) {
  int low = 0, high = all.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (all.first[middle] <= b ? low : high) = middle;
  }
  return low;
}

// Up to four elements of `data`, in one piece where they are `packed`; beyond `size`, zeros.
template <typename T>
__device__ inline Pack<float, kAdamPack> four_of(const T* data, bool packed, int size) {
  Pack<T, kAdamPack> found{};
  if (packed)
    found = *reinterpret_cast<const Pack<T, kAdamPack>*>(data);
  else
#pragma unroll
    for (int j = 0; j < kAdamPack; ++j)
      if (j < size) found.v[j] = data[j];
  Pack<float, kAdamPack> four;
#pragma unroll
  for (int j = 0; j < kAdamPack; ++j) four.v[j] = widen(found.v[j]);
  return four;
}

// In one store: left to itself, the compiler may take four.
__device__ inline void put_pack(float* data, const Pack<float, 4>& four) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(data), "f"(four.v[0]), "f"(four.v[1]),
               "f"(four.v[2]), "f"(four.v[3])
               : "memory");
#else
  *reinterpret_cast<Pack<float, 4>*>(data) = four;
#endif
}
__device__ inline void put_pack(bf16* data, const Pack<bf16, 4>& four) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.global.v4.u16 [%0], {%1, %2, %3, %4};" ::"l"(data), "h"(four.v[0].bits),
               "h"(four.v[1].bits), "h"(four.v[2].bits), "h"(four.v[3].bits)
               : "memory");
#else
  *reinterpret_cast<Pack<bf16, 4>*>(data) = four;
#endif
}

template <typename T>
__device__ inline void put_four(T* data, bool packed, int size, const Pack<float, kAdamPack>& four) {
  Pack<T, kAdamPack> rounded;
#pragma unroll
  for (int j = 0; j < kAdamPack; ++j) rounded.v[j] = Narrow<T>::from(four.v[j]);
  if (packed)
    put_pack(data, rounded);
  else
#pragma unroll
    for (int j = 0; j < kAdamPack; ++j)
      if (j < size) data[j] = rounded.v[j];
}

__global__ void __launch_bounds__(kThreads) adam_kernel(AdamTensors all) {
  const int k = tensor_of(all, blockIdx.x);
  const AdamTensor t = all.tensor[k];
  // Thread j of the block has elements 4 j ... 4 j + 3 of the block's part.
  const int64_t i = int64_t(blockIdx.x - all.first[k]) * kAdamBlock + threadIdx.x * kAdamPack;
  if (i >= t.size) return;
  const int size = t.size - i < kAdamPack ? int(t.size - i) : kAdamPack;
  const float* gradient = static_cast<const float*>(t.gradient);
  const bf16* short_gradient = static_cast<const bf16*>(t.gradient);
  const bool packed = size == kAdamPack && aligned(t.weight, 16) && aligned(t.exp_avg, 16) &&
                      aligned(t.exp_avg_sq, 16) && aligned(t.gradient, t.copy ? 8 : 16) && aligned(t.copy, 8);
  auto w = four_of(t.weight + i, packed, size);
  const auto g = t.copy ? four_of(short_gradient + i, packed, size) : four_of(gradient + i, packed, size);
  auto m = four_of(t.exp_avg + i, packed, size);
  auto v = four_of(t.exp_avg_sq + i, packed, size);
  const Rates rates(t);
#pragma unroll
  for (int j = 0; j < kAdamPack; ++j) adam_element(w.v[j], g.v[j], m.v[j], v.v[j], rates);
  put_four(t.weight + i, packed, size, w);
  put_four(t.exp_avg + i, packed, size, m);
  put_four(t.exp_avg_sq + i, packed, size, v);
  if (t.copy) put_four(t.copy + i, packed, size, w);
}

// One block, a thread a tensor; every block of adam_kernel has read the numbers.
__global__ void __launch_bounds__(kThreads) count_kernel(AdamTensors all) {
  const int k = threadIdx.x;
  if (k < all.count) *all.tensor[k].step += 1;
}

// Everything is put on `stream`; the tensors' description is copied into the launch.
template <typename Stream>
void launch_adam(const AdamTensor* tensors, int64_t count, Stream stream) {
  for (int64_t begin = 0; begin < count; begin += kAdamTensors) {
    AdamTensors all{};
    all.count = int(count - begin < kAdamTensors ? count - begin : kAdamTensors);
    for (int k = 0; k < all.count; ++k) {
      all.tensor[k] = tensors[begin + k];
      all.first[k + 1] = all.first[k] + int((all.tensor[k].size + kAdamBlock - 1) / kAdamBlock);
    }
    const int blocks = all.first[all.count];
    if (blocks > 0) LVAE_LAUNCH(adam_kernel, blocks, kThreads, stream, all);
    LVAE_LAUNCH(count_kernel, 1, kThreads, stream, all);
  }
}

}    // namespace lvae
