#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/keys/key_selection.h"
#include "server/keys/manifest.h"
#include "server/keys/reconcile.h"
#include "server/placement/placement.h"

namespace keyload {

// Where the expected keys come from. At most one of the manifest fields is set.
struct ExpectedSpec {
  // kDefault: the manifest or the other checkpoint if there is one, else config.json if a template knows it, else the
  // checkpoint
  enum class From { kDefault, kCheckpoint, kConfig, kManifest, kLike };
  From from = From::kDefault;
  std::string manifest_digest;
  std::string manifest_path;                 // on the server, in an allowed root
  std::shared_ptr<const Manifest> manifest;  // inline; validated
  std::optional<CheckpointSource> like;      // another checkpoint, whose keys are expected
};

// Unset: report only.
struct Limits {
  std::optional<uint64_t> max_missing;
  std::optional<uint64_t> max_unexpected;
  std::optional<uint64_t> max_mismatched;
};
bool ExceedsLimits(const KeyCounts& counts, const Limits& limits);

// Where tensors on "cpu" live: in their file where that is possible, or always in memory segments.
enum class HostStorage { kMapped, kCopied };

// Names in each list of a report, where the request leaves it open.
inline constexpr uint32_t kDefaultNameLimit = 100;

enum class IfExists { kReuse, kExtend, kReplace, kFail };

// One request to load or plan a model.
struct LoadSpec {
  enum class Residency { kEager, kLazy };
  enum class PageCache { kKeep, kDrop, kWarm, kHold };
  std::string model;
  CheckpointSource source;
  KeySelectionSpec select;
  std::string key_list_digest;  // names added to select.keys
  ExpectedSpec expected;
  KeyRules rules;
  DeviceMapSpec device_map;
  std::vector<std::string> no_split_classes;
  std::vector<PlacementDevice> plan_for;  // planning only: hardware that this node lacks
  std::optional<DType> dtype;
  HostStorage host_storage = HostStorage::kMapped;
  Residency residency = Residency::kEager;
  PageCache page_cache = PageCache::kKeep;
  bool reserve_now = false;  // kLazy only: all memory of the plan is reserved until the model is unloaded
  Limits limits;
  IfExists if_exists = IfExists::kReuse;
  uint32_t name_limit = kDefaultNameLimit;
  // The bytes are read into the page cache and every tensor stays in its file.
  bool warms() const { return page_cache == PageCache::kWarm || page_cache == PageCache::kHold; }

  int32_t priority = 0;                // of the loads that wait the larger one goes first
  absl::Duration wait_memory;          // how long it may wait for device memory that others use now
  std::string request_id;              // the caller's name for the request; empty: none
  bool detach = false;                 // the load runs to its end, whether or not its caller waits
  std::string fingerprint;             // equal for requests that may share a model: the same but for the keys selected
  std::string digest;                  // equal for requests that one load answers; empty: it equals no other
  std::string request;                 // as the contract writes it, without what identifies it
  bool is_kept = false;                // of a run before: what a restart needs is on the disk already
  std::shared_ptr<const void> charge;  // for the memory of the request; null: small, or not counted
};

}  // namespace keyload
