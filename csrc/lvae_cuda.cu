// The ops on CUDA: the tensors' device and current stream for the kernels (*.cuh). Schemas: lvae.cpp.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <vector>

#include "adam_cuda.cuh"
#include "lvae_cuda.cuh"
#include "lvae_op.h"

namespace lvae {

// f(stream) on the device of `like` and on the stream that torch uses there now.
template <typename F>
void on_stream_of(const Tensor& like, const F& f) {
  const auto device = like.get_device_index();
  torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  f(static_cast<cudaStream_t>(stream));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void run_cuda(const Problem& p, const Tensor& like) {
  const Tensor partial = empty_vector(like, ScalarType::Double, kPartials);
  double* sums = static_cast<double*>(partial.mutable_data_ptr());
  on_stream_of(like, [&](cudaStream_t s) { launch_elbo(p, sums, s); });
}
void run_scale_cuda(const Scalings& all, const Tensor& like) {
  on_stream_of(like, [&](cudaStream_t s) { launch_scale(all, s); });
}

Results elbo_cuda(Tensor logits, Tensor x, Tensor mu, Tensor logvar, MaybeTensor sigma, double scale,
                  bool grad) {
  return elbo_with(run_cuda, logits, x, mu, logvar, sigma, scale, grad);
}
void scale_gradients_cuda(Tensor d_logits, Tensor d_mu, Tensor d_logvar, Tensor d_sigma, MaybeTensor g_rec,
                          MaybeTensor g_kl) {
  scale_with(run_scale_cuda, d_logits, d_mu, d_logvar, d_sigma, g_rec, g_kl);
}

// The memory of `t`, after a look at what could be read out of bounds: adam.py looks at the rest.
float* floats(const Tensor& t, int64_t size, const Tensor& like) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && t.numel() == size, "lvae: ", size,
                  " numbers of float32 expected for Adam");
  check_device(like, t, "Adam's tensors");
  return static_cast<float*>(t.mutable_data_ptr());
}
using Tensors = std::vector<Tensor>;
void adam_cuda(Tensors weights, Tensors gradients, Tensors exp_avgs, Tensors exp_avg_sqs, Tensors steps,
               Tensors rates) {
  const size_t count = weights.size();
  for (const Tensors* list : {&gradients, &exp_avgs, &exp_avg_sqs, &steps, &rates})
    STD_TORCH_CHECK(list->size() == count, "lvae: Adam's lists must have one length");
  if (count == 0) return;
  std::vector<AdamTensor> all;
  for (size_t k = 0; k < count; ++k) {
    const int64_t size = weights[k].numel();
    const auto memory = [&](const Tensors& list, int64_t n) { return floats(list[k], n, weights[0]); };
    all.push_back({memory(weights, size), memory(gradients, size), memory(exp_avgs, size),
                   memory(exp_avg_sqs, size), memory(steps, 1), memory(rates, 1), size});
  }
  on_stream_of(weights[0], [&](cudaStream_t s) { launch_adam(all.data(), int64_t(count), s); });
}

}    // namespace lvae

STABLE_TORCH_LIBRARY_IMPL(lvae, CUDA, m) {
  m.impl("elbo", TORCH_BOX(&lvae::elbo_cuda));
  m.impl("scale_", TORCH_BOX(&lvae::scale_gradients_cuda));
  m.impl("adam_", TORCH_BOX(&lvae::adam_cuda));
}
