#include "server/keys/tied_groups.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/error.h"

namespace keyload {
namespace {

std::vector<uint32_t> Members(const TiedGroup& group, ModelNames& names) {
  std::vector<uint32_t> members;
  members.reserve(group.targets.size() + 1);
  if (const int64_t source = names.Find(group.source); source >= 0) members.push_back(source);
  for (const std::string& target : group.targets) {
    if (const int64_t position = names.Find(target); position >= 0) members.push_back(position);
  }
  return members;
}

// Who supplies the missing ones of `members`, or -1.
int64_t ProviderOf(const std::vector<uint32_t>& members, const std::vector<ModelKey>& keys, const KeyReport* widened) {
  const auto first = [&](auto matches) -> int64_t {
    const auto it = std::find_if(members.begin(), members.end(), matches);
    return it == members.end() ? int64_t{-1} : int64_t{*it};
  };
  const auto found = [&](uint32_t member) { return keys[member].state == KeyState::kFound; };
  if (widened == nullptr) return first(found);
  const int64_t tied = first([&](uint32_t member) { return widened->keys[member].state == KeyState::kTied; });
  const int64_t supplier = tied < 0 ? -1 : widened->keys[tied].tied_to;
  if (const int64_t same = first([&](uint32_t member) { return member == supplier && found(member); }); same >= 0)
    return same;
  const int64_t held =
      first([&](uint32_t member) { return found(member) && widened->keys[member].state == KeyState::kFound; });
  return held >= 0 ? held : first(found);
}

}  // namespace

absl::StatusOr<std::vector<std::vector<uint32_t>>> TiedGroupsOf(const Manifest& manifest, ModelNames& names,
                                                                PeriodicCheck& check) {
  std::vector<std::vector<uint32_t>> groups;
  groups.reserve(manifest.tied_groups.size());
  for (const TiedGroup& group : manifest.tied_groups) {
    KEYLOAD_RETURN_IF_ERROR(check.Check(1 + group.targets.size()));
    groups.push_back(Members(group, names));
  }
  return groups;
}

void ResolveTiedGroups(std::vector<std::vector<uint32_t>> groups, const KeyReport* widened, KeyReport& report) {
  std::vector<ModelKey>& keys = report.keys;
  uint64_t cut_off = 0;
  std::string first_cut_off;
  for (std::vector<uint32_t>& members : groups) {
    const auto unselected = [&](uint32_t member) {
      return keys[member].state == KeyState::kNotSelected && keys[member].stored >= 0;
    };
    const int64_t provider = ProviderOf(members, keys, widened);
    const auto withheld = std::find_if(members.begin(), members.end(), unselected);
    for (const uint32_t member : members) {
      ModelKey& key = keys[member];
      key.tied_group = static_cast<int32_t>(report.tied_groups.size());
      if (key.state != KeyState::kMissing) continue;
      if (provider >= 0) {
        key.state = KeyState::kTied;
        key.tied_to = provider;
      } else if (withheld != members.end() && cut_off++ == 0) {
        first_cut_off = absl::StrFormat("%s is tied to %s", key.name, keys[*withheld].name);
      }
    }
    report.tied_groups.push_back(std::move(members));
  }
  if (cut_off > 0) {
    report.warnings.push_back(absl::StrCat(
        cut_off, " missing keys are tied to stored keys that are not selected; the first: ", first_cut_off));
  }
}

}  // namespace keyload
