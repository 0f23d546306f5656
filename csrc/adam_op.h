// What lvae::adam_ and lvae::layer_ are, whatever the device: torch's tensors as the kernels take them.
//
//   lvae::adam_(weights, gradients, exp_avgs, exp_avg_sqs, steps, rates, copies, done)
//       updates each weight in place and counts, also in the steps of `done`; copies: one a weight, or none
//   lvae::layer_(rows, columns, bias_of_rows, tensor_cores, weight, bias)
//       updates weight and bias in place with the gradient rows^T columns; counts nothing
#pragma once
#include <vector>

#include "layer_cuda.cuh"
#include "lvae_op.h"

namespace lvae {

// The memory of `t`, after a look at what could be read out of bounds: adam.py looks at the rest.
inline void* numbers(const Tensor& t, ScalarType type, int64_t size, const Tensor& like) {
  STD_TORCH_CHECK(t.scalar_type() == type && t.numel() == size, "lvae: ", size, " numbers of ",
                  type == ScalarType::Float ? "float32" : "bfloat16", " expected for Adam");
  check_device(like, t, "Adam's tensors");
  check_dense(t, "a tensor of Adam's");
  return t.mutable_data_ptr();
}
using Tensors = std::vector<Tensor>;
// run(tensors, count, like) does the work.
template <typename Run>
void adam_with(const Run& run, Tensors weights, Tensors gradients, Tensors exp_avgs, Tensors exp_avg_sqs,
               Tensors steps, Tensors rates, Tensors copies, Tensors done) {
  const size_t count = weights.size();
  for (const Tensors* list : {&gradients, &exp_avgs, &exp_avg_sqs, &steps, &rates})
    STD_TORCH_CHECK(list->size() == count, "lvae: Adam's lists must have one length");
  STD_TORCH_CHECK(copies.empty() || copies.size() == count,
                  "lvae: Adam needs a copy of every weight or none");
  if (count + done.size() == 0) return;
  const Tensor& like = count ? weights[0] : done[0];
  std::vector<AdamTensor> all;
  for (size_t k = 0; k < count; ++k) {
    const int64_t size = weights[k].numel();
    const auto floats = [&](const Tensors& list, int64_t n) {
      return static_cast<float*>(numbers(list[k], ScalarType::Float, n, like));
    };
    const auto type = copies.empty() ? ScalarType::Float : ScalarType::BFloat16;
    const auto gradient = numbers(gradients[k], type, size, like);
    const auto copy = copies.empty() ? nullptr : numbers(copies[k], type, size, like);
    all.push_back({floats(weights, size), gradient, floats(exp_avgs, size), floats(exp_avg_sqs, size),
                   floats(steps, 1), floats(rates, 1), static_cast<bf16*>(copy), size});
  }
  for (const Tensor& step : done) {
    all.push_back({});
    all.back().step = static_cast<float*>(numbers(step, ScalarType::Float, 1, like));
  }
  run(all.data(), int64_t(all.size()), like);
}

// What `Layer` has of a weight: itself, exp_avg, exp_avg_sq, step, learning rate and perhaps the copy.
inline AdamTensor adam_tensor(const Tensors& list, const Tensor& like) {
  STD_TORCH_CHECK(list.size() == 5 || list.size() == 6, "lvae: 5 or 6 tensors expected of a weight");
  const int64_t size = list[0].numel();
  const auto floats = [&](size_t k, int64_t n) {
    return static_cast<float*>(numbers(list[k], ScalarType::Float, n, like));
  };
  const auto copy = list.size() == 6 ? numbers(list[5], ScalarType::BFloat16, size, like) : nullptr;
  return {floats(0, size), nullptr,      floats(1, size),          floats(2, size),
          floats(3, 1),    floats(4, 1), static_cast<bf16*>(copy), size};
}
// run(layer, kind, like) does the work.
template <typename Run>
void layer_with(const Run& run, Tensor rows, Tensor columns, bool bias_of_rows, bool tensor_cores,
                Tensors weight, Tensors bias) {
  STD_TORCH_CHECK(rows.dim() == 2 && columns.dim() == 2 && rows.size(0) == columns.size(0) &&
                      rows.is_contiguous() && columns.is_contiguous() &&
                      rows.scalar_type() == columns.scalar_type(),
                  "lvae: two contiguous matrices of as many rows and of one type expected");
  check_device(rows, columns, "rows and columns");
  const Layer p{
      rows.data_ptr(),           columns.data_ptr(),      rows.size(0), rows.size(1), columns.size(1),
      adam_tensor(weight, rows), adam_tensor(bias, rows), bias_of_rows, tensor_cores};
  STD_TORCH_CHECK(p.weight.size == p.height * p.width &&
                      p.bias.size == (bias_of_rows ? p.height : p.width),
                  "lvae: the weight is not of the size of the product, or the bias of its side");
  const Kind kind = kind_of(rows, "rows");
  STD_TORCH_CHECK(kind == Kind::f32 || kind == Kind::bf16, "lvae: float32 or bfloat16 expected");
  run(p, kind, rows);
}

}    // namespace lvae
