#pragma once

#include <cstdint>
#include <vector>

#include "server/keys/key_mapping.h"
#include "server/keys/reconcile.h"

namespace keyload {

// The groups of the manifest, as positions in KeyReport::keys, source first. What `check` says.
absl::StatusOr<std::vector<std::vector<uint32_t>>> TiedGroupsOf(const Manifest& manifest, ModelNames& names,
                                                                PeriodicCheck& check);

// Makes `groups` those of the report and supplies missing members: a kMissing key of a group becomes kTied to the
// group's source if that is kFound, else to its first kFound target. With `widened`, which has the same keys or is
// null: to the member that supplies the group there, else to the first that was kFound there. Warns where the only
// stored members are not selected. Call it once the states of `report.keys` are set, with ModelKey::stored still set
// for those that are stored but not selected.
void ResolveTiedGroups(std::vector<std::vector<uint32_t>> groups, const KeyReport* widened, KeyReport& report);

}  // namespace keyload
