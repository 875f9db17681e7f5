#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/base/request_context.h"
#include "server/io/page_cache.h"

namespace keyload {

// Bounds the page cache that all models together keep locked. Thread-safe.
class HoldBudget {
 public:
  // `headroom` says how many more bytes this process could lock without the system running short of memory. It is asked
  // before every piece, with no lock held, when coming() has that piece in it, and must be thread-safe.
  HoldBudget(uint64_t limit_bytes, std::function<uint64_t()> headroom);

  // Takes `bytes`, which are to be locked now, and returns nothing; or takes nothing and returns why, for people.
  std::optional<std::string> Take(uint64_t bytes);
  // They are locked now, or will not be. To be called once after each Take.
  void Settle(uint64_t bytes);
  void GiveBack(uint64_t bytes);
  uint64_t held() const;
  // Taken and not settled: memory that is still free by the system's account.
  uint64_t coming() const;
  // What is held already stays, be it more than `limit_bytes`.
  void set_limit(uint64_t limit_bytes);

 private:
  const std::function<uint64_t()> headroom_;
  mutable Mutex mutex_;
  uint64_t limit_ ABSL_GUARDED_BY(mutex_);
  uint64_t held_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t coming_ ABSL_GUARDED_BY(mutex_) = 0;  // part of it
};

// Pages of one file that stay in memory while this lives. Not thread-safe. The budget must outlive it.
class HeldPages {
 public:
  HeldPages() = default;
  HeldPages(HeldPages&& other) noexcept;
  HeldPages& operator=(HeldPages&& other) noexcept;
  ~HeldPages();

  uint64_t held_bytes() const { return held_; }            // in whole pages, as are refused_bytes
  uint64_t refused_bytes() const { return refused_; }      // asked for and not held
  const std::string& refusal() const { return refusal_; }  // why, for people; empty where nothing was refused

 private:
  friend class PageHolder;
  struct Mapping {
    void* address;
    size_t length;
  };

  HoldBudget* budget_ = nullptr;
  std::vector<Mapping> mappings_;  // locked
  uint64_t held_ = 0;
  uint64_t refused_ = 0;
  std::string refusal_;
};

// Reads `ranges` of one file into the page cache, as PageCacheWarmer does, and locks their pages there, in pieces of at
// most 16 MiB, until the budget or the system refuses one: that piece and all that follow are neither read nor held,
// which is no error. Files on remote file systems are refused as a whole. `fd` must be open for reading and may be
// closed afterwards; `file` is for messages, and what touches it is noted as an Operation of `mount`. Blocks on the
// disk. LOAD_CANCELLED and DEADLINE_EXCEEDED between pieces, CHECKPOINT_TRUNCATED, IO_ERROR; an error holds nothing. A
// file that is truncated later just loses those pages.
absl::StatusOr<HeldPages> HoldInPageCache(HoldBudget& budget, int fd, const std::string& file,
                                          std::span<const ByteRange> ranges, const RequestContext& context,
                                          ReadCounts& counts, const StorageThreads::NotedMount& mount = {});

}  // namespace keyload
