#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace keyload {

// Tells when files were replaced or rewritten, symlinks followed, by what stat says of them. Confine to one thread.
class FileWatch {
 public:
  // `paths`: at least one. What is there now counts as known.
  explicit FileWatch(std::vector<std::string> paths);
  // True once for each change, at the first call that finds the files as the call before it did: a certificate and its
  // key are rarely replaced in one step. Blocks on the file system.
  bool Changed();
  const std::string& first_path() const { return paths_[0]; }

 private:
  struct Print {
    uint64_t device = 0, inode = 0, size = 0;
    int64_t mtime_ns = 0, ctime_ns = 0;
    bool operator==(const Print&) const = default;
  };
  std::vector<Print> Look() const;

  std::vector<std::string> paths_;
  std::vector<Print> known_;
  std::vector<Print> seen_;  // by the last call
};

}  // namespace keyload
