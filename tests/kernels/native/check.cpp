// The algorithms of csrc/common and the pool's plan against plain loops, for a build with sanitizers. Buffers are
// exactly as long as promised, so that one element too far is an error.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "common/blend.h"
#include "common/flatten.h"
#include "common/gate.h"
#include "common/gram.h"
#include "common/metrics.h"
#include "common/pcgrad.h"
#include "pool/plan.h"

namespace esper {
namespace {

#define REQUIRE(condition)                                                 \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

std::mt19937 generator(7);

void two_threads(int64_t count, int64_t grain, const RangeBody& body) {
  if (count <= grain) return serial_for(count, grain, body);
  const int64_t half = count / 2;
  std::thread other([&] { body(half, count); });
  body(0, half);
  other.join();
}

// Raw memory of exactly `bytes`: a container's capacity would hide an overrun.
struct Buffer {
  explicit Buffer(int64_t bytes) : data(std::malloc(static_cast<size_t>(bytes) + (bytes == 0)), std::free) {}
  std::unique_ptr<void, void (*)(void*)> data;
};

template <class T>
T* fill_random(Buffer& buffer, int64_t n) {
  std::normal_distribution<float> normal;
  T* values = static_cast<T*>(buffer.data.get());
  for (int64_t i = 0; i < n; ++i) values[i] = from_float<T>(normal(generator));
  return values;
}

bool is_near(double a, double b, double tolerance) { return std::fabs(a - b) <= tolerance * (1 + std::fabs(b)); }

template <class T>
void check_rows(DType dtype, int k, const std::vector<int64_t>& sizes) {
  std::vector<int64_t> offsets = {0};
  for (int64_t size : sizes) offsets.push_back(offsets.back() + size);
  const int64_t n = offsets.back();
  std::vector<Buffer> buffers;
  std::vector<const void*> data;
  std::vector<double> dense(static_cast<size_t>(k * n), 0.0);
  for (int i = 0; i < k; ++i)
    for (size_t c = 0; c < sizes.size(); ++c) {
      buffers.emplace_back(sizes[c] * static_cast<int64_t>(sizeof(T)));
      const T* values = fill_random<T>(buffers.back(), sizes[c]);
      const bool is_absent = (i + static_cast<int>(c)) % 5 == 4;
      data.push_back(is_absent ? nullptr : values);
      for (int64_t j = 0; !is_absent && j < sizes[c]; ++j) dense[i * n + offsets[c] + j] = to_double(values[j]);
    }
  const Rows rows{k, static_cast<int64_t>(sizes.size()), offsets.data(), data.data(), dtype};
  std::vector<double> products(static_cast<size_t>(k * k)), coefficients(static_cast<size_t>(k));
  for (bool fast : {false, true}) {
    gram(rows, fast, two_threads, products.data());
    for (int i = 0; i < k; ++i)
      for (int j = 0; j < k; ++j) {
        double expected = 0;
        for (int64_t e = 0; e < n; ++e) expected += dense[i * n + e] * dense[j * n + e];
        REQUIRE(is_near(products[i * k + j], expected, fast ? 1e-4 : 1e-10));
      }
  }
  gram(rows, false, two_threads, products.data());
  std::vector<int64_t> order(static_cast<size_t>(k * k));
  for (int i = 0; i < k * k; ++i) order[i] = i % k;
  const Solution solution = solve(products.data(), k, order.data(), nullptr, false, 0.0, coefficients.data());
  REQUIRE(solution.non_finite_rows == 0);
  Buffer out(n * static_cast<int64_t>(sizeof(T)));
  combine(rows, coefficients.data(), two_threads, dtype, out.data.get());
  for (int64_t e = 0; e < n; ++e) {
    double expected = 0;
    for (int i = 0; i < k; ++i) expected += coefficients[i] * dense[i * n + e];
    REQUIRE(is_near(to_double(static_cast<const T*>(out.data.get())[e]), expected, 1e-2));
  }
  std::vector<double> norms(static_cast<size_t>(k) * sizes.size()), dots(static_cast<size_t>(k * k)), shares(k);
  seed_metrics(
      rows, offsets.data(), static_cast<int64_t>(sizes.size()), two_threads, norms.data(), dots.data(), shares.data());
  for (int i = 0; i < k * k; ++i) REQUIRE(is_near(dots[i], products[i], 1e-10));
}

template <class T>
void check_blend(DType dtype, int64_t outer, int64_t entries, int64_t inner) {
  const int64_t n = outer * entries * inner;
  const int64_t bytes = n * static_cast<int64_t>(sizeof(T));
  Buffer host_memory(bytes), seed_memory(bytes), out(bytes), grad_host(bytes), grad_seed(bytes);
  const T* host = fill_random<T>(host_memory, n);
  const T* seed = fill_random<T>(seed_memory, n);
  std::vector<float> gate(static_cast<size_t>(entries));
  for (int64_t i = 0; i < entries; ++i) gate[i] = static_cast<float>(i % 4) / 2.0f;
  for (bool convex : {false, true}) {
    BlendPlan plan{outer, entries, inner, 0.7, DType::kFloat32, gate.data(), 0.0, 1.0, convex};
    blend(plan, dtype, host, seed, out.data.get(), two_threads);
    blend_backward(plan, dtype, host, grad_host.data.get(), grad_seed.data.get(), two_threads);
    const double slope = blend_alpha_grad(plan, dtype, host, host, seed, two_threads);
    REQUIRE(slope == slope);
    for (int64_t i = 0; i < n; ++i) {
      const double e = weight_of(plan, i / inner % entries).e;
      const double keep = convex ? 1 - e : 1.0;
      const double h = to_double(host[i]), s = to_double(seed[i]);
      REQUIRE(is_near(to_double(static_cast<const T*>(out.data.get())[i]), keep * h + e * s, 2e-2));
      REQUIRE(is_near(to_double(static_cast<const T*>(grad_seed.data.get())[i]), e * h, 2e-2));
      REQUIRE(is_near(to_double(static_cast<const T*>(grad_host.data.get())[i]), keep * h, 2e-2));
    }
    float stats[4];
    blend_stats(plan, stats);
    REQUIRE(stats[0] >= 0 && stats[0] <= 1 && stats[1] <= 1);
  }
}

template <class T>
void check_gate(DType dtype, int64_t rows, int64_t classes) {
  Buffer memory(rows * classes * static_cast<int64_t>(sizeof(T)));
  const T* logits = fill_random<T>(memory, rows * classes);
  Buffer gate(rows * 4), statistics(rows * 12);
  const int64_t events = confidence_gate(
      dtype, logits, rows, classes, {4.0, 0.2, false}, static_cast<float*>(gate.data.get()),
      static_cast<float*>(statistics.data.get()), two_threads);
  REQUIRE(events == (classes == 1 ? rows : 0));
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t c = 0; c < classes; ++c) sum += std::exp(to_double(logits[r * classes + c]));
    REQUIRE(is_near(static_cast<const float*>(statistics.data.get())[3 * r + 1], std::log(sum), 1e-5));
  }
}

