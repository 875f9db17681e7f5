#include "server/service/model_keys.h"

#include <algorithm>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/natural_order.h"

namespace keyload {
namespace {

ListedState StateOf(const ModelKey& key, bool resident) {
  switch (key.state) {
    case KeyState::kFound:
    case KeyState::kTied:
      return resident ? ListedState::kResident : ListedState::kLazy;
    case KeyState::kMissing:
      return ListedState::kMissing;
    case KeyState::kMismatched:
      return ListedState::kMismatched;
    case KeyState::kNotSelected:
      return ListedState::kNotSelected;
    default:
      return ListedState::kIgnored;
  }
}

ListedKey Describe(const ResidentModel& model, const std::vector<Residency::State>& states, uint32_t index) {
  const ResidentModel::Content& content = model.content();
  const KeyReport& report = *content.keys;
  const ModelKey& key = report.keys[index];
  const uint32_t holder = model.HolderOf(index);
  const ModelKey& holding = report.keys[holder];
  ListedKey listed = {.key = key.name,
                      .state = ListedState::kLazy,
                      .dtype = key.dtype,
                      .shape = key.shape,
                      .bytes = key.bytes,
                      .tied_to = holder == index ? std::string_view() : holding.name,
                      .index = index};
  bool resident = false;
  if (holding.stored >= 0) {
    // Of a key of several parts the first; of one that cannot be made what does not fit.
    const absl::InlinedVector<KeyPart, 1> parts = report.PartsOf(holding);
    const StoredTensor& stored = report.index->tensors()[holding.stored];
    listed.shard = report.index->shards()[stored.shard].file;
    listed.file_offset = stored.offset + (parts.empty() ? 0 : parts.front().offset);
    const uint32_t tensor = content.tensor_of_key[holder];
    if (tensor == ResidentModel::kInFile) {
      listed.dtype = report.StoredDType(holding);
      listed.bytes = report.StoredBytes(holding);
    } else if (tensor != ResidentModel::kNoTensor) {
      listed.dtype = content.plan->tensors[tensor].dtype;
      listed.bytes = content.plan->tensors[tensor].bytes;
      resident = states[tensor] == Residency::State::kResident;
    }
  }
  listed.state = StateOf(key, resident);
  if (const uint16_t device = content.device_of_key[holder]; device != ResidentModel::kNoDevice) {
    listed.device = content.devices[device];
  }
  return listed;
}

ListedKey DescribeUnexpected(const KeyReport& report, const UnexpectedKey& key) {
  const StoredTensor& stored = report.index->tensors()[key.stored];
  return {.key = key.name,
          .state = key.ignored ? ListedState::kIgnored : ListedState::kUnexpected,
          .dtype = stored.dtype,
          .shape = stored.shape,
          .device = {},
          .shard = report.index->shards()[stored.shard].file,
          .file_offset = stored.offset,
          .bytes = stored.bytes,
          .tied_to = {},
          .index = -1};
}

}  // namespace

absl::Status CheckWork(const KeyReport& keys, const KeySelection& selection) {
  if (selection.selects_all()) return absl::OkStatus();
  uint64_t bytes = 0;
  for (const ModelKey& key : keys.keys) bytes += key.name.size();
  for (const UnexpectedKey& key : keys.unexpected) bytes += key.name.size();
  return selection.CheckWork(bytes);
}

absl::StatusOr<std::vector<ListedKey>> ListKeys(const ResidentModel& model, const KeySelection& selection,
                                                const RequestContext* context) {
  const KeyReport& report = *model.content().keys;
  KEYLOAD_RETURN_IF_ERROR(CheckWork(report, selection));
  PeriodicCheck check(context);
  const std::vector<Residency::State> states = model.residency().states();
  std::vector<ListedKey> listed;
  for (uint32_t i = 0; i < report.keys.size(); ++i) {
    const ModelKey& key = report.keys[i];
    KEYLOAD_RETURN_IF_ERROR(check.Check(selection.CostOf(key.name)));
    if (key.state != KeyState::kNonPersistent && selection.Selects(key.name))
      listed.push_back(Describe(model, states, i));
  }
  for (const UnexpectedKey& key : report.unexpected) {
    KEYLOAD_RETURN_IF_ERROR(check.Check(selection.CostOf(key.name)));
    if (selection.Selects(key.name)) listed.push_back(DescribeUnexpected(report, key));
  }
  std::sort(listed.begin(), listed.end(),
            [](const ListedKey& a, const ListedKey& b) { return NaturalLess(a.key, b.key); });
  return listed;
}

absl::StatusOr<std::vector<ListedKey>> KeysToRead(const ResidentModel& model, const KeySelection& selection,
                                                  const RequestContext* context) {
  for (const std::string& name : selection.names()) {
    const int64_t index = model.FindKey(name);
    if (index < 0) {
      return MakeError(Reason::kKeyNotFound, StrCat("model ", model.content().name, " has no key ", name),
                       {{"model", model.content().name}, {"key", name}});
    }
    KEYLOAD_RETURN_IF_ERROR(model.CheckHasBytes(static_cast<uint32_t>(index)));
  }
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<ListedKey> keys, ListKeys(model, selection, context));
  std::erase_if(keys, [](const ListedKey& key) {
    return key.index < 0 || (key.state != ListedState::kResident && key.state != ListedState::kLazy);
  });
  return keys;
}

}  // namespace keyload
