#include "server/service/kept_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/strings.h"
#include "server/service/document_store.h"
#include "server/service/load_table.h"
#include "server/service/model_name.h"
#include "server/service/prepare.h"

namespace keyload {
namespace {

constexpr std::string_view kModels = "models";
constexpr std::string_view kLoads = "loads";
constexpr std::string_view kMaps = "maps";
constexpr std::string_view kRuns = "runs";
constexpr std::string_view kFirstNumber = "first_number";
// A run has this many numbers to itself before the next one's could meet them; loads that ran when a daemon was killed
// left no record.
constexpr uint64_t kNumbersOfARun = 1'000'000;

// Errors of the disk cost no request.
void LogFailure(const absl::Status& status, const Caller* caller = nullptr) {
  if (!status.ok()) Log(LogLevel::kError, "state not kept", {{"reason", std::string(status.message())}}, caller);
}

}  // namespace

absl::StatusOr<std::unique_ptr<KeptState>> KeptState::Open(const std::string& path, const StateCodec& codec) {
  KEYLOAD_ASSIGN_OR_RETURN(
      StateDirectory directory,
      StateDirectory::Open(path, {std::string(kModels), std::string(kLoads), std::string(kMaps), std::string(kRuns)}));
  std::unique_ptr<KeptState> state(new KeptState(std::move(directory), codec));
  KEYLOAD_RETURN_IF_ERROR(state->ReadAll());
  KEYLOAD_RETURN_IF_ERROR(state->BeginRun());
  return state;
}

absl::Status KeptState::ReadAll() {
  const auto read = [this](std::string_view kind, auto parse, auto keep) -> absl::Status {
    KEYLOAD_ASSIGN_OR_RETURN(const std::vector<std::string> names, directory_.Names(kind));
    for (const std::string& name : names) {
      const absl::StatusOr<std::string> bytes = directory_.Read(kind, name);
      if (!bytes.ok() && ErrorReason(bytes.status()) != Reason::kCheckpointCorrupt) {
        Log(LogLevel::kError, "state not read", {{"reason", std::string(bytes.status().message())}});
        continue;  // it may be readable the next time
      }
      auto parsed = [&]() -> decltype(parse("")) {
        KEYLOAD_RETURN_IF_ERROR(bytes.status());
        return parse(*bytes);
      }();
      if (parsed.ok()) {
        keep(name, *std::move(parsed));
      } else {
        directory_.SetAside(kind, name, parsed.status());
      }
    }
    return absl::OkStatus();
  };
  KEYLOAD_RETURN_IF_ERROR(read(
      kModels, [this](std::string_view bytes) { return codec_.ReadModel(bytes); },
      [this](const std::string& name, const KeptModel& model) {
        before_.models.push_back(name);
        last_generation_ = std::max(last_generation_, model.generation);
      }));
  KEYLOAD_RETURN_IF_ERROR(read(
      kLoads, [this](std::string_view bytes) { return codec_.ReadLoad(bytes); },
      [this](const std::string& /*name*/, KeptLoad load) { before_.loads.push_back(std::move(load)); }));
  std::sort(before_.loads.begin(), before_.loads.end(), [](const KeptLoad& a, const KeptLoad& b) {
    return LoadTable::NumberOf(a.identity.load) < LoadTable::NumberOf(b.identity.load);
  });
  return read(
      kMaps, [this](std::string_view bytes) { return codec_.ReadMap(bytes); },
      [this](const std::string& /*name*/, NamedDeviceMap map) { before_.maps.push_back(std::move(map)); });
}

absl::Status KeptState::BeginRun() {
  bool ran_before = false;
  uint64_t highest = 0;
  if (const absl::StatusOr<std::string> text = directory_.Read(kRuns, kFirstNumber); text.ok()) {
    ran_before = absl::SimpleAtoi(*text, &highest);
  } else if (ErrorReason(text.status()) == Reason::kCheckpointCorrupt) {
    directory_.SetAside(kRuns, kFirstNumber, text.status());
  } else if (ErrorReason(text.status()) != Reason::kCheckpointNotFound) {
    return text.status();
  }
  for (const KeptLoad& load : before_.loads) {
    highest = std::max(highest, LoadTable::NumberOf(load.identity.load));
    ran_before = true;
  }
  highest = std::max(highest, last_generation_);
  ran_before |= !before_.models.empty();
  if (ran_before) first_number_ = (highest / kNumbersOfARun + 1) * kNumbersOfARun;
  const absl::Status written = directory_.Write(kRuns, kFirstNumber, StrCat(first_number_));
  if (written.ok()) return written;
  return MakeError(Reason::kBadRequest, StrCat("cannot keep state: ", written.message()));
}

// What is not as it should be is better not there: a record of before would bring back what is no more.
void KeptState::Put(std::string_view kind, std::string_view name, std::string_view bytes, const Caller* caller) {
  const absl::Status written = directory_.Write(kind, name, bytes);
  if (written.ok()) return;
  LogFailure(written, caller);
  LogFailure(directory_.Remove(kind, name), caller);
}

void KeptState::KeepModel(const LoadSpec& spec, uint64_t generation, bool extends, const Caller* caller) {
  std::string record;
  MutexLock lock(models_mutex_);
  if (extends) {
    const absl::StatusOr<std::string> before = directory_.Read(kModels, spec.model);
    // Without the first request the others make no model.
    if (!before.ok()) return LogFailure(before.status(), caller);
    record = *before;
  }
  record += codec_.WriteModel(spec, generation, extends);
  generations_[spec.model] = generation;
  Put(kModels, spec.model, record, caller);
}

void KeptState::DropModel(std::string_view name, uint64_t generation, const Caller* caller) {
  if (!IsModelName(name)) return;  // of no file either
  MutexLock lock(models_mutex_);
  const auto written = generations_.find(ToAbsl(name));
  if (written != generations_.end() && written->second > generation) return;
  LogFailure(directory_.Remove(kModels, name), caller);
  generations_.erase(ToAbsl(name));
}

absl::StatusOr<KeptModel> KeptState::ReadModel(std::string_view name) const {
  absl::StatusOr<std::string> bytes;
  {
    MutexLock lock(models_mutex_);
    bytes = directory_.Read(kModels, name);
  }
  KEYLOAD_RETURN_IF_ERROR(bytes.status());
  KEYLOAD_ASSIGN_OR_RETURN(KeptModel model, codec_.ReadModel(*bytes));
  model.name = name;
  return model;
}

void KeptState::KeepLoad(const KeptLoad& load, const Caller* caller) {
  LogFailure(directory_.Write(kLoads, load.identity.load, codec_.WriteLoad(load)), caller);
}

void KeptState::DropLoads(const std::vector<std::string>& names) {
  for (const std::string& name : names) LogFailure(directory_.Remove(kLoads, name));
}

void KeptState::SyncMap(const DeviceMapTable& maps, std::string_view name, const Caller* caller) {
  MutexLock lock(maps_mutex_);  // so that of two changes the later one is what is left
  const absl::StatusOr<NamedDeviceMap> map = maps.Get(name);
  if (map.ok()) return Put(kMaps, name, codec_.WriteMap(*map), caller);
  LogFailure(directory_.Remove(kMaps, name), caller);
}

absl::StatusOr<LoadSpec> WithDocuments(LoadSpec spec, DocumentStore& documents) {
  if (!spec.expected.manifest_digest.empty()) {
    KEYLOAD_ASSIGN_OR_RETURN(spec.expected.manifest, documents.FindManifest(spec.expected.manifest_digest));
    spec.expected.manifest_digest.clear();
  }
  KEYLOAD_ASSIGN_OR_RETURN(spec.select, WithKeyList(std::move(spec.select), spec.key_list_digest, documents));
  spec.key_list_digest.clear();
  return spec;
}

}  // namespace keyload
