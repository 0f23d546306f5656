// lvae::adam_ and lvae::layer_ as ops of the CPU: the lists and checks of adam_op.h, then the CUDA kernels on
// their stand-in. In a namespace of their own, since an op cannot be taken back; tests register them under
// lvae::.
#include <torch/csrc/stable/macros.h>

#include "adam_op.h"

namespace lvae {

void adam_on_host(Tensors weights, Tensors gradients, Tensors exp_avgs, Tensors exp_avg_sqs, Tensors steps,
                  Tensors rates, Tensors copies, Tensors done) {
  const auto run = [](const AdamTensor* tensors, int64_t count, const Tensor&) {
    launch_adam(tensors, count, nullptr);
  };
  adam_with(run, weights, gradients, exp_avgs, exp_avg_sqs, steps, rates, copies, done);
}
void layer_on_host(Tensor rows, Tensor columns, bool bias_of_rows, bool tensor_cores, Tensors weight,
                   Tensors bias) {
  const auto run = [](const Layer& p, Kind kind, const Tensor&) { launch_layer(p, kind, nullptr); };
  layer_with(run, rows, columns, bias_of_rows, tensor_cores, weight, bias);
}

}    // namespace lvae

STABLE_TORCH_LIBRARY(lvae_on_host, m) {
  m.def("adam_(Tensor(a!)[] weights, Tensor[] gradients, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs,"
        " Tensor(d!)[] steps, Tensor[] rates, Tensor(e!)[] copies, Tensor(f!)[] done) -> ()");
  m.def("layer_(Tensor rows, Tensor columns, bool bias_of_rows, bool tensor_cores, Tensor(a!)[] weight,"
        " Tensor(b!)[] bias) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(lvae_on_host, CPU, m) {
  m.impl("adam_", TORCH_BOX(&lvae::adam_on_host));
  m.impl("layer_", TORCH_BOX(&lvae::layer_on_host));
}
