#include "flatten.h"

#include <algorithm>
#include <cstring>

#include "limits.h"
#include "tiles.h"

namespace esper {
namespace {

constexpr int64_t kTile = 1024;

void convert(const Tiles& t, DType from_dtype, const void* from, int64_t n, DType to_dtype, void* to) {
  if (from_dtype == to_dtype) {
    std::memcpy(to, from, n * size_bytes(from_dtype));
  } else if (to_dtype == DType::kFloat64) {
    t.load_f64(from_dtype, from, n, static_cast<double*>(to));
  } else if (from_dtype == DType::kFloat64) {
    t.store_f64(to_dtype, static_cast<const double*>(from), n, to);
  } else {
    float wide[kTile];
    for (int64_t i = 0; i < n; i += kTile) {
      const int64_t m = std::min(kTile, n - i);
      t.load_f32(from_dtype, static_cast<const char*>(from) + i * size_bytes(from_dtype), m, wide);
      t.store_f32(to_dtype, wide, m, static_cast<char*>(to) + i * size_bytes(to_dtype));
    }
  }
}

// Elements [begin, begin + n) of a strided source, in logical order, packed into `to` (n <= kTile).
template <class T>
void gather(const Source& s, int64_t begin, int64_t n, T* to) {
  const int64_t inner = s.sizes.back();
  const int64_t step = s.strides.back();
  const int64_t dims = static_cast<int64_t>(s.sizes.size());
  for (int64_t done = 0; done < n;) {
    int64_t rest = (begin + done) / inner;
    const int64_t column = (begin + done) % inner;
    int64_t offset = column * step;
    for (int64_t d = dims - 2; d >= 0; --d) {
      offset += rest % s.sizes[d] * s.strides[d];
      rest /= s.sizes[d];
    }
    const T* from = static_cast<const T*>(s.data) + offset;
    const int64_t count = std::min(n - done, inner - column);
    for (int64_t i = 0; i < count; ++i) to[done + i] = from[i * step];
    done += count;
  }
}

void copy_strided(const Tiles& t, const Source& s, int64_t begin, int64_t n, DType out_dtype, char* to) {
  alignas(8) char packed[kTile * sizeof(double)];
  for (int64_t done = 0; done < n; done += kTile) {
    const int64_t m = std::min(kTile, n - done);
    dispatch(s.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      gather(s, begin + done, m, reinterpret_cast<T*>(packed));
    });
    convert(t, s.dtype, packed, m, out_dtype, to + done * size_bytes(out_dtype));
  }
}

void copy_piece(const Tiles& t, const Source& s, int64_t begin, int64_t n, DType out_dtype, char* to) {
  if (s.data == nullptr) {
    std::memset(to, 0, n * size_bytes(out_dtype));
  } else if (s.sizes.empty()) {
    convert(t, s.dtype, static_cast<const char*>(s.data) + begin * size_bytes(s.dtype), n, out_dtype, to);
  } else {
    copy_strided(t, s, begin, n, out_dtype, to);
  }
}

}  // namespace

void flatten(const std::vector<Source>& sources, DType out_dtype, void* out, ParallelFor parallel_for) {
  std::vector<int64_t> offsets(sources.size() + 1, 0);
  for (size_t i = 0; i < sources.size(); ++i) offsets[i + 1] = offsets[i] + sources[i].numel;
  const int64_t item = size_bytes(out_dtype);
  const int64_t block = 4096;  // elements; a range of blocks is one thread's share
  const auto body = [&](int64_t first, int64_t last) {
    const Tiles& t = tiles();
    const int64_t end = std::min(last * block, offsets.back());
    int64_t at = first * block;
    size_t i = std::upper_bound(offsets.begin(), offsets.end(), at) - offsets.begin() - 1;
    for (; at < end; ++i) {
      const int64_t n = std::min(end, offsets[i + 1]) - at;
      if (n > 0) copy_piece(t, sources[i], at - offsets[i], n, out_dtype, static_cast<char*>(out) + at * item);
      at += n;
    }
  };
  parallel_for(ceil_div(offsets.back(), block), ceil_div(kGrainBytes, block * item), RangeBody(body));
}

}  // namespace esper
