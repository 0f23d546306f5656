// The ops on CUDA: the tensors' device and current stream for the kernels (*.cuh). Schemas: lvae.cpp.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "adam_op.h"

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

void adam_cuda(Tensors weights, Tensors gradients, Tensors exp_avgs, Tensors exp_avg_sqs, Tensors steps,
               Tensors rates, Tensors copies, Tensors done) {
  const auto run = [](const AdamTensor* tensors, int64_t count, const Tensor& like) {
    on_stream_of(like, [&](cudaStream_t s) { launch_adam(tensors, count, s); });
  };
  adam_with(run, weights, gradients, exp_avgs, exp_avg_sqs, steps, rates, copies, done);
}
void layer_cuda(Tensor rows, Tensor columns, bool bias_of_rows, bool tensor_cores, Tensors weight,
                Tensors bias) {
  const auto run = [](const Layer& p, Kind kind, const Tensor& like) {
    on_stream_of(like, [&](cudaStream_t s) { launch_layer(p, kind, s); });
  };
  layer_with(run, rows, columns, bias_of_rows, tensor_cores, weight, bias);
}

}    // namespace lvae

STABLE_TORCH_LIBRARY_IMPL(lvae, CUDA, m) {
  m.impl("elbo", TORCH_BOX(&lvae::elbo_cuda));
  m.impl("scale_", TORCH_BOX(&lvae::scale_gradients_cuda));
  m.impl("adam_", TORCH_BOX(&lvae::adam_cuda));
  m.impl("layer_", TORCH_BOX(&lvae::layer_cuda));
}
