// What the op is, whatever the device: its arguments, its results, and the memory behind them.
//
//   lvae::elbo(logits, x, mu, logvar, sigma, scale, grad)
//       -> (loss, rec, kl, d_logits, d_mu, d_logvar, d_sigma)
//
//   forward    rec  = 1/N sum_nd (sigmoid(logit) - scale x)^2                losses.elbo_terms, Eq. 3
//              kl   = 1/N sum_nl (mu^2 + e^lv - 1 - lv) / 2
//              loss = w0 rec + w1 kl + s0^2 + s1^2, w = 1 / max(s^2, 0.01)   losses.lvae_loss, Eq. 5
//   backward   d_* are d loss / d *, ready when the forward ends; lvae::scale_ multiplies in the incoming
//              gradient. Without sigma w0 = w1 = 1: d rec / d logits, d kl / d mu, d kl / d logvar.
//
// Shapes: logits, x (N, ...); mu, logvar (N, L); sigma (2,) or none. x is uint8 or floating. A wrong shape
// raises with the expected and the given one in fused.py; here, only what could read out of bounds.
//
// elbo_with() allocates the results and describes the call as a Problem; the device's code does the rest.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>

#include "lvae_problem.h"

namespace lvae {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

inline Kind kind_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Kind::f32;
    case ScalarType::Double: return Kind::f64;
    case ScalarType::BFloat16: return Kind::bf16;
    case ScalarType::Half: return Kind::f16;
    default: STD_TORCH_CHECK(false, "lvae: ", name, " must be float32, float64, bfloat16 or float16");
  }
}

// torch's own words are lost on the way through its stable interface.
constexpr char kNoMemory[] = "lvae: cannot allocate memory for a result, or the device has failed before";

// Uninitialised memory on the device of `like`.
inline Tensor empty(const Tensor& like, ScalarType type, int64_t dim, const int64_t* sizes,
                    const int64_t* strides) {
  int32_t device, index, dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle out;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  const auto failed = aoti_torch_empty_strided(dim, sizes, strides, dtype, device, index, &out);
  STD_TORCH_CHECK(!failed, kNoMemory);
  return Tensor(out);
}
// Dense memory in the order of `like`, which may have gaps.
inline Tensor dense_like(const Tensor& like) {
  std::optional<Tensor> out;
  try {
    out = torch::stable::empty_like(like);
  } catch (const std::exception&) {
  }
  STD_TORCH_CHECK(out, kNoMemory);
  return *out;
}
inline Tensor empty_vector(const Tensor& like, ScalarType type, int64_t size) {
  const int64_t stride = 1;
  return empty(like, type, 1, &size, &stride);
}
inline Tensor empty_scalar(const Tensor& like, ScalarType type) {
  return empty(like, type, 0, nullptr, nullptr);
}
inline Tensor empty_rows(const Tensor& like) {
  const int64_t sizes[] = {like.size(0), like.size(1)}, strides[] = {sizes[1], 1};
  return empty(like, like.scalar_type(), 2, sizes, strides);
}

// `t` itself where its elements lie in the order of `like`, else a copy that does. The sums do not ask in
// which order the elements come, only that logit and pixel meet: channels_last logits are not copied.
inline Tensor laid_out_as(const Tensor& like, const Tensor& t) {
  bool same = true;
  for (int64_t i = 0; i < t.dim(); ++i) same &= t.size(i) == 1 || t.stride(i) == like.stride(i);
  if (same) return t;
  Tensor out = empty(like, t.scalar_type(), like.dim(), like.sizes().data(), like.strides().data());
  return torch::stable::copy_(out, t);
}

inline void check_device(const Tensor& a, const Tensor& b, const char* names) {
  STD_TORCH_CHECK(a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index(), "lvae: ", names,
                  " must be on one device");
}
inline void check_same(const Tensor& a, const Tensor& b, const char* names) {
  bool same = a.dim() == b.dim();
  for (int64_t i = 0; same && i < a.dim(); ++i) same = a.size(i) == b.size(i);
  STD_TORCH_CHECK(same, "lvae: ", names, " must have one shape");
  check_device(a, b, names);
}
// Memory that is read and written as numel() numbers, whatever their order: the tensor's is that long.
inline void check_dense(const Tensor& t, const char* name) {
  int64_t extent = 1;
  for (int64_t i = 0; i < t.dim(); ++i) extent += (t.size(i) - 1) * t.stride(i);
  STD_TORCH_CHECK(extent == t.numel() || t.numel() == 0, "lvae: ", name, " must have no gaps in memory");
}
inline void check(const Tensor& logits, const Tensor& x, const Tensor& mu, const Tensor& logvar,
                  const MaybeTensor& sigma) {
  check_same(logits, x, "logits and x");
  check_same(mu, logvar, "mu and logvar");
  check_device(logits, mu, "logits and mu");
  STD_TORCH_CHECK(logits.dim() >= 1 && mu.dim() == 2 && logits.size(0) == mu.size(0) && mu.size(0) > 0,
                  "lvae: logits (N, ...) and mu (N, L) expected, N > 0");
  if (!sigma) return;
  check_device(logits, *sigma, "logits and sigma");
  STD_TORCH_CHECK(sigma->dim() == 1 && sigma->size(0) == 2, "lvae: sigma must be (2,)");
}

