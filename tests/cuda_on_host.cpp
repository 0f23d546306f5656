// The kernels on the CPU as plain C functions for ctypes. The caller owns all memory, so that it can place it
// off alignment and put guards around it.
#include "lvae_cuda.cuh"

#include <string>

#include "layer_cuda.cuh"

using namespace lvae;

namespace {

const char* result_of(const std::function<void()>& run) {
  static std::string complaint;
  try {
    run();
    return "";
  } catch (const std::exception& error) {
    complaint = error.what();
    return complaint.c_str();
  }
}

}  // namespace

extern "C" {

int partials() { return kPartials; }
int problem_size() { return sizeof(Problem); }

const char* elbo(const Problem* p, double* partial, unsigned seed) {
  cuda_on_host::seed = seed;
  return result_of([=] { launch_elbo(*p, partial, nullptr); });
}

const char* scale(const Scalings* all) {
  return result_of([=] { launch_scale(*all, nullptr); });
}

const char* layer(const Layer* p, bool half, unsigned seed) {
  cuda_on_host::seed = seed;
  return result_of([=] { launch_layer(*p, half ? Kind::bf16 : Kind::f32, nullptr); });
}
const char* adam(const AdamTensor* tensors, int64_t count) {
  return result_of([=] { launch_adam(tensors, count, nullptr); });
}

}
