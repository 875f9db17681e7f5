#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "server/base/fd.h"

namespace keyload {

// A file with given content that is gone with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::span<const std::byte> content);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }
  std::shared_ptr<const UniqueFd> OpenToRead() const;
  void Truncate(size_t size);

 private:
  std::string path_;
};

// `size` bytes that tell offsets apart.
std::vector<std::byte> PatternBytes(size_t size);

}  // namespace keyload
