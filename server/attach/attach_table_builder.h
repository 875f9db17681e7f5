#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "attach/attach_format.h"
#include "attach/attach_table.h"
#include "server/attach/sealed_memory.h"
#include "server/base/request_context.h"

namespace keyload {

// The element type of a key as a table tells it; the name may be empty, with 0 bits, where nobody knows it.
struct AttachDType {
  std::string_view name;
  uint16_t bits = 0;
  uint16_t alignment = 1;
};

// A key on its way into a table. Views borrow.
struct AttachTableRow {
  std::string_view key;
  AttachDType dtype;
  std::span<const uint64_t> shape;
  std::span<const int64_t> strides;  // in elements; in all rows of a table with dimensions or in none
  std::optional<std::array<uint8_t, kAttachChecksumBytes>> checksum;  // rows without it have 0s where others have one
  uint32_t segment = kNoAttachSegment;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint8_t state = 0;
};

// The table of docs/attach.md in memory that nobody can change, to be made once per generation and set of keys. `rows`
// are in the order in which the model has its keys. INTERNAL where a reader would refuse the table, such as for a key
// that is there twice; MEMORY_EXHAUSTED; what `context` says. Thread-safe.
absl::StatusOr<SealedMemory> BuildAttachTable(uint64_t generation, std::span<const AttachTableRow> rows,
                                              std::span<const AttachSegmentRow> segments,
                                              const RequestContext& context);

}  // namespace keyload
