#include "tests/unit/plan/plan_case.h"

#include <algorithm>
#include <utility>

namespace keyload {

std::shared_ptr<const KeyReport> MakeKeyReport(const std::vector<CaseTensor>& tensors) {
  constexpr uint64_t kDataOffset = 1024;
  CheckpointIndex::Content content;
  CheckpointHeaders::Content headers;
  std::vector<uint64_t> ends;
  for (const CaseTensor& tensor : tensors) {
    if (tensor.shard >= ends.size()) ends.resize(tensor.shard + 1, kDataOffset);
    headers.name_blocks.push_back(std::make_unique<std::string>(tensor.name));
    const uint64_t bytes = tensor.elements * DTypeBits(tensor.dtype) / 8;
    ends[tensor.shard] += tensor.gap_before;
    headers.tensors.push_back({.name = *headers.name_blocks.back(),
                               .shape = {tensor.elements},
                               .offset = ends[tensor.shard],
                               .bytes = bytes,
                               .shard = tensor.shard,
                               .dtype = tensor.dtype});
    ends[tensor.shard] += bytes;
  }
  for (size_t i = 0; i < ends.size(); ++i) {
    Shard shard;
    shard.file = "shard-" + std::to_string(i);
    shard.identity.size = ends[i];
    shard.data_offset = kDataOffset;
    content.shards.push_back(std::move(shard));
  }
  content.headers = std::make_shared<const CheckpointHeaders>(std::move(headers));
  auto index = std::make_shared<CheckpointIndex>(std::move(content));
  auto report = std::make_shared<KeyReport>();
  for (size_t i = 0; i < index->tensors().size(); ++i) {
    const StoredTensor& stored = index->tensors()[i];
    report->keys.push_back({.name = stored.name,
                            .shape = stored.shape,
                            .bytes = stored.bytes,
                            .stored = static_cast<int64_t>(i),
                            .dtype = stored.dtype});
  }
  report->index = std::move(index);
  return report;
}

Placement PlaceAll(const PlacementInput& input, const std::string& device) {
  return PlaceEach(std::vector<std::string>(input.keys.size(), device));
}

Placement PlaceEach(const std::vector<std::string>& devices) {
  Placement placement;
  for (const std::string& device : devices) {
    auto it = std::find(placement.devices.begin(), placement.devices.end(), device);
    if (it == placement.devices.end()) it = placement.devices.insert(it, device);
    placement.device_of.push_back(static_cast<uint16_t>(it - placement.devices.begin()));
  }
  return placement;
}

}  // namespace keyload
