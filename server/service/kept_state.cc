#include "server/service/kept_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/no_throw.h"
#include "server/base/strings.h"
#include "server/service/document_store.h"
#include "server/service/load_table.h"
#include "server/service/model_name.h"
#include "server/service/prepare.h"

namespace keyload {
namespace {

constexpr std::string_view kModels = "models";
constexpr std::string_view kExtensions = "extensions";  // named by model and generation
constexpr std::string_view kLoads = "loads";
constexpr std::string_view kMaps = "maps";
constexpr std::string_view kRuns = "runs";
constexpr std::string_view kFirstNumber = "first_number";
// A run has this many numbers to itself before the next one's could meet them; loads that ran when a daemon was killed
// left no record.
constexpr uint64_t kNumbersOfARun = 1'000'000;
constexpr size_t kMostUnwritten = 16 << 20;  // bytes per model that wait for a disk which takes records again

// Errors of the disk cost no request.
void LogFailure(const absl::Status& status, const Caller* caller = nullptr) {
  if (!status.ok()) Log(LogLevel::kError, "state not kept", {{"reason", std::string(status.message())}}, caller);
}

// No name of a model has a plus sign. Their order is that of the generations.
std::string ExtensionName(std::string_view model, uint64_t generation) {
  return absl::StrFormat("%s+%020d", model, generation);
}

}  // namespace

KeptState::KeptState(StateDirectory directory, const StateCodec& codec)
    : directory_(std::move(directory)), codec_(codec) {
  writer_ = std::thread([this] { WriteReports(); });
}

KeptState::~KeptState() {
  {
    MutexLock lock(reports_mutex_);
    ending_ = true;
    reports_changed_.NotifyAll();
  }
  writer_.join();
}

absl::StatusOr<std::unique_ptr<KeptState>> KeptState::Open(const std::string& path, const StateCodec& codec) {
  KEYLOAD_ASSIGN_OR_RETURN(StateDirectory directory,
                           StateDirectory::Open(path, {std::string(kModels), std::string(kExtensions),
                                                       std::string(kLoads), std::string(kMaps), std::string(kRuns)}));
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
        before_.models.push_back({.name = name, .path = model.requests.front().source.path});
        last_generation_ = std::max(last_generation_, model.generation);
        MutexLock lock(models_mutex_);
        models_[name].generation = model.generation;  // until all its extensions are found
      }));
  KEYLOAD_RETURN_IF_ERROR(ReadExtensions());
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

// Those that are older than their model, or have none, belong to one that was replaced or unloaded: the daemon was
// killed before it removed them.
absl::Status KeptState::ReadExtensions() {
  KEYLOAD_ASSIGN_OR_RETURN(const std::vector<std::string> names, directory_.Names(kExtensions));
  std::vector<std::string> stale;
  MutexLock lock(models_mutex_);
  for (const std::string& name : names) {
    const std::string model_name = name.substr(0, name.find('+'));
    const auto model = models_.find(model_name);
    uint64_t generation = 0;
    const bool is_named = absl::SimpleAtoi(name.substr(model_name.size()), &generation);
    if (is_named && model == models_.end()) {
      const Reason why = ErrorReason(directory_.Read(kModels, model_name).status());
      if (why == Reason::kCheckpointNotFound) stale.push_back(name);
      continue;  // else the model may be readable the next time
    }
    if (is_named && generation <= model->second.generation) {
      stale.push_back(name);
      continue;
    }
    const absl::StatusOr<std::string> bytes = directory_.Read(kExtensions, name);
    if (!bytes.ok() && ErrorReason(bytes.status()) != Reason::kCheckpointCorrupt) {
      Log(LogLevel::kError, "state not read", {{"reason", std::string(bytes.status().message())}});
      continue;  // it may be readable the next time
    }
    const absl::Status parsed = !bytes.ok() ? bytes.status() : codec_.ReadModel(*bytes).status();
    if (!is_named || !parsed.ok()) {
      directory_.SetAside(kExtensions, name, is_named ? parsed : MakeError(Reason::kInternal, "no name of a record"));
      continue;
    }
    model->second.extensions.push_back(name);
    last_generation_ = std::max(last_generation_, generation);
  }
  for (auto& [name, records] : models_) records.generation = 0;
  LogFailure(directory_.Forget(kExtensions, stale));
  return absl::OkStatus();
}

void KeptState::RemoveModel(std::string_view name, const Caller* caller) {
  LogFailure(directory_.Remove(kModels, name), caller);  // first: what is left of a model without it is nothing
  const auto records = models_.find(ToAbsl(name));
  if (records == models_.end()) return;
  LogFailure(directory_.Forget(kExtensions, records->second.extensions), caller);
  models_.erase(records);
}

void KeptState::KeepModel(const LoadSpec& spec, uint64_t generation, bool extends, const Caller* caller) {
  MutexLock lock(models_mutex_);
  if (extends) return KeepExtension(spec, generation, caller);
  const absl::Status written = directory_.Write(kModels, spec.model, codec_.WriteModel(spec, generation, extends));
  if (!written.ok()) {
    LogFailure(written, caller);
    return RemoveModel(spec.model, caller);  // it would bring back what this model replaces
  }
  const auto [place, is_new] = models_.try_emplace(spec.model);
  ModelRecords& records = place->second;
  const std::vector<std::string> before = std::move(records.extensions);
  records = {.generation = generation, .replaced = !is_new, .extensions = {}, .unwritten = ""};
  LogFailure(directory_.Forget(kExtensions, before), caller);
}