template <class T>
void check_flatten(DType dtype, DType to) {
  const std::vector<int64_t> sizes = {0, 1, 17, 4097, 9000};
  std::vector<Buffer> buffers;
  std::vector<Source> sources;
  int64_t total = 0;
  for (int64_t size : sizes) {
    buffers.emplace_back(size * static_cast<int64_t>(sizeof(T)));
    sources.push_back({fill_random<T>(buffers.back(), size), size, dtype, {}, {}});
    total += size;
  }
  buffers.emplace_back(30 * 50 * static_cast<int64_t>(sizeof(T)));
  sources.push_back({fill_random<T>(buffers.back(), 1500), 1500, dtype, {50, 30}, {1, 50}});
  sources.push_back({nullptr, 33, to, {}, {}});
  total += 1533;
  Buffer out(total * size_bytes(to));
  flatten(sources, to, out.data.get(), two_threads);
  const char* tail = static_cast<const char*>(out.data.get()) + (total - 33) * size_bytes(to);
  for (int64_t i = 0; i < 33 * size_bytes(to); ++i) REQUIRE(tail[i] == 0);
}

void check_plan() {
  Plan plan(2, 4, 4);
  std::vector<int64_t> live;
  for (int step = 0; step < 500; ++step) {
    if (step % 3 == 2 && !live.empty()) {
      plan.remove(live[step % live.size()]);
    } else {
      plan.add(static_cast<int64_t>(generator() % 50));
    }
    live = plan.live();
  }
  std::vector<uint64_t> addresses;
  for (int64_t slot : live) addresses.push_back(4096 + static_cast<uint64_t>(plan.offset(slot)) * 4);
  REQUIRE(plan.unbound(1, 4096, addresses).empty());
  if (!addresses.empty()) addresses[0] = 0;
  REQUIRE(plan.presence(0).size() == live.size());
  plan.unbound(0, 4096, addresses);
  REQUIRE(!plan.presence(0)[0]);
}

template <class T>
void check_dtype(DType dtype) {
  for (int k : {1, 2, 3, 4, 5, 7, 8, 16, 64}) check_rows<T>(dtype, k, {0, 3, 1, 700, 0, 2049});
  check_rows<T>(dtype, 3, {65537, 70001});
  check_rows<T>(dtype, 2, {0});
  for (int64_t inner : {1, 3, 31, 32, 1000, 5000}) {
    check_blend<T>(dtype, 3, 4, inner);
    check_blend<T>(dtype, 1, 1, inner);
    check_blend<T>(dtype, 2, 7, inner);
  }
  check_blend<T>(dtype, 40, 64, 600);
  for (int64_t classes : {1, 2, 3, 15, 16, 17, 33, 1025}) check_gate<T>(dtype, 9, classes);
  for (DType to : {DType::kFloat64, DType::kFloat32, DType::kBFloat16, DType::kFloat16}) check_flatten<T>(dtype, to);
}

}  // namespace
}  // namespace esper

int main() {
  for (const char* name : {"portable", "avx2", "avx512"}) {
    if (!esper::force_tiles(name)) continue;
    esper::check_dtype<double>(esper::DType::kFloat64);
    esper::check_dtype<float>(esper::DType::kFloat32);
    esper::check_dtype<esper::BFloat16>(esper::DType::kBFloat16);
    esper::check_dtype<esper::Float16>(esper::DType::kFloat16);
    std::printf("%s: ok\n", name);
  }
  esper::check_plan();
  std::printf("plan: ok\n");
}
