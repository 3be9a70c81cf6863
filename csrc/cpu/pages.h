// Memory that an operator is about to write for the first time.

#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace esper::cpu {

// Asks the system for large pages. A fresh result of many megabytes is written at the speed of page faults otherwise,
// each of 4 KiB; memory that is there already stays as it is. Only a hint: where it is refused nothing changes.
inline void prefer_large_pages([[maybe_unused]] void* begin, [[maybe_unused]] int64_t size_bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPageBytes = 2 * 1024 * 1024;
  const uintptr_t address = reinterpret_cast<uintptr_t>(begin);
  const uintptr_t first = (address + kPageBytes - 1) / kPageBytes * kPageBytes;
  const uintptr_t end = (address + static_cast<uintptr_t>(size_bytes)) / kPageBytes * kPageBytes;
  if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

}  // namespace esper::cpu
