#include "server/service/load_table.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/base/retry.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr std::string_view kPrefix = "load-";

std::string NameOf(uint64_t number) { return absl::StrFormat("%s%06d", kPrefix, number); }

uint64_t ReportBytes(const LoadReport& report) {
  uint64_t bytes = sizeof(report);
  for (const std::string& key : report.missing_keys) bytes += sizeof(key) + key.size();
  for (const std::string& key : report.unexpected_keys) bytes += sizeof(key) + key.size();
  for (const MismatchedKey& key : report.mismatched_keys) bytes += sizeof(key) + key.key.size();
  for (const MapEntry& entry : report.device_map) bytes += sizeof(entry) + entry.module.size();
  for (const ShardUse& shard : report.shards) bytes += sizeof(shard) + shard.file.size();
  for (const std::string& warning : report.warnings) bytes += sizeof(warning) + warning.size();
  return bytes;
}

absl::Status LoadNotFound(std::string_view what, std::string_view name) {
  return MakeError(Reason::kLoadNotFound,
                   StrCat("no load ", what, name.substr(0, kNameInMessage), " runs, or ended lately enough to be kept"),
                   {{"load", std::string(name.substr(0, kNameInMessage))}});
}

}  // namespace

uint64_t LoadTable::NumberOf(std::string_view load) {
  uint64_t number = 0;
  if (!load.starts_with(kPrefix) || !absl::SimpleAtoi(ToAbsl(load.substr(kPrefix.size())), &number)) return 0;
  return NameOf(number) == load ? number : 0;
}

std::shared_ptr<SharedLoad> LoadTable::Add(LoadIdentity identity, std::shared_ptr<const Caller> caller) {
  MutexLock lock(mutex_);
  const uint64_t number = ++last_number_;
  identity.load = NameOf(number);
  auto load = std::make_shared<SharedLoad>(identity, std::move(caller));
  const auto entry = entries_.emplace(number, Entry{.load = load}).first;
  try {
    Bind(entry, identity);
  } catch (...) {
    Erase(entry);  // nobody would end it
    throw;
  }
  return load;
}

absl::Status LoadTable::AddRequest(const SharedLoad& load, const LoadIdentity& identity) {
  MutexLock lock(mutex_);
  const auto it = entries_.find(NumberOf(load.identity().load));
  if (it == entries_.end() || identity.request_id.empty()) return absl::OkStatus();
  if (it->second.request_ids.size() >= options_.request_ids) {
    const LoadIdentity& known = load.identity();
    return MakeError(Reason::kLoadQueueFull,
                     StrCat(known.load, " of model ", known.model, ": ", it->second.request_ids.size(),
                            " request ids stand for it already; ask again once it has ended"),
                     {{"load", known.load}, {"model", known.model}, {std::string(kRetryDelay), "1"}});
  }
  Bind(it, identity);
  return absl::OkStatus();
}

void LoadTable::Bind(Entries::iterator entry, const LoadIdentity& identity) {
  if (identity.request_id.empty()) return;
  entry->second.request_ids.push_back(identity.request_id);  // first: what throws then is undone by Erase
  by_request_id_[identity.request_id] = {.number = entry->first, .model = identity.model, .digest = identity.digest};
}

std::string LoadTable::NextName() {
  MutexLock lock(mutex_);
  return NameOf(++last_number_);
}

std::vector<std::string> LoadTable::RequestIds(const SharedLoad& load) const {
  MutexLock lock(mutex_);
  const auto it = entries_.find(NumberOf(load.identity().load));
  return it == entries_.end() ? std::vector<std::string>() : it->second.request_ids;
}

std::vector<std::string> LoadTable::Ended(const std::shared_ptr<SharedLoad>& load) {
  MutexLock lock(mutex_);
  const auto it = entries_.find(NumberOf(load->identity().load));
  return it == entries_.end() ? std::vector<std::string>() : Keep(it);
}

std::vector<std::string> LoadTable::AddEnded(const LoadReport& report) {
  return Restore({.load = report.load, .model = report.model}, {}, report);
}

std::vector<std::string> LoadTable::Restore(const LoadIdentity& identity, const std::vector<std::string>& request_ids,
                                            absl::StatusOr<LoadReport> result) {
  const uint64_t number = NumberOf(identity.load);
  if (number == 0) return {};
  auto load = std::make_shared<SharedLoad>(identity);
  load->End(std::move(result));
  MutexLock lock(mutex_);
  const auto [entry, added] = entries_.emplace(number, Entry{.load = std::move(load)});
  if (!added) return {};
  for (const std::string& id : request_ids) {
    Bind(entry, {.model = identity.model, .request_id = id, .digest = identity.digest});
  }
  return Keep(entry);
}

