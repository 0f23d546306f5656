// Runs CUDA kernels on the CPU, for tests: a fiber a CUDA thread, one block after another.
//
// Covers what the headers of kernels use: the index variables, __shared__, __syncthreads, warp shuffles and
// the tensor cores' product. Warps run ahead of each other as far as the barriers let them, in an order that
// `seed` shuffles anew every round, so that a missing barrier shows as a wrong number. A barrier that some
// thread never reaches raises. Not covered: the branches for __CUDA_ARCH__, the order in which a GPU's memory
// shows its writes, real launches.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#define __global__ inline
#define __device__
#define __launch_bounds__(...)
#define __shared__ static    // blocks run one after another, so one copy serves them all

struct Dim {
  unsigned x;
};
inline Dim threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_host {

constexpr int kWarpSize = 32, kStack = 64 << 10;

struct Barrier {
  int waiting = 0, generation = 0;
};
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  const Barrier* at = nullptr;    // where it waits, and that barrier's generation when it came
  int generation = 0;
  bool done = false;
  bool ready() const { return !done && !(at && at->generation == generation); }
};
struct Block {
  std::vector<Fiber> fibers;
  std::vector<Barrier> warps;
  std::vector<uint64_t> shuffled;    // a value a thread, during a shuffle
  Barrier all;
  ucontext_t scheduler;
  const std::function<void()>* kernel;
  int current = 0;
};
inline Block* block;
inline unsigned seed;
inline bool lanes_left_out;

inline void arrive(Barrier& barrier, int expected) {
  Fiber& fiber = block->fibers[block->current];
  if (++barrier.waiting == expected) {
    barrier.waiting = 0;
    ++barrier.generation;
    return;
  }
  fiber.at = &barrier;
  fiber.generation = barrier.generation;
  swapcontext(&fiber.context, &block->scheduler);
}

inline void run_fiber() {
  (*block->kernel)();
  Fiber& fiber = block->fibers[block->current];
  fiber.done = true;
  swapcontext(&fiber.context, &block->scheduler);
}

inline void start_fibers() {
  for (Fiber& fiber : block->fibers) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
    fiber.at = nullptr;
    fiber.done = false;
  }
}

// Run a warp until each of its threads is done or waits. Whether any moved.
inline bool run_warp(int warp) {
  bool moved = false;
  for (bool again = true; again; moved |= again) {
    again = false;
    for (int t = warp * kWarpSize; t < (warp + 1) * kWarpSize; ++t) {
      Fiber& fiber = block->fibers[t];
      if (!fiber.ready()) continue;
      fiber.at = nullptr;
      block->current = t;
      threadIdx = {unsigned(t)};
      swapcontext(&block->scheduler, &fiber.context);
      again = true;
    }
  }
  return moved;
}

inline void run_block(std::mt19937& random) {
  start_fibers();
  std::vector<int> order(block->warps.size());
  std::iota(order.begin(), order.end(), 0);
  const auto done = [](const Fiber& f) { return f.done; };
  while (!std::all_of(block->fibers.begin(), block->fibers.end(), done)) {
    if (seed) std::shuffle(order.begin(), order.end(), random);
    bool moved = false;
    for (int warp : order) moved |= run_warp(warp);
    if (!moved) throw std::runtime_error("a barrier that not every thread reaches");
  }
  if (std::exchange(lanes_left_out, false)) throw std::runtime_error("a shuffle without all lanes");
}

inline void launch(int blocks, int threads, const std::function<void()>& kernel) {
  if (blocks < 1 || threads < 1 || threads > 1024 || threads % kWarpSize)
    throw std::runtime_error("a launch that CUDA refuses");    // (whole warps are ours)
  static std::vector<Fiber> fibers;    // the stacks are kept
  Block b;
  fibers.resize(threads);
  b.fibers.swap(fibers);
  b.warps.resize(threads / kWarpSize);
  b.shuffled.resize(threads);
  b.kernel = &kernel;
  block = &b;
  blockDim = {unsigned(threads)};
  gridDim = {unsigned(blocks)};
  std::mt19937 random(seed);
  for (int i = 0; i < blocks; ++i) {
    blockIdx = {unsigned(i)};
    run_block(random);
  }
  fibers.swap(b.fibers);
}

}  // namespace cuda_on_host

inline void __syncthreads() { cuda_on_host::arrive(cuda_on_host::block->all, blockDim.x); }

// PTX mma.m16n8k8 of TF32: c (16, 8) += a (16, 8) b (8, 8), spread over the lanes as its manual says.
inline void warp_product(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  using cuda_on_host::kWarpSize;
  static float all_a[1024][4], all_b[1024][2];    // of all threads of a block
  cuda_on_host::Block& block = *cuda_on_host::block;
  cuda_on_host::Barrier& warp = block.warps[threadIdx.x / kWarpSize];
  const int lane = threadIdx.x % kWarpSize, group = lane / 4, place = lane % 4, first = threadIdx.x - lane;
  uint32_t rows[4], columns[2];
  for (int i = 0; i < 4; ++i) rows[i] = a[i] & 0xffffe000;    // the other bits are not looked at
  for (int i = 0; i < 2; ++i) columns[i] = b[i] & 0xffffe000;
  std::memcpy(all_a[first + lane], rows, sizeof rows);
  std::memcpy(all_b[first + lane], columns, sizeof columns);
  cuda_on_host::arrive(warp, kWarpSize);    // every lane has written
  for (int i = 0; i < 4; ++i) {
    const int row = group + i / 2 * 8, column = place * 2 + i % 2;
    for (int k = 0; k < 8; ++k)
      c[i] += all_a[first + row % 8 * 4 + k % 4][row / 8 + k / 4 * 2] *
              all_b[first + column * 4 + k % 4][k / 4];
  }
  cuda_on_host::arrive(warp, kWarpSize);    // every lane has read
}

template <typename T>
T __shfl_down_sync(unsigned lanes, T value, int distance) {
  using cuda_on_host::kWarpSize;
  if (lanes != 0xffffffffu) cuda_on_host::lanes_left_out = true;    // no exception leaves a fiber
  cuda_on_host::Block& block = *cuda_on_host::block;
  const int t = threadIdx.x, lane = t % kWarpSize, other = lane + distance < kWarpSize ? t + distance : t;
  std::memcpy(&block.shuffled[t], &value, sizeof value);
  cuda_on_host::arrive(block.warps[t / kWarpSize], kWarpSize);    // every lane has written
  std::memcpy(&value, &block.shuffled[other], sizeof value);
  cuda_on_host::arrive(block.warps[t / kWarpSize], kWarpSize);    // every lane has read
  return value;
}
