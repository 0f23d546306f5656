// The arithmetic of one element of the loss, for the CPU and for CUDA: no torch, no memory, no loop.
//
//   pixel   term = (p - x)^2, p = sigmoid(logit);   d/d logit = 2 (p - x) p (1 - p)      Eq. 3, first term
//   latent  term = (mu^2 + e^lv - 1 - lv) / 2;      d/d mu = mu;  d/d lv = (e^lv - 1) / 2     second term
//   weigh   L = term / max(s^2, 0.01) + s^2;        d/d s = 2 s - 2 term / s^3           Eq. 5
//
// The numerical decision: no difference of nearly equal numbers in float. A saturated sigmoid is not
// subtracted from 1 (q below is the smaller of p and 1 - p), and e^lv - 1 - lv is a series near 0. With x = 1
// and logit = 10 the textbook p - x keeps 3 digits of 7, this form all 7. exp is a polynomial because a call
// to libm would keep the compiler from vectorising the loop. log 2 in two constants holds its relative error
// below 2e-7 up to e^88; in one constant it is 1.8e-6 at e^30.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define LVAE_INLINE __host__ __device__ __forceinline__
#else
#define LVAE_INLINE inline __attribute__((always_inline))
#endif

namespace lvae {

constexpr double kMinSigmaSq = 0.01;    // losses.MIN_SIGMA_SQ

template <typename To, typename From>
LVAE_INLINE To bits_of(From value) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To out;
  std::memcpy(&out, &value, sizeof out);
  return out;
}

// x = n log 2 + f, n whole and |f| <= log(2) / 2. Then e^x = 2^n (1 + f + q f^2).
struct Reduced {
  float f, q;
  uint32_t n_at_exponent;    // n << 23: added to the bits of a power of two it multiplies by 2^n
};

LVAE_INLINE Reduced reduce(float x) {
  const float shift = 12582912.0f;    // 1.5 * 2^23: adding it leaves n in the lowest bits
  const float t = x * 1.44269504f + shift;
  const float n = t - shift;
  const float f = (x - n * 0.693359375f) + n * 2.12194440e-4f;    // n times the first constant is exact
  float q = 1.3946581e-3f;    // (e^f - 1 - f) / f^2, fitted so that e^f - 1 is off by less than 2e-8 |f|
  q = q * f + 8.366659e-3f;
  q = q * f + 4.166628e-2f;
  q = q * f + 1.6666542e-1f;
  q = q * f + 0.5f;
  return {f, q, bits_of<uint32_t>(t) << 23};    // of a NaN they are any bits, and the result is NaN
}

LVAE_INLINE float times_two_to(uint32_t n_at_exponent, float one_or_half) {
  return bits_of<float>(bits_of<uint32_t>(one_or_half) + n_at_exponent);
}

// e^x for x <= 0. At -88 n is -127, and "2^-127" has the bits of 0: what is below the normal floats becomes 0
// (a denormal costs a hundred cycles). Every comparison here is false for NaN, which so passes through.
LVAE_INLINE float exp_of_negative(float x) {
  const Reduced r = reduce(x < -88.0f ? -88.0f : x);
  return times_two_to(r.n_at_exponent, 1.0f) * (1.0f + r.f * (1.0f + r.f * r.q));
}
LVAE_INLINE double exp_of_negative(double x) { return ::exp(x); }

// e^x - 1, and in `excess` e^x - 1 - x, which is never negative in float.
LVAE_INLINE float expm1_and_excess(float x, float* excess) {
  float c = x > 88.8f ? 88.8f : x;    // e^88.8 is infinite already
  c = c < -60.0f ? -60.0f : c;        // e^-60 - 1 is -1 already
  const Reduced r = reduce(c);
  const float half = times_two_to(r.n_at_exponent, 0.5f);    // 2^(n - 1): 2^128 would not be a float
  const float tail = r.f * r.f * r.q;
  const float value = 2.0f * (half * (r.f + tail) + (half - 0.5f));
  *excess = r.n_at_exponent == 0 ? tail : value - x;
  return value;
}
LVAE_INLINE double expm1_and_excess(double x, double* excess) {
  const double value = ::expm1(x);
  *excess = value - x;    // 1e-16 of x is enough for gradcheck, the use of double
  return value;
}

// 1 / x for 1 <= x <= 2.
LVAE_INLINE float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  const float r = __fdividef(1.0f, x);    // 1 / x has a slow path; a Newton step makes this as good
  return r + r * (1.0f - x * r);
#else
  return 1.0f / x;
#endif
}
LVAE_INLINE double reciprocal(double x) { return 1.0 / x; }

// A stored pixel u means x = scale u. `one` is the u of x = 1: 1 - x = scale (one - u) has nothing to cancel.
template <typename A>
struct Scale {
  A scale, one;
  explicit LVAE_INLINE Scale(double s) : scale(A(s)), one(A(1 / s)) {}
};

// Squared error of sigmoid(logit) against x = scale u; `grad` gets half its derivative times coef.
template <typename A>
LVAE_INLINE A pixel(A logit, A u, Scale<A> s, A coef, A* grad) {
  const bool negative = logit < 0;
  const A e = exp_of_negative(-std::fabs(logit));
  const A r = reciprocal(A(1) + e);
  const A q = e * r;                                       // p where logit < 0, else 1 - p
  const A d = q - (negative ? u : s.one - u) * s.scale;    // p - x where logit < 0, else x - p
  *grad = (negative ? coef : -coef) * (d * (q * r));       // q r = p (1 - p)
  return d * d;
}

// KL of N(mu, e^logvar) from N(0, 1), nats; the gradients get its derivatives times coef.
template <typename A>
LVAE_INLINE A latent(A mu, A logvar, A coef, A* d_mu, A* d_logvar) {
  A excess;
  const A value = expm1_and_excess(logvar, &excess);
  *d_mu = coef * mu;
  *d_logvar = coef * (A(0.5) * value);
  const A kl = A(0.5) * (mu * mu + excess);
  return kl < 0 ? A(0) : kl;
}

LVAE_INLINE double weight(double s) { return 1 / (s * s < kMinSigmaSq ? kMinSigmaSq : s * s); }

// One term of Eq. 5 and its derivative by the scale s; a weight at its bound no longer moves.
struct Weighed {
  double loss, d_sigma;
};
LVAE_INLINE Weighed weigh(double s, double term) {
  const double slope = s * s < kMinSigmaSq ? 0 : -2 / (s * s * s);
  return {weight(s) * term + s * s, 2 * s + slope * term};
}

}    // namespace lvae