std::vector<std::string> LoadTable::Keep(Entries::iterator entry) {
  const LoadStatus status = entry->second.load->status();
  entry->second.bytes = status.result->ok() ? ReportBytes(**status.result) : sizeof(LoadReport);
  for (const std::string& id : entry->second.request_ids) entry->second.bytes += 2 * (sizeof(Request) + id.size());
  entry->second.ended = true;
  ended_bytes_ += entry->second.bytes;
  ended_.push_back(entry->first);
  std::vector<std::string> dropped;
  while (ended_.size() > options_.ended_loads || (ended_bytes_ > options_.ended_bytes && ended_.size() > 1)) {
    const auto oldest = entries_.find(ended_.front());
    ended_.pop_front();
    ended_bytes_ -= oldest->second.bytes;
    dropped.push_back(NameOf(oldest->first));
    Erase(oldest);
  }
  return dropped;
}

void LoadTable::Forget(const SharedLoad& load) {
  MutexLock lock(mutex_);
  const auto it = entries_.find(NumberOf(load.identity().load));
  if (it == entries_.end()) return;
  std::erase(ended_, it->first);
  ended_bytes_ -= it->second.bytes;
  Erase(it);
}

void LoadTable::Erase(Entries::iterator entry) {
  for (const std::string& id : entry->second.request_ids) {
    const auto it = by_request_id_.find(id);
    if (it != by_request_id_.end() && it->second.number == entry->first) by_request_id_.erase(it);
  }
  entries_.erase(entry);
}

absl::StatusOr<std::shared_ptr<SharedLoad>> LoadTable::FindRequest(const LoadIdentity& identity) const {
  if (identity.request_id.empty()) return nullptr;
  MutexLock lock(mutex_);
  const auto it = by_request_id_.find(identity.request_id);
  if (it == by_request_id_.end()) return nullptr;
  const Request& request = it->second;
  const std::shared_ptr<SharedLoad>& load = entries_.find(request.number)->second.load;
  const LoadStatus status = load->status();
  if (status.done && !IsAnswer(*status.result)) return nullptr;
  if (request.model == identity.model && request.digest == identity.digest) return load;
  return MakeError(Reason::kRequestIdReused,
                   StrCat("request_id ", identity.request_id, " stands for another request: ", load->identity().load,
                          " of model ", load->identity().model),
                   {{"load", load->identity().load}, {"model", load->identity().model}});
}

std::shared_ptr<SharedLoad> LoadTable::FindRunning(const LoadIdentity& identity) const {
  if (identity.digest.empty()) return nullptr;
  for (const std::shared_ptr<SharedLoad>& load : Running()) {
    const bool equal = load->identity().model == identity.model && load->identity().digest == identity.digest;
    if (equal && load->joinable()) return load;
  }
  return nullptr;
}

absl::StatusOr<std::shared_ptr<SharedLoad>> LoadTable::Find(std::string_view load) const {
  MutexLock lock(mutex_);
  if (const auto it = entries_.find(NumberOf(load)); it != entries_.end()) return it->second.load;
  return LoadNotFound("", load);
}

absl::StatusOr<std::shared_ptr<SharedLoad>> LoadTable::FindByRequestId(std::string_view request_id) const {
  MutexLock lock(mutex_);
  if (const auto it = by_request_id_.find(ToAbsl(request_id)); it != by_request_id_.end())
    return entries_.find(it->second.number)->second.load;
  return LoadNotFound("with request_id ", request_id);
}

absl::StatusOr<std::vector<std::shared_ptr<SharedLoad>>> LoadTable::List(std::string_view after, size_t most) const {
  if (!after.empty() && NumberOf(after) == 0)
    return MakeError(Reason::kBadRequest, "page_token is none that this server gave", {{"field", "page_token"}});
  std::vector<std::shared_ptr<SharedLoad>> loads;
  MutexLock lock(mutex_);
  for (auto it = entries_.upper_bound(NumberOf(after)); it != entries_.end() && loads.size() < most; ++it) {
    loads.push_back(it->second.load);
  }
  return loads;
}

std::vector<std::shared_ptr<SharedLoad>> LoadTable::Running() const {
  std::vector<std::shared_ptr<SharedLoad>> loads;
  MutexLock lock(mutex_);
  for (const auto& [number, entry] : entries_) {
    if (!entry.ended) loads.push_back(entry.load);
  }
  return loads;
}

}  // namespace keyload
