#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/keys/key_selection.h"
#include "server/store/resident_model.h"

namespace keyload {

// What a key of a loaded model is, to those who ask.
enum class ListedState { kResident, kLazy, kMissing, kUnexpected, kMismatched, kIgnored, kNotSelected };

// One key of a loaded model. The views live as long as the model.
struct ListedKey {
  std::string_view key;
  ListedState state = ListedState::kResident;
  DType dtype = DType::kF32;  // as it is held; expected or stored for keys without data
  Shape shape;                // expected; as stored for unexpected keys
  std::string_view device;    // empty for keys without a place
  std::string_view shard;     // empty for keys without data
  uint64_t file_offset = 0;
  uint64_t bytes = 0;
  std::string_view tied_to;  // who supplies the bytes
  int64_t index = -1;        // into KeyReport::keys; -1 for unexpected ones
};

// What Selects may cost over all names of the model: see KeySelection::CheckWork.
absl::Status CheckWork(const KeyReport& keys, const KeySelection& selection);

// All keys that `selection` selects, expected and unexpected, in natural order. Non-persistent buffers are none.
// `context` is asked now and then; null: never. PATTERN_INVALID when the selection's globs are too much for the model,
// LOAD_CANCELLED, DEADLINE_EXCEEDED.
absl::StatusOr<std::vector<ListedKey>> ListKeys(const ResidentModel& model, const KeySelection& selection,
                                                const RequestContext* context = nullptr);

// The keys to read: every selected key that has bytes; a key that is named exactly must have them: KEY_NOT_FOUND,
// KEY_NOT_RESIDENT; what ListKeys returns.
absl::StatusOr<std::vector<ListedKey>> KeysToRead(const ResidentModel& model, const KeySelection& selection,
                                                  const RequestContext* context = nullptr);

}  // namespace keyload
