// The op on the CPU, and its registration.
//
// One pass: a chunk of logits and pixels is read, its gradient written, its sum kept. The order of every
// addition follows from the sizes alone, so the result is the same to the bit for any number of threads:
//
//   64 lanes      add up a block of 1024 elements in Wide<T>, 16 additions a lane
//   a fixed tree  adds the lanes in double
//   in order      blocks make a chunk, chunks make the sum, in double; a chunk is done by one thread
//
// The compiler vectorises over the lanes, and makes a version for AVX-512, one for AVX2 and one for every
// x86-64; the loader of the library picks. 64 lanes, since 32 and 128 were slower (measured, AVX-512).
#include "lvae_op.h"

#include <algorithm>
#include <vector>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define LVAE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LVAE_CLONES
#endif

namespace lvae {

constexpr int kLanes = 64;
constexpr int64_t kBlock = 1024, kChunk = 4096;
constexpr int64_t kGrain = 8;    // chunks below which a second thread does not pay

template <typename A>
LVAE_INLINE double lanes_sum(const A* lane) {
  double sum[kLanes];
  for (int j = 0; j < kLanes; ++j) sum[j] = lane[j];
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) sum[j] += sum[j + half];
  return sum[0];
}

// n <= kBlock pixels: their sum, and their gradients if `grad`.
template <bool grad, typename A, typename X>
LVAE_INLINE double pixels_body(const A* logit, const X* x, A* d, int64_t n, Scale<A> scale, A coef) {
  alignas(64) A lane[kLanes] = {};
  A unused;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd private(unused)
    for (int j = 0; j < kLanes; ++j)
      lane[j] += pixel<A>(logit[i + j], A(x[i + j]), scale, coef, grad ? d + i + j : &unused);
  }
  for (int j = 0; i + j < n; ++j)
    lane[j] += pixel<A>(logit[i + j], A(x[i + j]), scale, coef, grad ? d + i + j : &unused);
  return lanes_sum(lane);
}
template <typename A, typename X>
LVAE_INLINE double pixels_either(const A* logit, const X* x, A* d, int64_t n, Scale<A> scale, A coef) {
  return d ? pixels_body<true>(logit, x, d, n, scale, coef) : pixels_body<false>(logit, x, d, n, scale, coef);
}

// target_clones wants functions, not templates.
LVAE_CLONES double pixels(const float* l, const uint8_t* x, float* d, int64_t n, Scale<float> s, float c) {
  return pixels_either(l, x, d, n, s, c);
}
LVAE_CLONES double pixels(const float* l, const float* x, float* d, int64_t n, Scale<float> s, float c) {
  return pixels_either(l, x, d, n, s, c);
}
double pixels(const double* l, const uint8_t* x, double* d, int64_t n, Scale<double> s, double c) {
  return pixels_either(l, x, d, n, s, c);
}
double pixels(const double* l, const double* x, double* d, int64_t n, Scale<double> s, double c) {
  return pixels_either(l, x, d, n, s, c);
}

LVAE_CLONES void widen_all(const bf16* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = widen(in[i]);
}
LVAE_CLONES void widen_all(const f16* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = widen(in[i]);
}
LVAE_CLONES void narrow_all(const float* in, bf16* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = Narrow<bf16>::from(in[i]);
}
LVAE_CLONES void narrow_all(const float* in, f16* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = Narrow<f16>::from(in[i]);
}

// The half types go through a buffer of floats that stays in the first-level cache.
template <typename T, typename X>
double pixels(const T* l, const X* x, T* d, int64_t n, Scale<float> s, float c) {
  alignas(64) float wide[kBlock], gradient[kBlock];
  widen_all(l, wide, n);
  const double sum = pixels(wide, x, d ? gradient : nullptr, n, s, c);
  if (d) narrow_all(gradient, d, n);
  return sum;
}

template <typename T, typename X>
double pixel_chunk(const Problem& p, double coef, int64_t begin, int64_t end) {
  const T* logits = static_cast<const T*>(p.logits);
  const X* x = static_cast<const X*>(p.x);
  T* d = static_cast<T*>(p.d_logits);
  double sum = 0;
  for (int64_t i = begin; i < end; i += kBlock)
    sum += pixels(logits + i, x + i, d ? d + i : nullptr, std::min(kBlock, end - i), Scale<Wide<T>>(p.scale),
                  Wide<T>(coef));
  return sum;
}

double pixel_chunk(const Problem& p, double coef, int64_t begin, int64_t end) {
  double sum = 0;
  by_kind(p.kind, [&](auto t) {
    using T = decltype(t);
    sum = p.x_is_byte ? pixel_chunk<T, uint8_t>(p, coef, begin, end)
                      : pixel_chunk<T, Wide<T>>(p, coef, begin, end);
  });
  return sum;
}

template <typename A>
LVAE_INLINE double latents_body(const A* mu, const A* logvar, A* d_mu, A* d_logvar, int64_t n, A coef) {
  double sum = 0;
  alignas(64) A term[kBlock];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) term[i] = latent<A>(mu[i], logvar[i], coef, d_mu + i, d_logvar + i);
  for (int64_t i = 0; i < n; ++i) sum += term[i];
  return sum;
}
LVAE_CLONES double latents(const float* mu, const float* lv, float* d_mu, float* d_lv, int64_t n, float c) {
  return latents_body(mu, lv, d_mu, d_lv, n, c);
}
double latents(const double* mu, const double* lv, double* d_mu, double* d_lv, int64_t n, double coef) {
  return latents_body(mu, lv, d_mu, d_lv, n, coef);
}

