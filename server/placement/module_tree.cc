#include "server/placement/module_tree.h"

#include <algorithm>
#include <limits>

#include "absl/container/flat_hash_set.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/placement/name_trie.h"

namespace keyload {
namespace {

// Of the trie, the tree and what policies note for each item; lists that grow are there twice.
constexpr uint64_t kHeapPerModule = 2 * (sizeof(NameTrie::Node) + sizeof(TreeItem)) + 64;
constexpr size_t kModulesPerCount = 4096;

absl::Status CheckDepth(std::string_view name) {
  if (static_cast<size_t>(std::count(name.begin(), name.end(), '.')) < kMaxNameDepth) return absl::OkStatus();
  return MakeError(Reason::kDeviceMapInvalid,
                   StrCat("\"", name.substr(0, kNameInMessage), "\" has more than ", kMaxNameDepth,
                          " dotted components; device map policies take no deeper model"));
}

std::string_view ParentName(std::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : name.substr(0, dot);
}

std::string_view LastComponent(std::string_view name) { return name.substr(name.rfind('.') + 1); }

// For each key below `buckets`: the indices with that key, in order. The indices of key k are
// values[offsets[k] .. offsets[k + 1]).
struct Grouped {
  std::vector<uint32_t> offsets;
  std::vector<uint32_t> values;

  Grouped(size_t buckets, const std::vector<uint32_t>& key_of) : offsets(buckets + 1), values(key_of.size()) {
    for (const uint32_t key : key_of) {
      if (key != kNoItem) ++offsets[key + 1];
    }
    for (size_t i = 0; i < buckets; ++i) offsets[i + 1] += offsets[i];
    std::vector<uint32_t> next(offsets.begin(), offsets.end() - 1);
    for (uint32_t i = 0; i < key_of.size(); ++i) {
      if (key_of[i] != kNoItem) values[next[key_of[i]]++] = i;
    }
  }
};

class TreeBuilder {
 public:
  TreeBuilder(const PlacementModel& model, const RequestContext* context) : model_(model), context_(context) {}

  absl::Status AddNames() {
    const absl::flat_hash_set<std::string_view> no_split(model_.no_split_classes.begin(),
                                                         model_.no_split_classes.end());
    // Without a list of modules a guess: most have a tensor or two.
    trie_.Reserve(std::max(model_.modules.size(), model_.tensors.size() / 2) + 1);
    for (const ModuleSpec& module : model_.modules) {
      KEYLOAD_RETURN_IF_ERROR(CheckDepth(module.name));
      const uint32_t node = trie_.Insert(module.name);
      no_split_.resize(trie_.nodes().size());
      no_split_[node] = no_split.contains(module.class_name);
      KEYLOAD_RETURN_IF_ERROR(CountModules());
    }
    owner_.reserve(model_.tensors.size());
    std::string_view last_parent;
    uint32_t node = NameTrie::kRoot;
    for (const PlacementTensor& tensor : model_.tensors) {
      KEYLOAD_RETURN_IF_ERROR(CheckDepth(tensor.name));
      const std::string_view parent = ParentName(tensor.name);
      if (parent != last_parent) node = trie_.Insert(parent);
      last_parent = parent;
      KEYLOAD_RETURN_IF_ERROR(CountModules());
      owner_.push_back(node);
    }
    no_split_.resize(trie_.nodes().size());
    for (size_t i = 0; i < owner_.size(); ++i) {
      if (const auto same_name = trie_.Child(owner_[i], LastComponent(model_.tensors[i].name))) owner_[i] = *same_name;
    }
    return absl::OkStatus();
  }

  // A later member of a tied group weighs nothing.
  absl::Status CountBytes() {
    counted_.assign(model_.tensors.size(), true);
    for (const std::vector<uint32_t>& group : model_.tied_groups) {
      if (group.empty()) continue;
      const auto [first, last] = std::minmax_element(group.begin(), group.end());
      if (*last >= model_.tensors.size())
        return MakeError(Reason::kInternal, "a tied group names a tensor that does not exist");
      for (const uint32_t member : group) counted_[member] = counted_[member] && member == *first;
    }
    uint64_t total = 0;
    for (size_t i = 0; i < model_.tensors.size(); ++i) {
      if (!counted_[i]) continue;
      if (__builtin_add_overflow(total, model_.tensors[i].bytes, &total) ||
          total > std::numeric_limits<int64_t>::max()) {
        return MakeError(Reason::kDeviceMapInvalid, "the tensors' sizes add up to more than 2^63 - 1 bytes");
      }
    }
    return absl::OkStatus();
  }

