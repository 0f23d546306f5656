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
// Computed in float. What multiplies is 1 - beta, rounded once: 1 - 0.999f is off by 1.3e-5 of itself, and v
// would settle at a value that is off as much. b comes from expm1, without a difference of nearly equal
// numbers.
#pragma once
#include <cmath>

#include "lvae_cuda.cuh"

namespace lvae {

constexpr float kLessBeta1 = 1 - 0.9, kLessBeta2 = 1 - 0.999, kEps = 1e-8;
constexpr float kLogBeta1 = -0.10536051565782628, kLogBeta2 = -0.0010005003335835335;
constexpr int kAdamPack = 4, kAdamBlock = kThreads * kAdamPack;
constexpr int kAdamTensors = 48;    // their description passes through the 4 KB that a launch has for it

// A weight and what belongs to it: float, all of one dense layout. step and lr are one number each.
struct AdamTensor {
  float* weight;
  const float* gradient;
  float* exp_avg;
  float* exp_avg_sq;
  float* step;    // updates done before this one
  const float* lr;
  int64_t size;
};
struct AdamTensors {
  AdamTensor tensor[kAdamTensors];
  int first[kAdamTensors + 1];    // blocks first[k] ... first[k + 1] - 1 have tensor k
  int count;
};

__device__ inline void adam_element(float& w, float g, float& m, float& v, float rate, float root) {
  m += kLessBeta1 * (g - m);
  v += kLessBeta2 * (g * g - v);
  w -= rate * m / (sqrtf(v) * root + kEps);
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

__global__ void __launch_bounds__(kThreads) adam_kernel(AdamTensors all) {
  using Four = Pack<float, kAdamPack>;
  const int k = tensor_of(all, blockIdx.x);
  const AdamTensor t = all.tensor[k];
  // Thread j of the block has elements 4 j ... 4 j + 3 of the block's part.
  const int64_t i = int64_t(blockIdx.x - all.first[k]) * kAdamBlock + threadIdx.x * kAdamPack;
  if (i >= t.size) return;
  const auto at = [](const void* data) { return reinterpret_cast<uintptr_t>(data); };
  const bool aligned =
      (at(t.weight) | at(t.gradient) | at(t.exp_avg) | at(t.exp_avg_sq)) % alignof(Four) == 0;
  const bool packed = aligned && t.size - i >= kAdamPack;
  const int size = t.size - i < kAdamPack ? int(t.size - i) : kAdamPack;
  Four w, g, m, v;
  if (packed) {
    w = *reinterpret_cast<const Four*>(t.weight + i);
    g = *reinterpret_cast<const Four*>(t.gradient + i);
    m = *reinterpret_cast<const Four*>(t.exp_avg + i);
    v = *reinterpret_cast<const Four*>(t.exp_avg_sq + i);
  } else {
#pragma unroll
    for (int j = 0; j < kAdamPack; ++j) {
      const bool there = j < size;
      w.v[j] = there ? t.weight[i + j] : 0;
      g.v[j] = there ? t.gradient[i + j] : 0;
      m.v[j] = there ? t.exp_avg[i + j] : 0;
      v.v[j] = there ? t.exp_avg_sq[i + j] : 0;
    }
  }
  const float n = *t.step + 1;
  const float rate = *t.lr / -expm1f(n * kLogBeta1), root = 1 / sqrtf(-expm1f(n * kLogBeta2));
#pragma unroll
  for (int j = 0; j < kAdamPack; ++j) adam_element(w.v[j], g.v[j], m.v[j], v.v[j], rate, root);
  if (packed) {
    *reinterpret_cast<Four*>(t.weight + i) = w;
    *reinterpret_cast<Four*>(t.exp_avg + i) = m;
    *reinterpret_cast<Four*>(t.exp_avg_sq + i) = v;
  } else {
#pragma unroll
    for (int j = 0; j < kAdamPack; ++j) {
      if (j >= size) continue;
      t.weight[i + j] = w.v[j];
      t.exp_avg[i + j] = m.v[j];
      t.exp_avg_sq[i + j] = v.v[j];
    }
  }
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