// Elements begin ... begin + n of the rows, one after another, into `out`.
template <typename A>
void gather(const Latents& t, int64_t columns, int64_t begin, int64_t n, A* out) {
  by_kind(t.kind, [&](auto type) {
    const auto* data = static_cast<const decltype(type)*>(t.data);
    int64_t row = begin / columns, column = begin % columns;
    for (int64_t i = 0; i < n; ++i) {
      out[i] = A(widen(data[row * t.row + column * t.column]));
      if (++column == columns) column = 0, ++row;
    }
  });
}

template <typename A>
void put(const A* in, int64_t n, const Latents& t, int64_t begin) {
  by_kind(t.kind, [&](auto type) {
    using T = decltype(type);
    for (int64_t i = 0; i < n; ++i) static_cast<T*>(t.grad)[begin + i] = Narrow<T>::from(Wide<T>(in[i]));
  });
}

template <typename A>
double latent_chunk(const Problem& p, double coef, int64_t begin, int64_t end) {
  alignas(64) A mu[kBlock], logvar[kBlock], d_mu[kBlock], d_logvar[kBlock];
  double sum = 0;
  for (int64_t i = begin; i < end; i += kBlock) {
    const int64_t n = std::min(kBlock, end - i);
    gather(p.mu, p.latents, i, n, mu);
    gather(p.logvar, p.latents, i, n, logvar);
    sum += latents(mu, logvar, d_mu, d_logvar, n, A(coef));
    if (p.mu.grad) put(d_mu, n, p.mu, i), put(d_logvar, n, p.logvar, i);
  }
  return sum;
}

// Tasks 0 ... a - 1 are chunks of pixels, a ... a + b - 1 chunks of latents; each has its place in `part`.
void run_cpu(const Problem& p, const Tensor&) {
  const auto chunks = [](int64_t n) { return (n + kChunk - 1) / kChunk; };
  const int64_t elements = p.rows * p.latents, a = chunks(p.pixels), b = chunks(elements);
  const double pixel_coef = p.pixel_coef(), latent_coef = p.latent_coef();
  std::vector<double> part(a + b);
  torch::stable::parallel_for(0, a + b, kGrain, [&](int64_t from, int64_t to) {
    for (int64_t k = from; k < to; ++k) {
      const int64_t begin = (k < a ? k : k - a) * kChunk;
      const int64_t end = std::min(begin + kChunk, k < a ? p.pixels : elements);
      part[k] = k < a                 ? pixel_chunk(p, pixel_coef, begin, end)
                : p.kind == Kind::f64 ? latent_chunk<double>(p, latent_coef, begin, end)
                                      : latent_chunk<float>(p, latent_coef, begin, end);
    }
  });
  double sum[2] = {0, 0};
  for (int64_t k = 0; k < a + b; ++k) sum[k >= a] += part[k];
  p.finish(sum[0], sum[1]);
}

template <typename T>
void scale_cpu(T* data, int64_t size, Wide<T> factor) {
  torch::stable::parallel_for(0, size, kGrain * kChunk, [=](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) data[i] = Narrow<T>::from(widen(data[i]) * factor);
  });
}

void run_scale_cpu(const Scalings& all, const Tensor&) {
  for (const Scaling& item : all.item) {
    const double factor = item.factor.data ? load(item.factor.data, item.factor.kind, 0) : 1;
    if (factor == 1) continue;    // the usual case: loss.backward() sends a 1
    by_kind(item.kind, [&](auto t) {
      using T = decltype(t);
      scale_cpu<T>(static_cast<T*>(item.data), item.size, Wide<T>(factor));
    });
  }
}

Results elbo_cpu(Tensor logits, Tensor x, Tensor mu, Tensor logvar, MaybeTensor sigma, double scale,
                 bool grad) {
  return elbo_with(run_cpu, logits, x, mu, logvar, sigma, scale, grad);
}
void scale_gradients_cpu(Tensor d_logits, Tensor d_mu, Tensor d_logvar, Tensor d_sigma, MaybeTensor g_rec,
                         MaybeTensor g_kl) {
  scale_with(run_scale_cpu, d_logits, d_mu, d_logvar, d_sigma, g_rec, g_kl);
}

}    // namespace lvae

// The schema is the op's type, which torch.compile goes by. (a!) marks what is written to.
STABLE_TORCH_LIBRARY(lvae, m) {
  m.def("elbo(Tensor logits, Tensor x, Tensor mu, Tensor logvar, Tensor? sigma, float scale, bool grad)"
        " -> (Tensor loss, Tensor rec, Tensor kl,"
        " Tensor d_logits, Tensor d_mu, Tensor d_logvar, Tensor d_sigma)");
  m.def("scale_(Tensor(a!) d_logits, Tensor(b!) d_mu, Tensor(c!) d_logvar, Tensor(d!) d_sigma,"
        " Tensor? g_rec, Tensor? g_kl) -> ()");
  // On CUDA alone: a CPU has torch's fused Adam.
  m.def("adam_(Tensor(a!)[] weights, Tensor[] gradients, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs,"
        " Tensor(d!)[] steps, Tensor[] rates, Tensor(e!)[] copies, Tensor(f!)[] done) -> ()");
  m.def("layer_(Tensor rows, Tensor columns, bool bias_of_rows, bool tensor_cores, Tensor(a!)[] weight,"
        " Tensor(b!)[] bias) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(lvae, CPU, m) {
  m.impl("elbo", TORCH_BOX(&lvae::elbo_cpu));
  m.impl("scale_", TORCH_BOX(&lvae::scale_gradients_cpu));
}
