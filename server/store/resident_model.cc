#include "server/store/resident_model.h"

#include <algorithm>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

std::string_view WhyWithoutBytes(const ModelKey& key) {
  switch (key.state) {
    case KeyState::kMissing:
    case KeyState::kMissingIgnored:
      return "is missing from the checkpoint";
    case KeyState::kMismatched:
      return "has another shape in the checkpoint and was not loaded";
    case KeyState::kNotSelected:
      return "was not selected by the load";
    case KeyState::kNonPersistent:
      return "is a non-persistent buffer, which no checkpoint holds";
    default:
      return "is not resident";
  }
}

absl::Status CheckFile(const Shard& shard, const std::string& model) {
  return CheckUnchanged(shard, "since the load was planned", {{"model", model}});
}

}  // namespace

absl::Status TensorBytes::Read(uint64_t offset, std::span<std::byte> destination) const {
  if (destination.empty()) return absl::OkStatus();
  if (ranges_.empty()) return segment_.device->Read(*segment_.memory, begin_ + offset, destination);
  for (const FileRange& range : ranges_) {
    if (offset >= range.bytes) {
      offset -= range.bytes;
      continue;
    }
    const std::span<std::byte> part = destination.first(std::min(destination.size(), range.bytes - offset));
    const iovec buffer = {part.data(), part.size()};
    ReadCounts counts;
    const absl::Status read = range.reader->ReadVector(range.offset + offset, {&buffer, 1}, counts);
    // After reading, which covers every change since the load, the one beside this read too. A file that was cut off is
    // a changed one.
    KEYLOAD_RETURN_IF_ERROR(CheckFile(keys_->index->shards()[range.shard], model_));
    KEYLOAD_RETURN_IF_ERROR(read);
    destination = destination.subspan(part.size());
    if (destination.empty()) break;
    offset = 0;
  }
  return absl::OkStatus();
}

ResidentModel::ResidentModel(Content content) : content_(std::move(content)) {}

KeyCounts ResidentModel::LiveKeys() const {
  const Residency::KeyTotals totals = content_.residency->key_totals();
  KeyCounts keys = content_.report.keys;
  keys.loaded = totals.resident;
  keys.lazy = totals.lazy + content_.plan->lazy_keys.size();
  return keys;
}

std::vector<DeviceUse> ResidentModel::LiveDevices() const {
  const Residency::Totals totals = content_.residency->totals();
  std::vector<DeviceUse> devices = content_.report.devices;
  for (DeviceUse& use : devices) {
    for (size_t i = 0; i < content_.plan->devices.size(); ++i) {
      if (content_.plan->devices[i] != use.device) continue;
      use.tensors = totals.devices[i].tensors;
      use.tensor_bytes = totals.devices[i].tensor_bytes;
      use.reserved_bytes = totals.devices[i].memory_bytes;
    }
  }
  return devices;
}

const std::vector<uint32_t>& ResidentModel::OrderOfKeys(std::vector<uint32_t> (*make)(const KeyReport&)) const {
  std::call_once(order_once_, [&] { order_ = make(*content_.keys); });
  return order_;
}

int64_t ResidentModel::FindKey(std::string_view name) const {
  std::call_once(names_once_, [this] {
    const std::vector<ModelKey>& keys = content_.keys->keys;
    by_name_.reserve(keys.size());
    for (uint32_t i = 0; i < keys.size(); ++i) by_name_.emplace(keys[i].name, i);
  });
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? -1 : static_cast<int64_t>(it->second);
}

uint32_t ResidentModel::HolderOf(uint32_t key) const {
  const ModelKey& wanted = content_.keys->keys[key];
  return wanted.state == KeyState::kTied ? static_cast<uint32_t>(wanted.tied_to) : key;
}

absl::Status ResidentModel::CheckHasBytes(uint32_t key) const {
  if (TensorOf(key) != kNoTensor) return absl::OkStatus();
  const ModelKey& wanted = content_.keys->keys[key];
  return MakeError(Reason::kKeyNotResident,
                   StrCat("model ", content_.name, ": ", wanted.name, " ", WhyWithoutBytes(wanted)),
                   {{"model", content_.name}, {"key", std::string(wanted.name)}});
}

std::optional<TensorBytes> ResidentModel::Open(uint32_t key) const {
  const uint32_t tensor = TensorOf(key);
  TensorBytes bytes;
  bytes.model_ = content_.name;
  bytes.keys_ = content_.keys;
  if (tensor == kInFile) {
    for (const KeyPart& part : content_.keys->PartsOf(content_.keys->keys[HolderOf(key)])) {
      const StoredTensor& stored = content_.keys->index->tensors()[part.stored];
      AddRange(stored.shard, stored.offset + part.offset, part.bytes, bytes);
    }
    return bytes;
  }
  std::optional<Segment> segment = content_.residency->Pin(tensor);
  if (!segment) return std::nullopt;
  const PlannedTensor& planned = content_.plan->tensors[tensor];
  if (segment->kind == SegmentKind::kFile) {
    AddRange(segment->shard, planned.segment_offset, planned.bytes, bytes);
  } else {
    bytes.segment_ = *std::move(segment);
    bytes.begin_ = planned.segment_offset;
  }
  return bytes;
}

void ResidentModel::AddRange(uint32_t shard, uint64_t offset, uint64_t length, TensorBytes& bytes) const {
  // Mostly parts of one file come together.
  std::shared_ptr<ShardReader> reader = !bytes.ranges_.empty() && bytes.ranges_.back().shard == shard
                                            ? bytes.ranges_.back().reader
                                            : content_.make_reader(content_.keys->index->shards()[shard]);
  bytes.ranges_.push_back({.shard = shard, .offset = offset, .bytes = length, .reader = std::move(reader)});
}

absl::Status ResidentModel::CheckUnchanged(uint32_t shard) const {
  return CheckFile(content_.keys->index->shards()[shard], content_.name);
}

}  // namespace keyload
