#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/checkpoint/checkpoint_index.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {

using Opened = absl::StatusOr<std::shared_ptr<const CheckpointIndex>>;

inline TestTensor Tensor(const std::string& name, uint64_t size = 4, const std::string& data = "") {
  return {.name = name, .dtype = DType::kU8, .shape = {size}, .data = data};
}

// A directory that is opened as a checkpoint, again and again.
class OpeningTest : public ::testing::Test {
 protected:
  Opened Open(const HeaderReading& reading = {}, bool may_lack_shards = false) const {
    return OpenCheckpoint(roots_, {.path = path_, .weights = "", .may_lack_shards = may_lack_shards}, {}, reading);
  }
  std::string Refusal() const {
    const Opened opened = Open();
    return opened.ok() ? "opened" : std::string(opened.status().message());
  }

  TempDir dir_;
  const ModelRoots roots_ = ModelRoots::Create({dir_.path()}).value();
  std::string path_ = dir_.path();
};

}  // namespace keyload
