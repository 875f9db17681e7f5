#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/service/shared_load.h"

namespace keyload {

// The loads that run and, within bounds, those that ended last. Thread-safe.
class LoadTable {
 public:
  struct Options {
    size_t ended_loads = 1000;           // kept at most
    uint64_t ended_bytes = 64ull << 20;  // of their reports, roughly
    uint64_t first_number = 0;           // names begin above it
    size_t request_ids = 1000;           // of one load
  };
  LoadTable() : LoadTable(Options()) {}
  explicit LoadTable(const Options& options) : options_(options), last_number_(options.first_number) {}

  // Of a load's name; 0 for what is none.
  static uint64_t NumberOf(std::string_view load);

  // A new load that runs, with a name of its own; `identity.load` is ignored.
  std::shared_ptr<SharedLoad> Add(LoadIdentity identity, std::shared_ptr<const Caller> caller = nullptr);
  // `load` answers this request too: its id stands for it. LOAD_QUEUE_FULL when it has as many ids as a load may have.
  absl::Status AddRequest(const SharedLoad& load, const LoadIdentity& identity);
  const Options& options() const { return options_; }
  // A name for what is no SharedLoad.
  std::string NextName();
  // The request ids that `load` answers.
  std::vector<std::string> RequestIds(const SharedLoad& load) const;
  // `load` has ended, or ends before anybody else can ask. Drops the oldest of those that ended until the bounds hold,
  // and returns their names.
  std::vector<std::string> Ended(const std::shared_ptr<SharedLoad>& load);
  // A load that ended because it was not even queued: it takes no room of those that ran.
  void Forget(const SharedLoad& load);
  // Keeps the report of what was never in the table while it ran.
  std::vector<std::string> AddEnded(const LoadReport& report);
  // A load of a run before: `identity.load` is its name. To be called before any load starts, oldest first.
  std::vector<std::string> Restore(const LoadIdentity& identity, const std::vector<std::string>& request_ids,
                                   absl::StatusOr<LoadReport> result);
  // The load with this request id that runs, or that ended with a report of COMPLETE, INCOMPLETE or REJECTED: an id
  // whose load failed or was cancelled is free again. Null when there is none; REQUEST_ID_REUSED when the id stands for
  // another request.
  absl::StatusOr<std::shared_ptr<SharedLoad>> FindRequest(const LoadIdentity& identity) const;
  // A load that the same was asked of and that may be joined. Null when there is none, or `digest` is empty.
  std::shared_ptr<SharedLoad> FindRunning(const LoadIdentity& identity) const;

  // LOAD_NOT_FOUND.
  absl::StatusOr<std::shared_ptr<SharedLoad>> Find(std::string_view load) const;
  absl::StatusOr<std::shared_ptr<SharedLoad>> FindByRequestId(std::string_view request_id) const;
  // In the order of their start, from behind the load named `after`; empty: from the first. BAD_REQUEST for what is no
  // load's name.
  absl::StatusOr<std::vector<std::shared_ptr<SharedLoad>>> List(std::string_view after, size_t most) const;
  std::vector<std::shared_ptr<SharedLoad>> Running() const;

 private:
  struct Entry {
    std::shared_ptr<SharedLoad> load;
    std::vector<std::string> request_ids;
    bool ended = false;
    uint64_t bytes = 0;  // of the report, once it ended
  };
  struct Request {  // what its id stands for
    uint64_t number = 0;
    std::string model;
    std::string digest;
  };
  using Entries = std::map<uint64_t, Entry>;  // by number

  void Bind(Entries::iterator entry, const LoadIdentity& identity) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Erase(Entries::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<std::string> Keep(Entries::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  mutable Mutex mutex_;
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_);
  Entries entries_ ABSL_GUARDED_BY(mutex_);
  std::deque<uint64_t> ended_ ABSL_GUARDED_BY(mutex_);  // numbers, in the order of their end
  uint64_t ended_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, Request> by_request_id_ ABSL_GUARDED_BY(mutex_);  // the latest load of an id
};

}  // namespace keyload
