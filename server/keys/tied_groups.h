#pragma once

#include "server/keys/key_mapping.h"
#include "server/keys/reconcile.h"

namespace keyload {

// Fills `report.tied_groups` and supplies missing members: a kMissing key of a group becomes kTied to the group's
// source if that is kFound, else to its first kFound target. With `widened`, which has the same keys or is null: to the
// member that supplies the group there, else to the first that was kFound there. Warns where the only stored members
// are not selected. Call it once the states of `report.keys` are set, with ModelKey::stored still set for those that
// are stored but not selected.
// What `check` says.
absl::Status ResolveTiedGroups(const Manifest& manifest, ModelNames& names, const KeyReport* widened,
                               PeriodicCheck& check, KeyReport& report);

}  // namespace keyload