  std::vector<TreeItem> Emit() {
    const std::vector<NameTrie::Node>& nodes = trie_.nodes();
    std::vector<uint32_t> parent_of(nodes.size(), kNoItem);
    for (uint32_t i = 1; i < nodes.size(); ++i) parent_of[i] = nodes[i].parent;
    const Grouped children(nodes.size(), parent_of);
    const Grouped tensors(nodes.size(), owner_);
    std::vector<TreeItem> items;
    items.reserve(nodes.size() + model_.tensors.size());
    std::vector<std::pair<uint32_t, uint32_t>> stack = {{NameTrie::kRoot, kNoItem}};  // node, item of its parent
    while (!stack.empty()) {
      const auto [node, parent] = stack.back();
      stack.pop_back();
      const uint32_t item = static_cast<uint32_t>(items.size());
      items.push_back({.name = nodes[node].name, .parent = parent, .no_split = no_split_[node]});
      items.back().has_modules = children.offsets[node] < children.offsets[node + 1];
      for (const bool buffer : {false, true}) EmitTensors(tensors, node, item, buffer, items);
      for (uint32_t i = children.offsets[node + 1]; i-- > children.offsets[node];)
        stack.emplace_back(children.values[i], item);
    }
    SumUp(items);
    return items;
  }

 private:
  void EmitTensors(const Grouped& tensors, uint32_t node, uint32_t parent, bool buffer,
                   std::vector<TreeItem>& items) const {
    for (uint32_t i = tensors.offsets[node]; i < tensors.offsets[node + 1]; ++i) {
      const uint32_t index = tensors.values[i];
      const PlacementTensor& tensor = model_.tensors[index];
      if (tensor.buffer != buffer) continue;
      const uint64_t bytes = counted_[index] ? tensor.bytes : 0;
      items.push_back({.name = tensor.name,
                       .parent = parent,
                       .tensor = index,
                       .buffer = buffer,
                       .counted_tensors = counted_[index] ? 1u : 0u,
                       .bytes = bytes,
                       .buffer_bytes = buffer ? bytes : 0});
    }
  }

  static void SumUp(std::vector<TreeItem>& items) {
    for (uint32_t i = static_cast<uint32_t>(items.size()); i-- > 0;) {
      items[i].end = std::max(items[i].end, i + 1);
      if (i == 0) break;
      TreeItem& parent = items[items[i].parent];
      parent.end = std::max(parent.end, items[i].end);
      parent.counted_tensors += items[i].counted_tensors;
      parent.bytes += items[i].bytes;
      parent.buffer_bytes += items[i].buffer_bytes;
    }
  }

  // A name adds at most kMaxNameDepth modules, so that the heap of so many is counted a little late.
  absl::Status CountModules() {
    if (context_ == nullptr || trie_.nodes().size() < counted_modules_ + kModulesPerCount) return absl::OkStatus();
    const size_t added = trie_.nodes().size() - counted_modules_;
    counted_modules_ += added;
    KEYLOAD_RETURN_IF_ERROR(context_->Check());
    return context_->TakeHeap(added * kHeapPerModule, "the tree of the model's modules");
  }

  const PlacementModel& model_;
  const RequestContext* const context_;
  size_t counted_modules_ = 0;
  NameTrie trie_;
  std::vector<bool> no_split_;   // per node of the trie
  std::vector<uint32_t> owner_;  // per tensor: the node of its module
  std::vector<bool> counted_;    // per tensor
};

}  // namespace

absl::StatusOr<ModuleTree> ModuleTree::Create(const PlacementModel& model, const RequestContext* context) {
  TreeBuilder builder(model, context);
  KEYLOAD_RETURN_IF_ERROR(builder.AddNames());
  KEYLOAD_RETURN_IF_ERROR(builder.CountBytes());
  ModuleTree tree;
  tree.items_ = builder.Emit();
  tree.item_of_.resize(model.tensors.size());
  for (uint32_t i = 0; i < tree.items_.size(); ++i) {
    if (!tree.items_[i].is_module()) tree.item_of_[tree.items_[i].tensor] = i;
  }
  return tree;
}

}  // namespace keyload
