#include "plan.h"

#include <algorithm>

namespace esper {

Plan::Plan(int64_t rows, int64_t item_bytes, int64_t alignment)
    : rows_(rows), item_bytes_(item_bytes), alignment_(alignment), present_(std::max<int64_t>(rows, 0)) {
  if (rows < 1 || item_bytes < 1 || alignment < 1)
    throw std::invalid_argument("a plan needs at least one row, and positive item and alignment sizes");
}

const Plan::Slot& Plan::at(int64_t slot) const {
  if (slot < 0 || slot >= slots())
    throw std::out_of_range("slot " + std::to_string(slot) + " of a plan with " + std::to_string(slots()) + " slots");
  return slots_[slot];
}

void Plan::check_row(int64_t row) const {
  if (row < 0 || row >= rows_)
    throw std::out_of_range("row " + std::to_string(row) + " of a pool with " + std::to_string(rows_) + " rows");
}

int64_t Plan::padded(int64_t numel) const { return (numel + alignment_ - 1) / alignment_ * alignment_; }

int64_t Plan::take_gap(int64_t size) {
  const auto gap = gaps_.lower_bound(size);
  if (gap == gaps_.end()) return -1;
  const auto [room, offset] = *gap;
  gaps_.erase(gap);
  if (room > size) gaps_.emplace(room - size, offset + size);
  return offset;
}

int64_t Plan::add(int64_t numel) {
  if (numel < 0) throw std::invalid_argument("a slot of " + std::to_string(numel) + " elements");
  const int64_t size = padded(numel);
  int64_t offset = size > 0 ? take_gap(size) : 0;
  if (offset < 0) {
    offset = extent_;
    extent_ += size;
  }
  slots_.push_back({offset, numel, true});
  for (auto& row : present_) row.push_back(false);
  return slots() - 1;
}

void Plan::remove(int64_t slot) {
  if (!at(slot).is_live) throw std::invalid_argument("slot " + std::to_string(slot) + " was removed before");
  slots_[slot].is_live = false;
  for (auto& row : present_) row[slot] = false;
  int64_t offset = slots_[slot].offset;
  int64_t size = padded(slots_[slot].numel);
  if (size == 0) return;
  // Neighbouring gaps become one, and one at the end is given back.
  for (auto gap = gaps_.begin(); gap != gaps_.end();) {
    const auto [room, start] = *gap;
    if (start + room != offset && offset + size != start) {
      ++gap;
      continue;
    }
    offset = std::min(offset, start);
    size += room;
    gap = gaps_.erase(gap);
  }
  if (offset + size == extent_) {
    extent_ = offset;
  } else {
    gaps_.emplace(size, offset);
  }
}

std::vector<int64_t> Plan::unbound(int64_t row, uint64_t row_address, const std::vector<uint64_t>& addresses) {
  check_row(row);
  const std::vector<int64_t> slots = live();
  if (addresses.size() != slots.size())
    throw std::invalid_argument(
        std::to_string(addresses.size()) + " addresses for " + std::to_string(slots.size()) + " gradients");
  std::vector<int64_t> elsewhere;
  for (size_t i = 0; i < slots.size(); ++i) {
    const Slot& slot = slots_[slots[i]];
    present_[row][slots[i]] = addresses[i] != 0;
    const uint64_t expected = row_address + static_cast<uint64_t>(slot.offset * item_bytes_);
    if (slot.numel > 0 && addresses[i] != expected) elsewhere.push_back(static_cast<int64_t>(i));
  }
  return elsewhere;
}

bool Plan::is_present(int64_t row, int64_t slot) const {
  check_row(row);
  at(slot);
  return present_[row][slot];
}

std::vector<bool> Plan::presence(int64_t row) const {
  check_row(row);
  std::vector<bool> bits;
  for (int64_t slot : live()) bits.push_back(present_[row][slot]);
  return bits;
}

std::vector<int64_t> Plan::live() const {
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < slots(); ++i)
    if (slots_[i].is_live) indices.push_back(i);
  return indices;
}

}  // namespace esper
