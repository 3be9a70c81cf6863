// The body of every copy in Tiles. The including file has defined ESPER_TILES (the name of the table), ESPER_LABEL,
// ESPER_VECTOR_BYTES, ESPER_BLOCK (rows per register block) and, in an unnamed namespace, fused(a, b, c) = a * b + c,
// halves_to_floats, floats_to_halves and is_supported. Everything here stays in that unnamed namespace: a function
// shared between the copies could bring instructions to a processor that lacks them.

namespace esper {
namespace {

typedef double VecF64 __attribute__((vector_size(ESPER_VECTOR_BYTES)));
typedef float VecF32 __attribute__((vector_size(ESPER_VECTOR_BYTES)));

template <class T>
struct Vec;
template <>
struct Vec<double> {
  using type = VecF64;
};
template <>
struct Vec<float> {
  using type = VecF32;
};

template <class T>
inline typename Vec<T>::type load(const T* from) {
  typename Vec<T>::type v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

template <class T>
inline void store(typename Vec<T>::type v, T* to) {
  __builtin_memcpy(to, &v, sizeof(v));
}

// 64 bytes of accumulators per pair, whatever the vector width: a narrow set makes several passes over the lanes.
template <class T>
constexpr int64_t lanes() {
  return 64 / static_cast<int64_t>(sizeof(T));
}

constexpr int64_t pair_index(int64_t i, int64_t j, int64_t k) { return i * k - i * (i - 1) / 2 + (j - i); }

// Fetches the lines of all rows one after another, a few at each step.
class Prefetcher {
 public:
  Prefetcher(Ahead ahead, int k, int64_t steps) : ahead_(ahead), k_(ahead.rows == nullptr ? 0 : k) {
    const int64_t lines = k_ * (ahead.bytes / kLine + 1);
    per_step_ = steps > 0 ? (lines + steps - 1) / steps : 0;
    start_row();
  }

  void step() {
    for (int64_t i = 0; i < per_step_ && row_ < k_; ++i) {
      __builtin_prefetch(at_, 0, 2);
      at_ += kLine;
      if (at_ >= end_) {
        ++row_;
        start_row();
      }
    }
  }

 private:
  static constexpr int64_t kLine = 64;

  void start_row() {
    if (row_ >= k_) return;
    at_ = static_cast<const char*>(ahead_.rows[row_]);
    end_ = at_ == nullptr ? at_ : at_ + ahead_.bytes;
  }

  Ahead ahead_;
  int k_;
  int row_ = 0;
  int64_t per_step_;
  const char* at_ = nullptr;
  const char* end_ = nullptr;
};

template <class T, int R, int C, bool Diagonal>
void gram_block(const T* tile, int64_t stride, int k, int64_t n, int i0, int j0, Prefetcher& ahead, T* sums) {
  Prefetcher prefetcher = ahead;  // in registers while the loop runs
  using V = typename Vec<T>::type;
  constexpr int64_t kWidth = ESPER_VECTOR_BYTES / sizeof(T);
  const T* a = tile + i0 * stride;
  const T* b = tile + j0 * stride;
  for (int64_t lane = 0; lane < lanes<T>(); lane += kWidth) {
    V acc[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = Diagonal ? r : 0; c < C; ++c)
        acc[r][c] = load(sums + pair_index(i0 + r, j0 + c, k) * lanes<T>() + lane);
    for (int64_t i = lane; i < n; i += lanes<T>()) {
      prefetcher.step();
      V x[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) x[r] = load(a + r * stride + i);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const V y = Diagonal ? x[c] : load(b + c * stride + i);
#pragma GCC unroll 8
        for (int r = 0; r < (Diagonal ? c + 1 : R); ++r) acc[r][c] = fused(x[r], y, acc[r][c]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = Diagonal ? r : 0; c < C; ++c)
        store<T>(acc[r][c], sums + pair_index(i0 + r, j0 + c, k) * lanes<T>() + lane);
  }
  ahead = prefetcher;
}

template <class T, int R>
void gram_columns(const T* tile, int64_t stride, int k, int64_t n, int i0, Prefetcher& ahead, T* sums) {
  gram_block<T, R, R, true>(tile, stride, k, n, i0, i0, ahead, sums);
  int j = i0 + R;
  for (; j + ESPER_BLOCK <= k; j += ESPER_BLOCK)
    gram_block<T, R, ESPER_BLOCK, false>(tile, stride, k, n, i0, j, ahead, sums);
  for (; j + 2 <= k; j += 2) gram_block<T, R, 2, false>(tile, stride, k, n, i0, j, ahead, sums);
  for (; j < k; ++j) gram_block<T, R, 1, false>(tile, stride, k, n, i0, j, ahead, sums);
}

template <class T>
void gram(const T* tile, int64_t stride, int k, int64_t n, Ahead ahead, T* sums) {
  const int64_t groups = (k + ESPER_BLOCK - 1) / ESPER_BLOCK;
  Prefetcher prefetcher(ahead, k, groups * (groups + 1) / 2 * n * static_cast<int64_t>(sizeof(T)) / ESPER_VECTOR_BYTES);
  int i = 0;
  for (; i + ESPER_BLOCK <= k; i += ESPER_BLOCK) gram_columns<T, ESPER_BLOCK>(tile, stride, k, n, i, prefetcher, sums);
  for (; i + 2 <= k; i += 2) gram_columns<T, 2>(tile, stride, k, n, i, prefetcher, sums);
  for (; i < k; ++i) gram_columns<T, 1>(tile, stride, k, n, i, prefetcher, sums);
}

// A multiply and an add, never fused: coefficient times element is not exact.
template <int R, class T>
void combine_rows(const T* const* rows, int64_t n, const double* c, bool first, double* out) {
  for (int64_t i = 0; i < n; ++i) {
    double sum = first ? 0.0 : out[i];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum += c[r] * static_cast<double>(rows[r][i]);
    out[i] = sum;
  }
}

template <class T>
void combine(const T* const* rows, int k, int64_t n, const double* c, double* out) {
  const T* present[64];
  double weights[64];
  int count = 0;
  for (int r = 0; r < k; ++r) {
    if (rows[r] == nullptr) continue;
    weights[count] = c[r];
    present[count++] = rows[r];
  }
  int r = 0;
  if (count == 0)
    for (int64_t i = 0; i < n; ++i) out[i] = 0.0;
  for (; r + 8 <= count; r += 8) combine_rows<8>(present + r, n, weights + r, r == 0, out);
  for (; r + 2 <= count; r += 2) combine_rows<2>(present + r, n, weights + r, r == 0, out);
  for (; r < count; ++r) combine_rows<1>(present + r, n, weights + r, r == 0, out);
}

template <class T>
void convert_bfloats(const uint16_t* from, int64_t n, T* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = __builtin_bit_cast(float, static_cast<uint32_t>(from[i]) << 16);
}

template <class T>
void convert_to_bfloats(const T* from, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; ++i) {
    const float value = static_cast<float>(from[i]);
    const uint32_t bits = __builtin_bit_cast(uint32_t, value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    to[i] = static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
  }
}

template <class T, class U>
void convert(const T* from, int64_t n, U* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<U>(from[i]);
}

constexpr int64_t kHalfTile = 256;

template <class T>
void convert_halves(const uint16_t* from, int64_t n, T* to) {
  float wide[kHalfTile];
  for (int64_t i = 0; i < n; i += kHalfTile) {
    const int64_t m = n - i < kHalfTile ? n - i : kHalfTile;
    halves_to_floats(from + i, m, wide);
    convert(wide, m, to + i);
  }
}

template <class T>
void convert_to_halves(const T* from, int64_t n, uint16_t* to) {
  float narrow[kHalfTile];
  for (int64_t i = 0; i < n; i += kHalfTile) {
    const int64_t m = n - i < kHalfTile ? n - i : kHalfTile;
    convert(from + i, m, narrow);
    floats_to_halves(narrow, m, to + i);
  }
}

template <class T>
void load_as(DType dtype, const void* from, int64_t n, T* to) {
  switch (dtype) {
    case DType::kFloat64:
      return convert(static_cast<const double*>(from), n, to);
    case DType::kFloat32:
      return convert(static_cast<const float*>(from), n, to);
    case DType::kBFloat16:
      return convert_bfloats(static_cast<const uint16_t*>(from), n, to);
    case DType::kFloat16:
      return convert_halves(static_cast<const uint16_t*>(from), n, to);
  }
}

template <class T>
void store_as(DType dtype, const T* from, int64_t n, void* to) {
  switch (dtype) {
    case DType::kFloat64:
      return convert(from, n, static_cast<double*>(to));
    case DType::kFloat32:
      return convert(from, n, static_cast<float*>(to));
    case DType::kBFloat16:
      return convert_to_bfloats(from, n, static_cast<uint16_t*>(to));
    case DType::kFloat16:
      return convert_to_halves(from, n, static_cast<uint16_t*>(to));
  }
}

template <class T>
void blend(const T* host, const T* seed, int64_t n, BlendWeights<T> w, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = w.keep * host[i] + w.take * seed[i];
}

typedef int32_t VecI32 __attribute__((vector_size(ESPER_VECTOR_BYTES)));

constexpr int64_t kFloats = ESPER_VECTOR_BYTES / sizeof(float);
constexpr float kLowest = -__builtin_inff();

// 0, 1, 2, ...
inline VecI32 lanes() {
  VecI32 lane;
  for (int32_t i = 0; i < kFloats; ++i) lane[i] = i;
  return lane;
}

inline VecF32 spread(float x) { return (VecF32){} + x; }
inline VecF32 larger(VecF32 a, VecF32 b) { return a > b ? a : b; }

constexpr float kTiniest = -87.0f;  // below it, exp has no normal float32: what is smaller weighs as much as this

// exp(x) for kTiniest <= x <= 0 within 2 ulp: 2^round(x / ln 2) times a polynomial on the remainder, whose coefficients
// make the largest relative error least (3e-9). NaN stays NaN.
inline VecF32 exp_nonpositive(VecF32 x) {
  const VecF32 magic = spread(12582912.0f);  // 1.5 * 2^23: the sum's low bits are the rounded quotient
  const VecF32 shifted = fused(x, spread(1.44269504088896341f), magic);
  const VecF32 rest = fused(shifted - magic, spread(-0.693147180559945309f), x);
  VecF32 p = fused(rest, spread(1.38145e-3f), spread(8.36875e-3f));
  p = fused(p, rest, spread(4.166839e-2f));
  p = fused(p, rest, spread(0.1666652f));
  p = fused(p, rest, spread(0.49999993f));
  p = fused(p, rest, spread(1.0f));
  p = fused(p, rest, spread(1.0f));
  return p * (VecF32)(((VecI32)shifted << 23) + 0x3f800000);
}

// Halves a vector again and again: `merge` takes two of the same width.
template <int Bytes>
struct Lanes {
  typedef float type __attribute__((vector_size(Bytes)));
};

template <int Bytes>
inline float sum_of(typename Lanes<Bytes>::type v) {
  if constexpr (Bytes == 8) {
    return v[0] + v[1];
  } else {
    typename Lanes<Bytes / 2>::type half[2];
    __builtin_memcpy(half, &v, Bytes);
    return sum_of<Bytes / 2>(half[0] + half[1]);
  }
}

// The two largest of 2n candidates, counted with multiplicity.
template <int Bytes>
inline void two_largest_of(
    typename Lanes<Bytes>::type high, typename Lanes<Bytes>::type low, float* largest, float* second) {
  if constexpr (Bytes == 4) {
    *largest = high[0];
    *second = low[0];
  } else {
    typename Lanes<Bytes / 2>::type h[2], l[2];
    __builtin_memcpy(h, &high, Bytes);
    __builtin_memcpy(l, &low, Bytes);
    const auto best_low = l[0] > l[1] ? l[0] : l[1];
    const auto loser = h[0] > h[1] ? h[1] : h[0];
    two_largest_of<Bytes / 2>(h[0] > h[1] ? h[0] : h[1], loser > best_low ? loser : best_low, largest, second);
  }
}

// The last, incomplete vector of a row; what is missing cannot be a maximum and weighs nothing beside one.
inline VecF32 load_rest(const float* row, int64_t begin, int64_t end) {
  const int64_t n = end - begin;
  if (end >= kFloats) {
    // The vector that ends with the row, without what was read before: a copy of n bytes would wait for its own
    // store.
    return lanes() >= static_cast<int32_t>(kFloats - n) ? load(row + end - kFloats) : spread(kLowest);
  }
  VecF32 v = spread(kLowest);
  __builtin_memcpy(&v, row + begin, static_cast<size_t>(n) * sizeof(float));
  return v;
}

// NaN is left out: it never compares larger.
void two_largest(const float* x, int64_t n, float* largest, float* second) {
  VecF32 high[2] = {spread(kLowest), spread(kLowest)};
  VecF32 low[2] = {spread(kLowest), spread(kLowest)};
  const auto offer = [&](int u, VecF32 v) {
    const VecI32 is_larger = v > high[u];
    const VecF32 loser = is_larger ? high[u] : v;
    low[u] = larger(loser, low[u]);
    high[u] = is_larger ? v : high[u];
  };
  int64_t i = 0;
  for (; i + 2 * kFloats <= n; i += 2 * kFloats) {
    offer(0, load(x + i));
    offer(1, load(x + i + kFloats));
  }
  if (i + kFloats <= n) {
    offer(0, load(x + i));
    i += kFloats;
  }
  if (i < n) offer(1, load_rest(x, i, n));
  const VecI32 is_first = high[0] > high[1];
  const VecF32 loser = is_first ? high[1] : high[0];
  two_largest_of<ESPER_VECTOR_BYTES>(
      is_first ? high[0] : high[1], larger(loser, larger(low[0], low[1])), largest, second);
}

constexpr int64_t kExpTile = 1024;  // float32 partial sums stay short

RowSummary summarise(const float* x, int64_t n) {
  RowSummary row{};
  two_largest(x, n, &row.largest, &row.second);
  const VecF32 largest = spread(row.largest);
  for (int64_t start = 0; start < n; start += kExpTile) {
    const int64_t end = start + kExpTile < n ? start + kExpTile : n;
    VecF32 sum = {}, weighted = {};
    const auto add = [&](VecF32 v) {
      const VecF32 shifted = v - largest;
      const VecF32 bounded = shifted < kTiniest ? spread(kTiniest) : shifted;
      const VecF32 e = exp_nonpositive(bounded);
      sum += e;
      weighted = fused(bounded, e, weighted);
    };
    int64_t i = start;
    for (; i + kFloats <= end; i += kFloats) add(load(x + i));
    if (i < end) add(load_rest(x, i, end));
    row.exp_sum += static_cast<double>(sum_of<ESPER_VECTOR_BYTES>(sum));
    row.weighted_sum += static_cast<double>(sum_of<ESPER_VECTOR_BYTES>(weighted));
  }
  return row;
}

}  // namespace

const Tiles ESPER_TILES = {
    ESPER_LABEL, is_supported,    load_as<double>, load_as<float>, store_as<double>, store_as<float>, gram<double>,
    gram<float>, combine<double>, combine<float>,  blend<float>,   blend<double>,    summarise,
};

}  // namespace esper