inline Latents latents_of(const Tensor& t, const Tensor& grad, bool wanted, const char* name) {
  void* gradient = wanted ? grad.mutable_data_ptr() : nullptr;
  return {t.const_data_ptr(), gradient, kind_of(t, name), t.stride(0), t.stride(1)};
}
inline Scalar scalar_of(const Tensor& t, const char* name) {
  return {t.mutable_data_ptr(), kind_of(t, name)};
}
inline Scalar input_of(const MaybeTensor& t, const char* name) {    // only read from
  return t ? Scalar{const_cast<void*>(t->const_data_ptr()), kind_of(*t, name)} : Scalar{};
}

// run(problem, logits) does the work; `logits` says on which device.
template <typename Run>
Results elbo_with(const Run& run, Tensor logits, Tensor x, Tensor mu, Tensor logvar, MaybeTensor sigma,
                  double scale, bool grad) {
  check(logits, x, mu, logvar, sigma);
  const Kind kind = kind_of(logits, "logits");
  const ScalarType wide = kind == Kind::f64 ? ScalarType::Double : ScalarType::Float;
  const bool double_loss = sigma && sigma->scalar_type() == ScalarType::Double;
  if (x.scalar_type() != ScalarType::Byte && x.scalar_type() != wide) x = torch::stable::to(x, wide);

  Tensor d_logits = dense_like(logits);    // for its strides, even where no gradient is wanted
  logits = laid_out_as(d_logits, logits);
  x = laid_out_as(d_logits, x);
  const auto none = [&] { return empty_vector(logits, wide, 0); };
  if (!grad) d_logits = none();
  Tensor d_mu = grad ? empty_rows(mu) : none(), d_logvar = grad ? empty_rows(logvar) : none();
  Tensor d_sigma = grad && sigma ? empty_vector(*sigma, sigma->scalar_type(), 2) : none();
  Tensor loss = empty_scalar(logits, double_loss ? ScalarType::Double : wide);
  Tensor rec = empty_scalar(logits, wide), kl = empty_scalar(logits, wide);

  Problem p{};
  p.logits = logits.const_data_ptr();
  p.x = x.const_data_ptr();
  p.d_logits = grad ? d_logits.mutable_data_ptr() : nullptr;
  p.kind = kind;
  p.x_is_byte = x.scalar_type() == ScalarType::Byte;
  p.pixels = logits.numel();
  p.rows = mu.size(0);
  p.latents = mu.size(1);
  p.scale = scale;
  p.mu = latents_of(mu, d_mu, grad, "mu");
  p.logvar = latents_of(logvar, d_logvar, grad, "logvar");
  p.sigma = input_of(sigma, "sigma");
  p.sigma_stride = sigma ? sigma->stride(0) : 0;
  if (sigma && grad) p.d_sigma = scalar_of(d_sigma, "sigma");
  p.loss = scalar_of(loss, "loss");
  p.rec = scalar_of(rec, "rec");
  p.kl = scalar_of(kl, "kl");
  run(p, logits);
  return {loss, rec, kl, d_logits, d_mu, d_logvar, d_sigma};
}

// d_logits and d_sigma *= g_rec; d_mu and d_logvar *= g_kl. Where there is a d_sigma, g_rec is g_kl.
template <typename Run>
void scale_with(const Run& run, Tensor d_logits, Tensor d_mu, Tensor d_logvar, Tensor d_sigma,
                MaybeTensor g_rec, MaybeTensor g_kl) {
  const auto factor_of = [&](const MaybeTensor& t, const char* name) {
    if (t) check_device(d_logits, *t, "gradients and their factors");
    STD_TORCH_CHECK(!t || t->numel() == 1, "lvae: ", name, " must be one number");
    return input_of(t, name);
  };
  const Scalar rec = factor_of(g_rec, "g_rec"), kl = factor_of(g_kl, "g_kl");
  const auto item = [&](const Tensor& t, Scalar factor) {
    check_device(d_logits, t, "gradients");
    check_dense(t, "a gradient");
    return Scaling{t.mutable_data_ptr(), kind_of(t, "a gradient"), t.numel(), factor};
  };
  run(Scalings{{item(d_logits, rec), item(d_mu, kl), item(d_logvar, kl), item(d_sigma, rec)}}, d_logits);
}

}    // namespace lvae
