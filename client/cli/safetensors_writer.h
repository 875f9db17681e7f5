#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "keyload/v1/model_loader.pb.h"
#include "server/base/fd.h"

namespace keyload::cli {

// Writes tensors that arrive in pieces into one safetensors file. The header comes first in the file and is known last,
// so the data goes to a nameless file of the same folder and is appended to the header at the end (shared, not copied,
// where the file system can). Until Finish has succeeded, PATH is what it was before. Not thread-safe; all calls block
// on the disk.
class SafetensorsWriter {
 public:
  // UsageError if no file can be made beside `path`.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(const std::string& path);

  // The next piece: a message with a tensor starts it, one without continues it. DATA_LOSS if pieces are out of order,
  // a tensor has another size than it said, or a name comes twice.
  absl::Status Add(const v1::ReadTensorsResponse& piece);

  // Checks the last tensor, writes the file, syncs it and gives it its name.
  absl::Status Finish();

  size_t tensors() const { return tensors_.size(); }
  uint64_t data_bytes() const { return data_bytes_; }

 private:
  struct Tensor {
    std::string name;
    std::string dtype;
    std::vector<uint64_t> shape;
    uint64_t begin = 0;  // within the data
    uint64_t bytes = 0;
  };

  SafetensorsWriter(std::string path, UniqueFd data) : path_(std::move(path)), data_(std::move(data)) {}
  absl::Status CheckLastIsWhole() const;
  std::string Header() const;

  const std::string path_;
  const UniqueFd data_;
  std::vector<Tensor> tensors_;
  std::unordered_set<std::string> names_;
  uint64_t data_bytes_ = 0;
};

}  // namespace keyload::cli
