#include "server/store/resident_model.h"

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

std::string_view WhyNotResident(const ModelKey& key) {
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

}  // namespace

ResidentModel::ResidentModel(Content content) : content_(std::move(content)) {
  by_name_.reserve(content_.keys->keys.size());
  for (uint32_t i = 0; i < content_.keys->keys.size(); ++i) by_name_.emplace(content_.keys->keys[i].name, i);
}

uint64_t ResidentModel::resident_bytes() const {
  uint64_t bytes = 0;
  for (const Segment& segment : content_.segments) bytes += segment.memory != nullptr ? segment.memory->bytes() : 0;
  return bytes;
}

int64_t ResidentModel::FindKey(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? -1 : static_cast<int64_t>(it->second);
}

absl::StatusOr<uint32_t> ResidentModel::Holder(uint32_t key) const {
  const ModelKey& wanted = content_.keys->keys[key];
  const uint32_t holder = wanted.state == KeyState::kTied ? static_cast<uint32_t>(wanted.tied_to) : key;
  if (content_.places[holder].state == TensorPlace::State::kNone) {
    return MakeError(Reason::kKeyNotResident,
                     StrCat("model ", content_.name, ": ", wanted.name, " ", WhyNotResident(wanted)),
                     {{"model", content_.name}, {"key", std::string(wanted.name)}});
  }
  return holder;
}

absl::Status ResidentModel::Read(uint32_t key, uint64_t offset, std::span<std::byte> destination) const {
  const TensorPlace& place = content_.places[key];
  if (destination.empty()) return absl::OkStatus();
  const bool resident = place.state == TensorPlace::State::kResident;
  if (resident && content_.segments[place.segment].kind == SegmentKind::kMemory) {
    const Segment& segment = content_.segments[place.segment];
    return segment.device->Read(*segment.memory, place.offset + offset, destination);
  }
  // A tied key may share the place of a key in another shard.
  const uint32_t shard_index = resident ? content_.segments[place.segment].shard
                                        : content_.keys->index->tensors()[content_.keys->keys[key].stored].shard;
  const Shard& shard = content_.keys->index->shards()[shard_index];
  KEYLOAD_ASSIGN_OR_RETURN(const FileIdentity now, IdentifyFile(shard.fd->get(), shard.file));
  if (now != shard.identity) {
    return MakeError(Reason::kCheckpointChanged, StrCat(shard.file, ": the file changed since it was loaded"),
                     {{"file", shard.file}, {"model", content_.name}});
  }
  const iovec buffer = {destination.data(), destination.size()};
  ReadCounts counts;
  return content_.readers[shard_index]->ReadVector(place.offset + offset, {&buffer, 1}, counts);
}

}  // namespace keyload
