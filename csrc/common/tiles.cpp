#include "tiles.h"

#include <atomic>
#include <cstring>

namespace esper {
namespace {

const Tiles* const kWidestFirst[] = {
#if defined(__x86_64__)
    &kAvx512Tiles,
    &kAvx2Tiles,
#endif
    &kPortableTiles,
};

const Tiles* find(const char* name) {
  for (const Tiles* candidate : kWidestFirst)
    if (candidate->is_supported() && (std::strcmp(name, "auto") == 0 || std::strcmp(name, candidate->name) == 0))
      return candidate;
  return nullptr;
}

std::atomic<const Tiles*>& current() {
  static std::atomic<const Tiles*> chosen{find("auto")};
  return chosen;
}

}  // namespace

const Tiles& tiles() { return *current().load(std::memory_order_relaxed); }

bool force_tiles(const char* name) {
  const Tiles* chosen = find(name);
  if (chosen != nullptr) current().store(chosen, std::memory_order_relaxed);
  return chosen != nullptr;
}

}  // namespace esper
