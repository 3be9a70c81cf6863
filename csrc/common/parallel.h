// How the algorithms share work among threads without knowing whose threads they are.

#pragma once

#include <cstdint>

namespace esper {

// A borrowed callable body(begin, end); the referent outlives the call.
class RangeBody {
 public:
  template <class F>
  explicit RangeBody(const F& f)
      : context_(&f), call_([](const void* c, int64_t b, int64_t e) { (*static_cast<const F*>(c))(b, e); }) {}
  void operator()(int64_t begin, int64_t end) const { call_(context_, begin, end); }

 private:
  const void* context_;
  void (*call_)(const void*, int64_t, int64_t);
};

// Runs body over [0, count) in ranges of at least `grain`; returns when all are done.
using ParallelFor = void (*)(int64_t count, int64_t grain, const RangeBody& body);

inline void serial_for(int64_t count, int64_t, const RangeBody& body) {
  if (count > 0) body(0, count);
}

// Bytes that one thread should have before a second one is woken.
inline constexpr int64_t kGrainBytes = 128 * 1024;

}  // namespace esper
