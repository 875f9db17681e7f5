#pragma once

#include <cstdint>

#include "server/io/page_cache.h"
#include "tests/support/temporary_file.h"

namespace keyload {

// A file of whole pages that are written to their device, so that the page cache can drop them.
class DiskFile {
 public:
  explicit DiskFile(uint64_t bytes);
  int fd() const { return fd_->get(); }
  const std::string& path() const { return file_.path(); }
  ByteRange all() const { return {0, bytes_}; }
  uint64_t resident(ByteRange range) const;
  void Truncate(uint64_t bytes) { file_.Truncate(bytes); }
  // False where the file system has no device below the page cache (tmpfs) and nothing can be dropped.
  bool DropAll() const;

 private:
  const uint64_t bytes_;
  TemporaryFile file_;
  const std::shared_ptr<const UniqueFd> fd_;
};

}  // namespace keyload
