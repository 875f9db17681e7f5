#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "attach/attach_format.h"

namespace keyload {

// One key of a table. All views are into the table.
struct AttachRow {
  std::string_view key;
  std::string_view dtype;               // a safetensors name, "BF16"; empty where nobody knows it
  std::span<const uint64_t> shape;      // outermost first
  std::span<const int64_t> strides;     // in elements, as the shape; empty in a table without strides: dense
  std::span<const uint8_t> checksum;    // XXH3, 128 bits, the canonical bytes; empty in a table without checksums
  uint32_t segment = kNoAttachSegment;  // kNoAttachSegment: no bytes
  uint64_t offset = 0;                  // in the segment
  uint64_t bytes = 0;
  uint32_t dtype_bits = 0;  // of one element; 0 with an empty dtype
  uint8_t state = 0;        // keyload.v1.KeyState
  uint32_t order = 0;       // its place in the order in which the model has its keys
};

struct AttachSegmentRow {
  AttachSegmentKind kind = AttachSegmentKind::kMemfd;
  uint64_t bytes = 0;
  uint64_t page = 0;  // a map's length is a multiple of it
  uint32_t incarnation = 0;
  std::string_view device;
};

// The table of a lease: its keys, sorted by the bytes of their names, and where their bytes are. The bytes come from
// another process; Parse checks all of them once, and from then on everything here may be believed, as long as nobody
// can change them (a sealed memfd). A value that borrows the bytes; thread-safe.
class AttachTable {
 public:
  // REQUIRES: `bytes` begin at a multiple of 8. INVALID_ARGUMENT says what is wrong with them, and of which row. Takes
  // time in proportion to the bytes, and little heap.
  static absl::StatusOr<AttachTable> Parse(std::span<const std::byte> bytes);

  uint64_t generation() const { return generation_; }
  uint32_t rows() const { return static_cast<uint32_t>(name_end_.size()); }
  uint32_t segments() const { return static_cast<uint32_t>(segment_kind_.size()); }
  // REQUIRES: below rows(), below segments().
  AttachRow row(uint32_t index) const;
  AttachSegmentRow segment(uint32_t index) const;
  // The row of a key, by bisection.
  std::optional<uint32_t> Find(std::string_view key) const;

 private:
  friend class AttachTableChecks;

  std::string_view key(uint32_t index) const;

  uint64_t generation_ = 0;
  std::span<const uint32_t> name_end_;
  std::string_view names_;
  std::span<const uint16_t> dtype_;
  std::vector<std::string_view> dtype_names_;
  std::span<const uint16_t> dtype_bits_;
  std::span<const uint16_t> dtype_alignment_;
  std::span<const uint32_t> dims_end_;
  std::span<const uint64_t> dims_;
  std::span<const int64_t> strides_;  // empty: none
  std::span<const uint8_t> checksum_;
  std::span<const uint32_t> segment_;
  std::span<const uint64_t> offset_;
  std::span<const uint64_t> bytes_;
  std::span<const uint8_t> state_;
  std::span<const uint32_t> order_;
  std::span<const uint8_t> segment_kind_;
  std::span<const uint64_t> segment_bytes_;
  std::span<const uint64_t> segment_page_;
  std::span<const uint32_t> segment_incarnation_;
  std::span<const uint16_t> segment_device_;
  std::vector<std::string_view> device_names_;
};

}  // namespace keyload
