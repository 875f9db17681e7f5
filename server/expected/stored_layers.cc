#include "server/expected/stored_layers.h"

#include <algorithm>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"
#include "server/checkpoint/natural_order.h"
#include "server/expected/layer_table.h"

namespace keyload {
namespace {

using Layer = LayerTable::Layer;
using Member = LayerTable::Member;
using SuffixSet = std::vector<uint32_t>;  // numbers of suffixes, sorted

constexpr uint32_t kNone = LayerTable::kNone;
constexpr size_t kLeastForeign = 4;
// Scales of the key and value cache, which some tools store beside the layers.
constexpr std::string_view kCacheScales = R"(attn(ention)?\.[kqv]_(scale|zero_point)$)";

bool IsFloat(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

bool IsQuantised(DType dtype) {
  return !IsFloat(dtype) && dtype != DType::kBool && dtype != DType::kI64 && dtype != DType::kU64 &&
         dtype != DType::kC64;
}

SuffixSet SetOf(const LayerTable::Members& members) {
  SuffixSet set;
  for (const Member& member : members) set.push_back(member.suffix);
  std::sort(set.begin(), set.end());
  return set;
}

bool Includes(const SuffixSet& all, const SuffixSet& some) {
  return std::includes(all.begin(), all.end(), some.begin(), some.end());
}

std::string_view ModuleOf(std::string_view tensor) {
  const size_t dot = tensor.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : tensor.substr(0, dot);
}

enum class Storage : uint8_t { kNothing, kFloat, kQuantised };

// Layers with the same last name, which store the same if they are quantised.
struct Group {
  size_t in_float = 0;
  size_t quantised = 0;
  absl::flat_hash_map<SuffixSet, size_t> sets;  // of the quantised ones
  SuffixSet usual;                              // the set that most have, of equal ones the largest
};

class Follower {
 public:
  Follower(const Manifest& plain, const Manifest* quantised, const CheckpointIndex& index,
           const RequestContext* context)
      : plain_(plain), templated_(quantised), index_(index), check_(context), table_(plain) {}

  absl::StatusOr<StoredLayers> Run(bool named) {
    KEYLOAD_RETURN_IF_ERROR(table_.FindLayers(check_));
    if (templated_ != nullptr) KEYLOAD_RETURN_IF_ERROR(table_.AddTemplated(*templated_, check_));
    KEYLOAD_RETURN_IF_ERROR(FindStored());
    KEYLOAD_RETURN_IF_ERROR(FormGroups());
    StoredLayers result;
    if (templated_ != nullptr && quantised_layers_ > 0) {
      KEYLOAD_ASSIGN_OR_RETURN(const bool fits, TemplateFits());
      if (fits) return result;
    }
    const bool elsewhere = empty_layers_ > 0 && foreign_ >= std::max(kLeastForeign, empty_layers_);
    if (elsewhere && (named || quantised_layers_ > 0)) return NotUnderstood();
    if (quantised_layers_ == 0) return result;
    result.verdict = StoredLayers::Verdict::kFollowed;
    result.summary = StrCat(quantised_layers_, " of ", table_.layers().size(), " layers are quantised, as ", Example(),
                            "; each is expected to have what the layers like it have");
    KEYLOAD_RETURN_IF_ERROR(Follow(result.manifest));
    return result;
  }

 private:
  absl::Status FindStored() {
    // A layer more than the model has is no other name.
    absl::flat_hash_set<std::string> expected;
    for (const TensorSpec& tensor : plain_.tensors) expected.insert(WithoutNumbers(ModuleOf(tensor.name)));
    for (uint32_t i = 0; i < index_.tensors().size(); ++i) {
      KEYLOAD_RETURN_IF_ERROR(check_.Check());
      const StoredTensor& tensor = index_.tensors()[i];
      if (table_.AddStored(tensor.name, i)) continue;
      if (!IsQuantised(tensor.dtype) || tensor.shape.size() < 2) continue;
      if (expected.contains(WithoutNumbers(ModuleOf(tensor.name)))) continue;
      if (foreign_++ == 0) first_foreign_ = tensor.name;
    }
    storage_.reserve(table_.layers().size());
    for (const Layer& layer : table_.layers()) storage_.push_back(StorageOf(layer));
    return absl::OkStatus();
  }

  Storage StorageOf(const Layer& layer) const {
    Storage storage = Storage::kNothing;
    for (const Member& member : layer.stored) {
      const bool is_weight = member.suffix == table_.weight();
      // A router's correction, say, belongs to the layer whether or not it is quantised.
      const bool of_model = LayerTable::Find(layer.plain, member.suffix) != kNone;
      if (member.suffix == table_.bias() || (of_model && !is_weight)) continue;
      if (!is_weight || !IsFloat(index_.tensors()[member.at].dtype)) return Storage::kQuantised;
      storage = Storage::kFloat;
    }
    return storage;
  }
  Storage StorageAt(const Layer& layer) const { return storage_[static_cast<size_t>(&layer - table_.layers().data())]; }

  absl::Status FormGroups() {
    groups_.resize(table_.group_count());
    for (const Layer& layer : table_.layers()) {
      KEYLOAD_RETURN_IF_ERROR(check_.Check());
      Group& group = groups_[layer.group];
      const Storage storage = StorageAt(layer);
      empty_layers_ += storage == Storage::kNothing;
      group.in_float += storage == Storage::kFloat;
      if (storage != Storage::kQuantised) continue;
      if (quantised_layers_++ == 0) example_ = &layer;
      ++group.quantised;
      ++group.sets[SetOf(layer.stored)];
    }
    for (Group& group : groups_) {
      size_t most = 0;
      for (const auto& [set, count] : group.sets) {
        if (std::tuple(count, set.size(), set) <= std::tuple(most, group.usual.size(), group.usual)) continue;
        most = count;
        group.usual = set;
      }
    }
    return absl::OkStatus();
  }

  bool IsTemplated(const Layer& layer) const {
    if (SetOf(layer.templated) != SetOf(layer.plain)) return true;
    const uint32_t a = LayerTable::Find(layer.templated, table_.weight()),
                   b = LayerTable::Find(layer.plain, table_.weight());
    return a != kNone && templated_->tensors[a].dtype != plain_.tensors[b].dtype;
  }

  bool HasTemplatedShapes(const Layer& layer) const {
    return std::all_of(layer.stored.begin(), layer.stored.end(), [&](const Member& member) {
      const uint32_t at = LayerTable::Find(layer.templated, member.suffix);
      return at == kNone || templated_->tensors[at].shape == index_.tensors()[member.at].shape;
    });
  }

  // Whether the template is right about the layers as a whole: what single ones lack is missing then.
  absl::StatusOr<bool> TemplateFits() {
    size_t fitting = 0, other = 0, more = 0, other_shape = 0;
    for (const Layer& layer : table_.layers()) {
      KEYLOAD_RETURN_IF_ERROR(check_.Check());
      const Group& group = groups_[layer.group];
      const bool templated = IsTemplated(layer);
      if (templated && group.quantised == 0 && group.in_float > 0) return false;
      if (StorageAt(layer) != Storage::kQuantised) continue;
      if (!templated) return false;
      const SuffixSet stored = SetOf(layer.stored), wanted = SetOf(layer.templated);
      const bool whole = Includes(stored, wanted);
      fitting += whole;
      more += whole && stored.size() > wanted.size();
      other += !whole && !Includes(wanted, stored);
      other_shape += whole && !HasTemplatedShapes(layer);
    }
    shapes_fit_ = fitting > 0 && 2 * other_shape <= fitting;
    return shapes_fit_ && 10 * other <= fitting && 2 * more < fitting;
  }

  // What `layer` must have; the plain tensors where it is none of the quantised ones.
  SuffixSet ExpectedOf(const Layer& layer) const {
    const Group& group = groups_[layer.group];
    if (StorageAt(layer) == Storage::kFloat || group.quantised == 0) return {};
    if (StorageAt(layer) == Storage::kNothing) return group.in_float > group.quantised ? SuffixSet() : group.usual;
    SuffixSet own = SetOf(layer.stored);
    // So many layers that store the same are no accident.
    const size_t enough = std::max<size_t>(2, group.quantised / 20);
    const bool lacks = group.sets.at(own) < enough && Includes(group.usual, own);
    return lacks ? group.usual : own;
  }

  // Of a tensor that `layer` does not store: as a layer of the same size in its group has it, else as another one has.
  const StoredTensor* FindLike(const Layer& layer, uint32_t suffix) {
    const Shape& shape = plain_.tensors[LayerTable::Find(layer.plain, table_.weight())].shape;
    if (like_.empty()) {
      for (const Layer& other : table_.layers()) {
        if (StorageAt(other) != Storage::kQuantised) continue;
        const Shape& size = plain_.tensors[LayerTable::Find(other.plain, table_.weight())].shape;
        for (const Member& member : other.stored) {
          like_.try_emplace(std::tuple(other.group, member.suffix, size[0], size[1]), member.at);
          like_.try_emplace(std::tuple(other.group, member.suffix, kAnySize, kAnySize), member.at);
        }
      }
    }
    for (const auto& [rows, columns] : {std::pair(shape[0], shape[1]), std::pair(kAnySize, kAnySize)}) {
      const auto found = like_.find(std::tuple(layer.group, suffix, rows, columns));
      if (found != like_.end()) return &index_.tensors()[found->second];
    }
    return nullptr;
  }

  void AddTensor(const Layer& layer, uint32_t suffix, Manifest& manifest) {
    TensorSpec tensor = {.name = StrCat(layer.name, ".", table_.suffix(suffix))};
    const uint32_t own = LayerTable::Find(layer.stored, suffix), templated = LayerTable::Find(layer.templated, suffix);
    const StoredTensor* stored = own != kNone ? &index_.tensors()[own] : FindLike(layer, suffix);
    if (templated != kNone && (shapes_fit_ || stored == nullptr)) {
      tensor.dtype = templated_->tensors[templated].dtype;
      tensor.shape = templated_->tensors[templated].shape;
    } else if (stored != nullptr) {
      tensor.dtype = stored->dtype;
      tensor.shape = stored->shape;
    } else {
      return;
    }
    manifest.tensors.push_back(std::move(tensor));
  }

  absl::Status Follow(Manifest& manifest) {
    const Manifest& base = templated_ != nullptr ? *templated_ : plain_;
    manifest.architecture = base.architecture;
    manifest.base_model_prefix = base.base_model_prefix;
    manifest.modules = base.modules;
    manifest.no_split_modules = base.no_split_modules;
    manifest.ignore_missing = base.ignore_missing;
    manifest.ignore_unexpected = base.ignore_unexpected;
    manifest.ignore_unexpected.emplace_back(kCacheScales);
    manifest.renames = base.renames;
    absl::flat_hash_set<std::string_view> supplied = TiedNamesThatAreSupplied(manifest);
    for (const TensorSpec& tensor : plain_.tensors) {
      KEYLOAD_RETURN_IF_ERROR(check_.Check());
      const LayerTable::Place place = table_.PlaceOf(tensor.name);
      const SuffixSet expected = place.layer == kNone ? SuffixSet() : ExpectedOf(table_.layers()[place.layer]);
      if (expected.empty()) {
        if (!supplied.contains(tensor.name)) manifest.tensors.push_back(tensor);
        continue;
      }
      const Layer& layer = table_.layers()[place.layer];
      if (place.suffix != "weight") {  // a bias, or whatever else the model has
        manifest.tensors.push_back(tensor);
        continue;
      }
      if (supplied.contains(tensor.name)) continue;
      for (const uint32_t member : expected) {
        const bool comes_by_itself = member != table_.weight() && LayerTable::Find(layer.plain, member) != kNone;
        if (!comes_by_itself) AddTensor(layer, member, manifest);
      }
    }
    return absl::OkStatus();
  }

  // Tied layers share all their tensors, not only the weight. Where one is quantised, the names of those that are not
  // stored are left out, as the one that is supplies them; groups of layers in floating point stay what they are.
  absl::flat_hash_set<std::string_view> TiedNamesThatAreSupplied(Manifest& manifest) {
    absl::flat_hash_set<std::string_view> supplied;
    for (const TiedGroup& group : plain_.tied_groups) {
      std::vector<std::string_view> names(group.targets.begin(), group.targets.end());
      names.push_back(group.source);
      bool quantised = false;
      std::vector<std::string_view> absent;
      for (const std::string_view name : names) {
        const uint32_t layer = table_.PlaceOf(name).layer;
        const Storage storage = layer == kNone ? Storage::kFloat : storage_[layer];
        quantised |= storage == Storage::kQuantised;
        if (storage == Storage::kNothing) absent.push_back(name);
      }
      if (quantised) {
        supplied.insert(absent.begin(), absent.end());
      } else {
        manifest.tied_groups.push_back(group);
      }
    }
    return supplied;
  }

  StoredLayers NotUnderstood() const {
    return {.verdict = StoredLayers::Verdict::kNotUnderstood,
            .manifest = {},
            .summary = StrCat(foreign_, " quantised tensors are under names that such a model does not have, as ",
                              Shortened(first_foreign_))};
  }

  std::string Example() const {
    std::string names;
    for (const Member& member : example_->stored) {
      StrAppend(&names, names.empty() ? "" : ", ", Shortened(table_.suffix(member.suffix)));
      if (names.size() > 200) break;
    }
    return StrCat(Shortened(example_->name), " with ", names);
  }

  static constexpr uint64_t kAnySize = UINT64_MAX;

  const Manifest& plain_;
  const Manifest* const templated_;
  const CheckpointIndex& index_;
  PeriodicCheck check_;
  LayerTable table_;
  std::vector<Storage> storage_;  // of the layers
  std::vector<Group> groups_;
  // Group, suffix, rows and columns of the plain weight to a stored tensor.
  absl::flat_hash_map<std::tuple<uint32_t, uint32_t, uint64_t, uint64_t>, uint32_t> like_;
  const Layer* example_ = nullptr;
  std::string_view first_foreign_;
  size_t foreign_ = 0;
  size_t empty_layers_ = 0;
  size_t quantised_layers_ = 0;
  bool shapes_fit_ = false;
};

}  // namespace

bool StoresQuantisedTensors(const CheckpointIndex& index) {
  return std::any_of(index.tensors().begin(), index.tensors().end(),
                     [](const StoredTensor& tensor) { return IsQuantised(tensor.dtype); });
}

absl::StatusOr<StoredLayers> FollowStoredLayers(const Manifest& plain, const Manifest* quantised, bool named,
                                                const CheckpointIndex& index, const RequestContext* context) {
  return Follower(plain, quantised, index, context).Run(named);
}

}  // namespace keyload
