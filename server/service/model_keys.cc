#include "server/service/model_keys.h"

#include <utility>

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

ListedKey DescribeExpected(const ResidentModel& model, const std::vector<Residency::State>* states, uint32_t index) {
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
      resident = states != nullptr && (*states)[tensor] == Residency::State::kResident;
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

// Of the keys and, numbered behind them, the unexpected ones.
std::vector<uint32_t> OrderKeys(const KeyReport& report) {
  std::vector<std::string_view> names;
  names.reserve(report.keys.size() + report.unexpected.size());
  for (const ModelKey& key : report.keys) names.push_back(key.name);
  for (const UnexpectedKey& key : report.unexpected) names.push_back(key.name);
  return NaturalOrder(names);
}

std::string_view NameOfKey(const KeyReport& report, uint32_t number) {
  return number < report.keys.size() ? report.keys[number].name : report.unexpected[number - report.keys.size()].name;
}

}  // namespace

KeyCursor::KeyCursor(ModelHandle model, KeySelection selection, Of of)
    : model_(std::move(model)), selection_(std::move(selection)), of_(of) {}

bool KeyCursor::Selects(uint32_t number) const {
  const KeyReport& report = *model_->content().keys;
  if (number >= report.keys.size()) {
    return of_ == Of::kAll && selection_.Selects(report.unexpected[number - report.keys.size()].name);
  }
  const ModelKey& key = report.keys[number];
  if (key.state == KeyState::kNonPersistent) return false;
  const bool has_bytes = key.state == KeyState::kFound || key.state == KeyState::kTied;
  return (has_bytes || of_ == Of::kAll) && selection_.Selects(key.name);
}

absl::StatusOr<std::vector<uint32_t>> KeyCursor::Next(size_t most, const RequestContext& context) {
  const std::vector<uint32_t>& order = model_->OrderOfKeys(OrderKeys);
  const KeyReport& report = *model_->content().keys;
  std::vector<uint32_t> numbers;
  PeriodicCheck check(&context);
  for (; next_ < order.size() && numbers.size() < most; ++next_) {
    KEYLOAD_RETURN_IF_ERROR(check.Check(selection_.CostOf(NameOfKey(report, order[next_]))));
    if (Selects(order[next_])) numbers.push_back(order[next_]);
  }
  return numbers;
}

ListedKey DescribeKey(const ResidentModel& model, const std::vector<Residency::State>* states, uint32_t number) {
  const KeyReport& report = *model.content().keys;
  if (number < report.keys.size()) return DescribeExpected(model, states, number);
  return DescribeUnexpected(report, report.unexpected[number - report.keys.size()]);
}

absl::Status CheckWork(const KeyReport& keys, const KeySelection& selection) {
  if (selection.selects_all()) return absl::OkStatus();
  uint64_t bytes = 0;
  for (const ModelKey& key : keys.keys) bytes += key.name.size();
  for (const UnexpectedKey& key : keys.unexpected) bytes += key.name.size();
  return selection.CheckWork(bytes);
}

absl::Status CheckNamedKeys(const ResidentModel& model, const KeySelection& selection, const RequestContext& context) {
  PeriodicCheck check(&context);
  for (size_t i = 0; i < selection.name_count(); ++i) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    const std::string_view name = selection.name(i);
    const int64_t index = model.FindKey(name);
    if (index < 0) {
      const std::string shown(name.substr(0, kNameInMessage));
      return MakeError(Reason::kKeyNotFound, StrCat("model ", model.content().name, " has no key ", shown),
                       {{"model", model.content().name}, {"key", shown}});
    }
    KEYLOAD_RETURN_IF_ERROR(model.CheckHasBytes(static_cast<uint32_t>(index)));
  }
  return absl::OkStatus();
}

}  // namespace keyload
