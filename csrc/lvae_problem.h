// One call of the op as plain pointers and numbers, so that a device's code can do without torch; and the
// types that stand behind the pointers. A kernel reads and writes elements with load() and store().
#pragma once
#include "lvae_math.h"

namespace lvae {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

LVAE_INLINE float widen(float v) { return v; }
LVAE_INLINE double widen(double v) { return v; }
LVAE_INLINE float widen(uint8_t v) { return float(v); }
LVAE_INLINE float widen(bf16 v) { return bits_of<float>(uint32_t(v.bits) << 16); }
LVAE_INLINE float widen(f16 v) {
  const uint32_t magnitude = uint32_t(v.bits & 0x7fff) << 13, sign = uint32_t(v.bits & 0x8000) << 16;
  const float finite = bits_of<float>(magnitude) * 5.192296858534828e33f;    // 2^112: the bias
  const uint32_t special = magnitude | 0x7f800000;                           // infinity and NaN
  return bits_of<float>(sign | ((v.bits & 0x7c00) == 0x7c00 ? special : bits_of<uint32_t>(finite)));
}

// To the nearest number of the type, halves to even. NaN stays NaN.
template <typename T> struct Narrow;
template <> struct Narrow<float> {
  static LVAE_INLINE float from(float v) { return v; }
};
template <> struct Narrow<double> {
  static LVAE_INLINE double from(double v) { return v; }
};
template <> struct Narrow<bf16> {
  static LVAE_INLINE bf16 from(float v) {
    const uint32_t b = bits_of<uint32_t>(v), rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    return {uint16_t(v != v ? 0x7fc0 : rounded)};
  }
};
template <> struct Narrow<f16> {
  static LVAE_INLINE f16 from(float v) {
    const uint32_t b = bits_of<uint32_t>(v), sign = (b >> 16) & 0x8000, m = b & 0x7fffffff;
    const uint32_t normal = (m + 0xc8000fff + ((m >> 13) & 1)) >> 13;
    const uint32_t tiny = bits_of<uint32_t>(bits_of<float>(m) + 0.5f) - 0x3f000000;    // 0.5 rounds to 2^-24
    uint32_t out = m < 0x38800000 ? tiny : normal;                                     // 2^-14
    out = m >= 0x477ff000 ? 0x7c00 : out;                                              // 65520: infinity
    return {uint16_t(sign | (v != v ? 0x7e00 : out))};
  }
};

template <typename T> struct WideOf {
  using type = float;
};
template <> struct WideOf<double> {
  using type = double;
};
template <typename T> using Wide = typename WideOf<T>::type;    // what an element of T is computed in

enum class Kind { f32, f64, bf16, f16 };

// f(T{}) for the T of a kind.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable    // f is for the host or for the device, as its caller is
#endif
template <typename F>
LVAE_INLINE void by_kind(Kind kind, const F& f) {
  switch (kind) {
    case Kind::f32: return f(float{});
    case Kind::f64: return f(double{});
    case Kind::bf16: return f(bf16{});
    case Kind::f16: return f(f16{});
  }
}

struct Scalar {    // a number in the device's memory
  void* data = nullptr;
  Kind kind = Kind::f32;
};
template <typename T>
LVAE_INLINE T element(const void* data, int64_t i) {
  return static_cast<const T*>(data)[i];
}

LVAE_INLINE double load(const void* data, Kind kind, int64_t i) {
  switch (kind) {
    case Kind::f32: return element<float>(data, i);
    case Kind::f64: return element<double>(data, i);
    case Kind::bf16: return widen(element<bf16>(data, i));
    default: return widen(element<f16>(data, i));
  }
}
LVAE_INLINE void store(void* data, Kind kind, int64_t i, double value) {
  switch (kind) {
    case Kind::f32: static_cast<float*>(data)[i] = float(value); break;
    case Kind::f64: static_cast<double*>(data)[i] = value; break;
    case Kind::bf16: static_cast<bf16*>(data)[i] = Narrow<bf16>::from(float(value)); break;
    default: static_cast<f16*>(data)[i] = Narrow<f16>::from(float(value)); break;
  }
}

struct Latents {    // (N, L), an element every `column`, a row every `row`; the gradient is dense
  const void* data;
  void* grad;    // null: not wanted
  Kind kind;
  int64_t row, column;
};

struct Problem {
  const void* logits;    // `pixels` elements of `kind` in memory order
  const void* x;         // uint8 or Wide<kind>, in the order of the logits
  void* d_logits;        // in the same order; null: no gradient is wanted
  Kind kind;
  bool x_is_byte;
  int64_t pixels, rows, latents;    // N * D, N, L
  double scale;
  Latents mu, logvar;
  Scalar sigma;    // two numbers, `sigma_stride` apart; null: both weights are 1
  int64_t sigma_stride;
  Scalar d_sigma, loss, rec, kl;    // d_sigma: two numbers, or null

  LVAE_INLINE double s(int i) const { return load(sigma.data, sigma.kind, i * sigma_stride); }
  LVAE_INLINE double weight_of(int i) const { return sigma.data ? weight(s(i)) : 1.0; }
  LVAE_INLINE double pixel_coef() const { return 2 * weight_of(0) / double(rows); }
  LVAE_INLINE double latent_coef() const { return weight_of(1) / double(rows); }

  // From the two sums over the batch: the results, and the gradient by sigma.
  LVAE_INLINE void finish(double pixel_sum, double latent_sum) const {
    const double term[2] = {pixel_sum / double(rows), latent_sum / double(rows)};
    double total = 0;
    for (int i = 0; i < 2; ++i) {
      const Weighed w = sigma.data ? weigh(s(i), term[i]) : Weighed{term[i], 0};
      total += w.loss;
      if (d_sigma.data) store(d_sigma.data, d_sigma.kind, i, w.d_sigma);
    }
    store(loss.data, loss.kind, 0, total);
    store(rec.data, rec.kind, 0, term[0]);
    store(kl.data, kl.kind, 0, term[1]);
  }
};

struct Scaling {    // data *= factor, `size` elements
  void* data;
  Kind kind;
  int64_t size;
  Scalar factor;    // null: leave as it is
};
constexpr int kScalings = 4;    // d_logits, d_mu, d_logvar, d_sigma
struct Scalings {
  Scaling item[kScalings];
};

}    // namespace lvae
