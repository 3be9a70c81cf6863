// Where each gradient lies in a pool of K rows. No torch here: memory is known by addresses and sizes alone.

#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace esper {

// Slots keep their offset for life. A removed slot's room is given to a later one that fits; what nobody owns is a gap.
class Plan {
 public:
  Plan(int64_t rows, int64_t item_bytes, int64_t alignment);

  // Adds a slot of `numel` elements and returns its index.
  int64_t add(int64_t numel);
  void remove(int64_t slot);

  int64_t rows() const { return rows_; }
  int64_t slots() const { return static_cast<int64_t>(slots_.size()); }
  // Elements from the first to the last slot in use, gaps included.
  int64_t extent() const { return extent_; }
  int64_t offset(int64_t slot) const { return at(slot).offset; }
  int64_t numel(int64_t slot) const { return at(slot).numel; }
  bool is_live(int64_t slot) const { return at(slot).is_live; }

  // Compares addresses (0: no gradient) of the live slots, in order, with where the row's slots are, records which are
  // present, and returns the positions in `addresses` that hold a gradient elsewhere or none at all.
  std::vector<int64_t> unbound(int64_t row, uint64_t row_address, const std::vector<uint64_t>& addresses);

  bool is_present(int64_t row, int64_t slot) const;
  std::vector<bool> presence(int64_t row) const;  // of the live slots, in order
  std::vector<int64_t> live() const;

 private:
  struct Slot {
    int64_t offset;
    int64_t numel;
    bool is_live;
  };

  const Slot& at(int64_t slot) const;
  void check_row(int64_t row) const;
  int64_t padded(int64_t numel) const;
  int64_t take_gap(int64_t size);

  int64_t rows_;
  int64_t item_bytes_;
  int64_t alignment_;  // in elements
  int64_t extent_ = 0;
  std::vector<Slot> slots_;
  std::multimap<int64_t, int64_t> gaps_;    // size -> offset
  std::vector<std::vector<bool>> present_;  // [row][slot]
};

}  // namespace esper
