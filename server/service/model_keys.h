#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/keys/key_selection.h"
#include "server/lifecycle/model_registry.h"
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

// Walks the selected keys of a model, expected and unexpected, in natural order, without a list of them: the order of
// all keys is made once for each model, and a cursor is a place in it. A stream that its client does not read costs no
// more than that. Non-persistent buffers are no keys. Confine to one thread at a time.
class KeyCursor {
 public:
  enum class Of { kAll, kWithBytes };
  KeyCursor(ModelHandle model, KeySelection selection, Of of);

  // Numbers of the next keys, at most `most`; none at the end. LOAD_CANCELLED, DEADLINE_EXCEEDED.
  absl::StatusOr<std::vector<uint32_t>> Next(size_t most, const RequestContext& context);

 private:
  bool Selects(uint32_t number) const;

  const ModelHandle model_;
  const KeySelection selection_;
  const Of of_;
  size_t next_ = 0;  // in the natural order
};

// The key of a number that a cursor gave: an index into KeyReport::keys, or behind those one into
// KeyReport::unexpected. `states` are those of the model's residency, or null: then what may be resident is LAZY.
ListedKey DescribeKey(const ResidentModel& model, const std::vector<Residency::State>* states, uint32_t number);

// Whether every key that is named exactly has bytes to read: KEY_NOT_FOUND, KEY_NOT_RESIDENT, LOAD_CANCELLED,
// DEADLINE_EXCEEDED.
absl::Status CheckNamedKeys(const ResidentModel& model, const KeySelection& selection, const RequestContext& context);

// What Selects may cost over all names of the model: see KeySelection::CheckWork. To be asked before a cursor is made.
absl::Status CheckWork(const KeyReport& keys, const KeySelection& selection);

}  // namespace keyload
