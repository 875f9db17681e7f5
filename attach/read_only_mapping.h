#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"

namespace keyload {

// Owns a map of the beginning of a file that nothing can be written through. It stays when the descriptor is closed,
// and in a forked process. Core dumps leave it out. Movable; not thread-safe.
class ReadOnlyMapping {
 public:
  ReadOnlyMapping() = default;
  ReadOnlyMapping(ReadOnlyMapping&& other) noexcept;
  ReadOnlyMapping& operator=(ReadOnlyMapping&& other) noexcept;
  ~ReadOnlyMapping();

  // `bytes` of `file`; the map's length is rounded up to `page`, a power of two. RESOURCE_EXHAUSTED.
  static absl::StatusOr<ReadOnlyMapping> Map(int file, uint64_t bytes, uint64_t page);

  std::span<const std::byte> bytes() const { return {address_, bytes_}; }

 private:
  const std::byte* address_ = nullptr;
  uint64_t bytes_ = 0;
  uint64_t mapped_ = 0;
};

}  // namespace keyload
