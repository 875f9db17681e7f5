#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "server/base/request_context.h"
#include "server/keys/manifest.h"

namespace keyload {

// The layers of a model, modules with a matrix as their weight, and which tensors belong to them: in a manifest, in
// another one, and in a checkpoint, whose names may lack the base model's prefix or have it in addition. Names are
// split into a layer's and a suffix, of which there are few different ones. Borrows the manifests and all names.
class LayerTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Member {
    uint32_t suffix = 0;  // number of the suffix
    uint32_t at = 0;      // position in the tensors of the manifest or of the checkpoint
  };
  using Members = std::vector<Member>;
  struct Layer {
    std::string_view name;
    uint32_t group = 0;  // layers with the same last name: q_proj of all blocks
    Members plain, templated, stored;
  };
  struct Place {
    uint32_t layer = kNone;  // kNone: of no layer
    std::string_view suffix;
  };

  explicit LayerTable(const Manifest& plain);

  // Finds the layers of the manifest, and their tensors in it. The context's errors.
  absl::Status FindLayers(PeriodicCheck& check);
  // Adds what `manifest` has of each layer as its templated tensors.
  absl::Status AddTemplated(const Manifest& manifest, PeriodicCheck& check);
  // Adds a tensor of a checkpoint; false where it is of no layer. More of one layer than any method has are left out.
  bool AddStored(std::string_view name, uint32_t at);

  // The layer with the longest name that is a dotted prefix of the tensor's.
  Place PlaceOf(std::string_view tensor);

  const std::vector<Layer>& layers() const { return layers_; }
  size_t group_count() const { return group_count_; }
  std::string_view suffix(uint32_t number) const { return suffixes_[number]; }
  uint32_t weight() const { return weight_; }  // number of the suffix "weight"
  uint32_t bias() const { return bias_; }
  // Position of the member with that suffix, or kNone.
  static uint32_t Find(const Members& members, uint32_t suffix);

 private:
  std::optional<uint32_t> SuffixNumber(std::string_view suffix);
  absl::Status AddMembers(const Manifest& manifest, Members Layer::*members, PeriodicCheck& check);

  const Manifest& plain_;
  std::string prefix_;  // of the base model, with its dot
  std::string scratch_;
  std::vector<Layer> layers_;
  size_t group_count_ = 0;
  absl::flat_hash_map<std::string_view, uint32_t> by_name_;
  std::vector<std::string_view> suffixes_;
  absl::flat_hash_map<std::string_view, uint32_t> suffix_numbers_;
  uint32_t weight_ = 0, bias_ = 0;
};

}  // namespace keyload
