#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "server/keys/glob_set.h"
#include "server/keys/key_list.h"

namespace keyload {

inline constexpr size_t kMaxGlobs = 1000;  // of one selection
// Of matching one selection against all names of a model, in GlobSet's steps. 1,000 globs of 30 characters with a star
// in the middle take 500 steps for a byte: so many fit a million names of 100 bytes.
inline constexpr uint64_t kMaxSelectionSteps = 50'000'000'000;

// Which keys a request is about. Globs match whole names as fnmatch does, dots included, and know "{a,b}" and "{0..7}".
struct KeySelectionSpec {
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  std::vector<std::string> keys;                  // exact names
  std::shared_ptr<const KeyList> list = nullptr;  // more of them, shared by all that name it; null: none
};

// The compiled form. Immutable, thread-safe. Matching is linear in the name's length times the size of the globs; see
// GlobSet.
class KeySelection {
 public:
  // PATTERN_INVALID names the pattern (too many alternatives, more than 1,000 patterns, over 64 KiB in all).
  static absl::StatusOr<KeySelection> Compile(const KeySelectionSpec& spec);

  KeySelection() = default;  // selects everything
  KeySelection(KeySelection&&) noexcept = default;
  KeySelection& operator=(KeySelection&&) noexcept = default;

  bool selects_all() const;
  // True if `key` matches an include (or there is neither include nor name) or is named, and matches no exclude.
  bool Selects(std::string_view key) const;
  // The exact names of the spec, those of its list behind its own.
  size_t name_count() const { return names_.size() + (list_ == nullptr ? 0 : list_->size()); }
  std::string_view name(size_t i) const {
    return i < names_.size() ? std::string_view(names_[i]) : (*list_)[i - names_.size()];
  }
  // To be asked before Selects is called for names of `name_bytes` together: PATTERN_INVALID when that could take more
  // than kMaxSelectionSteps.
  absl::Status CheckWork(uint64_t name_bytes) const;
  // What Selects(key) may cost, for PeriodicCheck.
  uint64_t CostOf(std::string_view key) const;
  // What the globs take of the heap; the names are counted where they come from.
  uint64_t memory_bytes() const { return include_.memory_bytes() + exclude_.memory_bytes(); }

 private:
  GlobSet include_;
  GlobSet exclude_;
  std::vector<std::string> names_;
  std::shared_ptr<const KeyList> list_;          // null: none
  absl::flat_hash_set<std::string_view> named_;  // into names_, whose strings stay where they are when it moves
};

}  // namespace keyload
