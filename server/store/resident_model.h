#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/mutex.h"
#include "server/io/page_cache_hold.h"
#include "server/io/shard_reader.h"
#include "server/keys/reconcile.h"
#include "server/plan/load_plan.h"
#include "server/report/load_report.h"
#include "server/store/residency.h"

namespace keyload {

// The bytes of one key, held as they are: memory lives as long as this. Thread-safe.
class TensorBytes {
 public:
  // Copies `destination.size()` bytes from `offset` on. Blocks. REQUIRES: the range lies in the tensor.
  // CHECKPOINT_TRUNCATED, CHECKPOINT_CHANGED, IO_ERROR for what stays in its file.
  absl::Status Read(uint64_t offset, std::span<std::byte> destination) const;

 private:
  friend class ResidentModel;
  struct FileRange {
    uint32_t shard = 0;
    uint64_t offset = 0;  // in the file
    uint64_t bytes = 0;
    std::shared_ptr<ShardReader> reader;
  };
  Segment segment_;                // of what is in memory
  uint64_t begin_ = 0;             // in the segment
  std::vector<FileRange> ranges_;  // of what stays in its files, one behind the other; empty for what is in memory
  std::shared_ptr<const KeyReport> keys_;  // holds the index
  std::string model_;
};

// A loaded model of one generation: its key table and the report of its load, which never change, and its residency,
// which does. Thread-safe; destroying the last generation frees the memory on every device.
class ResidentModel {
 public:
  // What TensorOf says of a key without a planned tensor.
  static constexpr uint32_t kNoTensor = UINT32_MAX;    // missing, mismatched, not selected ...
  static constexpr uint32_t kInFile = UINT32_MAX - 1;  // placed on "disk"
  static constexpr uint16_t kNoDevice = UINT16_MAX;

  struct Content {
    std::string name;
    std::string fingerprint;  // of the request that made it; requests that may share the model have equal ones
    std::string source_path;  // as requested
    std::shared_ptr<const KeyReport> keys;
    std::shared_ptr<const LoadPlan> plan;
    std::shared_ptr<Residency> residency;  // of the plan's tensors
    std::vector<uint32_t> tensor_of_key;   // per KeyReport::keys: index into plan->tensors, kInFile or kNoTensor
    std::vector<uint16_t> device_of_key;   // index into `devices`; kNoDevice where a key has no place
    std::vector<std::string> devices;      // as plan->devices
    std::vector<TiedDuplicate> conflicts;  // second copies of tied tensors that differ, of all loads
    std::function<std::unique_ptr<ShardReader>(const Shard&)> make_reader;  // for what stays in its file
    std::vector<std::shared_ptr<std::vector<HeldPages>>> held;              // page cache that stays locked, per load
    LoadReport report;
    absl::Time load_time;
  };

  explicit ResidentModel(Content content);

  const Content& content() const { return content_; }
  const LoadReport& report() const { return content_.report; }
  Residency& residency() const { return *content_.residency; }

  // The report's counts with `loaded` and `lazy` as they are now, and its devices with what is there now.
  KeyCounts LiveKeys() const;
  std::vector<DeviceUse> LiveDevices() const;

  // The order in which the model's keys are listed: what `make` makes of them, which is asked once.
  const std::vector<uint32_t>& OrderOfKeys(std::vector<uint32_t> (*make)(const KeyReport&)) const;
  // How much of its files is in the page cache, as measured last. Thread-safe.
  class PageCacheMeasure {
   public:
    using Clock = std::chrono::steady_clock;
    // Whether a measurement is due: nobody is measuring, and the last one is old. Then the caller is to call Set.
    bool Begin(Clock::time_point now = Clock::now()) {
      MutexLock lock(mutex_);
      if (measuring_ || now < next_) return false;
      measuring_ = true;
      return true;
    }
    // The next one is due when twenty times as long has passed as this one took.
    void Set(uint64_t bytes, Clock::duration took, Clock::time_point now = Clock::now()) {
      MutexLock lock(mutex_);
      measuring_ = false;
      bytes_ = bytes;
      next_ = now + 20 * took;
    }
    uint64_t bytes() const {
      MutexLock lock(mutex_);
      return bytes_;
    }

   private:
    mutable Mutex mutex_;
    bool measuring_ ABSL_GUARDED_BY(mutex_) = false;
    uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
    Clock::time_point next_ ABSL_GUARDED_BY(mutex_);
  };
  PageCacheMeasure& page_cache() const { return page_cache_; }
  // Index into keys->keys, or -1.
  int64_t FindKey(std::string_view name) const;
  // The key that holds the bytes of `key`: itself, or who supplies a tied key.
  uint32_t HolderOf(uint32_t key) const;
  // Index into plan->tensors of what holds the bytes of `key`, or kInFile or kNoTensor.
  uint32_t TensorOf(uint32_t key) const { return content_.tensor_of_key[HolderOf(key)]; }
  // KEY_NOT_RESIDENT, with the reason why, when `key` has no bytes: missing, mismatched, not selected ...
  absl::Status CheckHasBytes(uint32_t key) const;
  // The bytes of `key` where they are now; nullopt for a lazy one. REQUIRES: CheckHasBytes(key).ok().
  std::optional<TensorBytes> Open(uint32_t key) const;
  // CHECKPOINT_CHANGED when a file is not the one that was planned, as far as stat can tell.
  absl::Status CheckUnchanged(uint32_t shard) const;

 private:
  // Adds what lies in a file behind what `bytes` has.
  void AddRange(uint32_t shard, uint64_t offset, uint64_t length, TensorBytes& bytes) const;

  Content content_;
  mutable std::once_flag names_once_;  // a load that nobody asks by name never pays for the table
  mutable absl::flat_hash_map<std::string_view, uint32_t> by_name_;
  mutable std::once_flag order_once_;
  mutable std::vector<uint32_t> order_;
  mutable PageCacheMeasure page_cache_;
};

}  // namespace keyload