void KeptState::KeepExtension(const LoadSpec& spec, uint64_t generation, const Caller* caller) {
  const auto found = models_.find(spec.model);
  if (found == models_.end()) {
    return LogFailure(MakeError(Reason::kIoError, StrCat("model ", spec.model, " itself could not be kept")), caller);
  }
  ModelRecords& records = found->second;
  records.generation = generation;
  std::string bytes = std::exchange(records.unwritten, "") + codec_.WriteModel(spec, generation, /*extends=*/true);
  const std::string name = ExtensionName(spec.model, generation);
  const absl::Status written = directory_.Write(kExtensions, name, bytes);
  LogFailure(written, caller);
  if (written.ok()) {
    records.extensions.push_back(name);
  } else if (bytes.size() <= kMostUnwritten) {
    records.unwritten = std::move(bytes);
  }
}

void KeptState::TakeBack(std::string_view name, uint64_t generation, bool extends, const Caller* caller) {
  MutexLock lock(models_mutex_);
  const auto found = models_.find(ToAbsl(name));
  if (found == models_.end() || found->second.generation != generation) return;  // it was not kept
  ModelRecords& records = found->second;
  if (extends) {
    const std::string extension = ExtensionName(name, generation);
    LogFailure(directory_.Remove(kExtensions, extension), caller);
    std::erase(records.extensions, extension);
    records.unwritten.clear();
    return;
  }
  const bool replaced = records.replaced;
  RemoveModel(name, caller);
  if (!replaced) return;
  const std::string_view why = " stays as it was, but its record was replaced already: load it again to have it kept";
  LogFailure(MakeError(Reason::kIoError, StrCat("model ", name, why)), caller);
}

void KeptState::DropModel(std::string_view name, uint64_t generation, const Caller* caller) {
  if (!IsModelName(name)) return;  // of no file either
  MutexLock lock(models_mutex_);
  const auto records = models_.find(ToAbsl(name));
  if (records != models_.end() && records->second.generation > generation) return;
  RemoveModel(name, caller);
}

absl::StatusOr<KeptModel> KeptState::ReadModel(std::string_view name) const {
  std::string record;
  {
    MutexLock lock(models_mutex_);
    KEYLOAD_ASSIGN_OR_RETURN(record, directory_.Read(kModels, name));
    const auto records = models_.find(ToAbsl(name));
    if (records != models_.end()) {
      for (const std::string& extension : records->second.extensions) {
        const absl::StatusOr<std::string> bytes = directory_.Read(kExtensions, extension);
        if (bytes.ok()) record += *bytes;
        if (!bytes.ok()) Log(LogLevel::kError, "state not read", {{"reason", std::string(bytes.status().message())}});
      }
    }
  }
  KEYLOAD_ASSIGN_OR_RETURN(KeptModel model, codec_.ReadModel(record));
  model.name = name;
  return model;
}

void KeptState::KeepLoadSoon(const KeptLoad& load) {
  Report report = {.name = load.identity.load, .bytes = codec_.WriteLoad(load)};
  MutexLock lock(reports_mutex_);
  reports_.push_back(std::move(report));
  reports_changed_.NotifyAll();
}

void KeptState::WriteReports() {
  while (true) {
    std::vector<Report> reports;
    {
      MutexLock lock(reports_mutex_);
      while (reports_.empty() && !ending_) reports_changed_.Wait(reports_mutex_);
      if (reports_.empty()) return;
      reports.swap(reports_);
    }
    const absl::Status written = NoThrow([&] {
      std::vector<StateDirectory::Record> records;
      records.reserve(reports.size());
      for (const Report& report : reports) records.push_back({.name = report.name, .bytes = report.bytes});
      return directory_.WriteAll(kLoads, records);
    });
    NoThrow([&] { LogFailure(written); }).IgnoreError();
  }
}

void KeptState::KeepLoad(const KeptLoad& load, const Caller* caller) {
  LogFailure(directory_.Write(kLoads, load.identity.load, codec_.WriteLoad(load)), caller);
}

void KeptState::DropLoads(const std::vector<std::string>& names) {
  if (names.empty()) return;
  {
    MutexLock lock(reports_mutex_);
    std::erase_if(reports_, [&](const Report& report) {
      return std::find(names.begin(), names.end(), report.name) != names.end();
    });
  }
  LogFailure(directory_.Forget(kLoads, names));
}

void KeptState::SyncMap(const DeviceMapTable& maps, std::string_view name, const Caller* caller) {
  MutexLock lock(maps_mutex_);  // so that of two changes the later one is what is left
  const absl::StatusOr<NamedDeviceMap> map = maps.Get(name);
  const absl::Status written = map.ok() ? directory_.Write(kMaps, name, codec_.WriteMap(*map)) : map.status();
  if (written.ok()) return;
  if (map.ok()) LogFailure(written, caller);
  LogFailure(directory_.Remove(kMaps, name), caller);  // a map that was changed is better gone than as it was
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
