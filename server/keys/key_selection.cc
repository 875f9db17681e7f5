#include "server/keys/key_selection.h"

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"

namespace keyload {
namespace {

constexpr size_t kMaxPatternBytes = 64 * 1024;
constexpr uint64_t kGlobStepsPerUnit = 1000;  // of PeriodicCheck

absl::Status CheckLimits(const KeySelectionSpec& spec) {
  size_t bytes = 0;
  for (const auto* globs : {&spec.include, &spec.exclude}) {
    for (const std::string& glob : *globs) bytes += glob.size();
  }
  const size_t count = spec.include.size() + spec.exclude.size();
  if (count > kMaxGlobs || bytes > kMaxPatternBytes) {
    return MakeError(Reason::kPatternInvalid, absl::StrCat(count, " globs of ", bytes, " bytes in all: at most ",
                                                           kMaxGlobs, " and ", kMaxPatternBytes, " bytes are taken"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<KeySelection> KeySelection::Compile(const KeySelectionSpec& spec) {
  KEYLOAD_RETURN_IF_ERROR(CheckLimits(spec));
  GlobBudget budget;
  KeySelection selection;
  KEYLOAD_ASSIGN_OR_RETURN(selection.include_, GlobSet::Compile(spec.include, budget));
  KEYLOAD_ASSIGN_OR_RETURN(selection.exclude_, GlobSet::Compile(spec.exclude, budget));
  selection.names_ = spec.keys;
  selection.list_ = spec.list;
  selection.named_.insert(selection.names_.begin(), selection.names_.end());
  return selection;
}

bool KeySelection::selects_all() const { return include_.empty() && exclude_.empty() && name_count() == 0; }

bool KeySelection::Selects(std::string_view key) const {
  const bool wanted = (include_.empty() && name_count() == 0) || named_.contains(key) ||
                      (list_ != nullptr && list_->Contains(key)) || include_.Matches(key);
  return wanted && !exclude_.Matches(key);
}

absl::Status KeySelection::CheckWork(uint64_t name_bytes) const {
  const uint64_t per_byte = include_.steps_per_byte() + exclude_.steps_per_byte();
  if (name_bytes == 0 || per_byte <= kMaxSelectionSteps / name_bytes) return absl::OkStatus();
  return MakeError(Reason::kPatternInvalid,
                   absl::StrCat("the globs of the selection may take ", per_byte, " steps for each of the ", name_bytes,
                                " bytes of the names; at most ", kMaxSelectionSteps,
                                " steps in all are taken: give fewer or shorter globs, ask for parts of the model, or "
                                "name the keys"),
                   {{"steps_per_byte", absl::StrCat(per_byte)},
                    {"name_bytes", absl::StrCat(name_bytes)},
                    {"limit_steps", absl::StrCat(kMaxSelectionSteps)}});
}

uint64_t KeySelection::CostOf(std::string_view key) const {
  return 1 + (include_.steps_per_byte() + exclude_.steps_per_byte()) * key.size() / kGlobStepsPerUnit;
}

}  // namespace keyload
