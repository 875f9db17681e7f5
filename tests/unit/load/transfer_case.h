#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/load/transfer.h"
#include "tests/support/checkpoint_builder.h"
#include "tests/support/fake_device.h"
#include "tests/support/faulty_reader.h"
#include "tests/support/made_keys.h"

namespace keyload {

// A checkpoint on disk whose own keys are loaded to one device: "cuda:0" (a fake GPU) or "cpu" (real host memory).
class TransferCase {
 public:
  struct Options {
    FakeDevice::Options gpu;
    std::optional<FaultyReader::Faults> faults;
    uint64_t scratch_bytes = 64ull << 20;
    bool fake_host = false;  // "cpu" is a fake device too, with poisoned memory
    bool copy = false;       // tensors on "cpu" are copied
  };
  explicit TransferCase(const std::vector<TestTensor>& tensors) : TransferCase(tensors, Options()) {}
  TransferCase(const std::vector<TestTensor>& tensors, Options options);

  // Plans `device` for all tensors, reserves and transfers. `report` has the plan's shards and devices before.
  absl::StatusOr<TransferResult> Run(const std::string& device, const RequestContext& context = {},
                                     std::function<void(const LoadProgress&)> progress = {});
  // The bytes of a tensor where the transfer put them.
  std::string Bytes(const TransferResult& result, const std::string& key) const;

  // All bytes of a segment, padding included.
  std::string SegmentBytes(const TransferResult& result, size_t segment) const;

  FakeDevice& gpu() { return *gpu_; }
  Executor& io() { return io_; }  // two threads
  MemoryState memory(const std::string& device) const { return devices_->Find(device)->account().state(); }
  const std::string& shard_path() const { return shard_path_; }
  const LoadPlan& plan() const { return *plan_; }
  // The reader of the only shard, once it is open and has faults.
  FaultyReader& reader() { return *reader_; }

  LoadReport report;
  std::vector<std::vector<std::string>> tied;  // groups, set before Run; not with made keys
  std::vector<CaseMade> made;                  // keys that are made of the tensors, set before Run

 private:
  TempDir dir_;
  std::string shard_path_;
  Options options_;
  FakeDevice* gpu_ = nullptr;
  FaultyReader* reader_ = nullptr;
  std::unique_ptr<DeviceSet> devices_;
  Executor io_{{.name = "io", .threads = 2, .queue_limit = 16}};
  ByteBudget scratch_;
  std::shared_ptr<const KeyReport> keys_;
  std::shared_ptr<const LoadPlan> plan_;
};

}  // namespace keyload
