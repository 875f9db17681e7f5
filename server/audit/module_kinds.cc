#include "server/audit/module_kinds.h"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "server/audit/numbered_lists.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/natural_order.h"

namespace keyload {
namespace {

using Children = std::vector<uint32_t>;

constexpr size_t kLikeModules = 3;  // that must have what one lacks
constexpr size_t kKindsOfName = 8;  // that are compared with, of one name
constexpr std::string_view kBias = "bias";

std::string_view LastComponent(std::string_view name) { return name.substr(name.rfind('.') + 1); }
std::string_view ParentOf(std::string_view name) { return name.substr(0, std::min(name.size(), name.rfind('.'))); }

// The modules of one name that have the same children.
struct KindOfModule {
  const Children* children = nullptr;
  uint32_t first = 0;  // module
  uint32_t count = 0;
};

class ModuleRules {
 public:
  ModuleRules(std::span<const StoredTensor> tensors, const RequestContext& context)
      : tensors_(tensors), context_(context), check_(&context) {}

  absl::StatusOr<std::vector<std::string>> Run() {
    KEYLOAD_RETURN_IF_ERROR(CollectModules());
    KEYLOAD_RETURN_IF_ERROR(CollectKinds());
    for (auto& [name, kinds] : kinds_of_name_) KEYLOAD_RETURN_IF_ERROR(CompareKinds(kinds));
    return std::move(lacking_);
  }

 private:
  struct Edge {
    uint32_t module = 0;
    uint32_t child = 0;
  };

  // Each key's module and those above it, each once.
  absl::Status CollectModules() {
    for (const StoredTensor& tensor : tensors_) {
      KEYLOAD_RETURN_IF_ERROR(check_.Check());
      if (!IsAuditable(tensor.name)) continue;
      bool is_new = true;
      for (std::string_view name = tensor.name; is_new && name.find('.') != std::string_view::npos;) {
        const std::string_view module = ParentOf(name);
        is_new = AddEdge(module, LastComponent(name));
        name = module;
      }
    }
    KEYLOAD_RETURN_IF_ERROR(context_.Check());
    std::sort(edges_.begin(), edges_.end(),
              [](const Edge& a, const Edge& b) { return std::tie(a.module, a.child) < std::tie(b.module, b.child); });
    return context_.Check();
  }

  // Whether the module is new.
  bool AddEdge(std::string_view module, std::string_view child) {
    const auto [at, is_new_module] = module_ids_.try_emplace(ToAbsl(module), static_cast<uint32_t>(modules_.size()));
    if (is_new_module) modules_.push_back(module);
    const auto [child_at, is_new_child] =
        child_ids_.try_emplace(ToAbsl(child), static_cast<uint32_t>(children_.size()));
    if (is_new_child) children_.push_back(child);
    edges_.push_back({.module = at->second, .child = child_at->second});
    return is_new_module;
  }

  absl::Status CollectKinds() {
    for (size_t begin = 0; begin < edges_.size();) {
      const uint32_t module = edges_[begin].module;
      Children children;
      bool numbered = IsNumberComponent(LastComponent(modules_[module]));
      bool has_bias = false;
      size_t end = begin;
      for (; end < edges_.size() && edges_[end].module == module; ++end) {
        const std::string_view child = children_[edges_[end].child];
        numbered = numbered || IsNumberComponent(child);
        has_bias = has_bias || child == kBias;
        if (children.empty() || children.back() != edges_[end].child) children.push_back(edges_[end].child);
      }
      KEYLOAD_RETURN_IF_ERROR(check_.Check(end - begin));
      begin = end;
      if (numbered) continue;
      if (has_bias) ++with_bias_[WithoutNumbers(modules_[module])];
      auto& kinds = kinds_of_name_[WithoutNumbers(LastComponent(modules_[module]))];
      KindOfModule& kind = kinds.try_emplace(std::move(children), KindOfModule{nullptr, module, 0}).first->second;
      ++kind.count;
    }
    return absl::OkStatus();
  }

  absl::Status CompareKinds(const absl::flat_hash_map<Children, KindOfModule>& by_children) {
    std::vector<KindOfModule> frequent;
    for (const auto& [children, kind] : by_children) {
      if (kind.count >= kLikeModules) frequent.push_back({&children, kind.first, kind.count});
    }
    const size_t compared = std::min(frequent.size(), kKindsOfName);
    std::partial_sort(frequent.begin(), frequent.begin() + static_cast<ptrdiff_t>(compared), frequent.end(),
                      [](const KindOfModule& a, const KindOfModule& b) {
                        return std::tie(b.count, a.first) < std::tie(a.count, b.first);
                      });
    frequent.resize(compared);
    for (const auto& [children, kind] : by_children) {
      KEYLOAD_RETURN_IF_ERROR(check_.Check(1 + children.size() / 8));
      if (kind.count == 1) CompareModule(kind.first, children, frequent);
    }
    return absl::OkStatus();
  }

  void CompareModule(uint32_t module, const Children& children, const std::vector<KindOfModule>& frequent) {
    Children nearest;
    for (const KindOfModule& other : frequent) {
      const Children& wanted = *other.children;
      if (wanted.size() <= children.size() || wanted.size() > 2 * children.size()) continue;
      if (!nearest.empty() && nearest.size() <= wanted.size() - children.size()) continue;
      if (!std::includes(wanted.begin(), wanted.end(), children.begin(), children.end())) continue;
      nearest.clear();
      std::set_difference(wanted.begin(), wanted.end(), children.begin(), children.end(), std::back_inserter(nearest));
    }
    if (nearest.size() > 1 && nearest.size() * 2 > children.size()) return;
    if (nearest.size() == 1 && children_[nearest.front()] == kBias) {
      const auto like = with_bias_.find(WithoutNumbers(modules_[module]));
      if (like == with_bias_.end() || like->second < kLikeModules) return;
    }
    for (const uint32_t child : nearest) lacking_.push_back(StrCat(modules_[module], ".", children_[child]));
  }

  const std::span<const StoredTensor> tensors_;
  const RequestContext& context_;
  PeriodicCheck check_;
  absl::flat_hash_map<absl::string_view, uint32_t> module_ids_, child_ids_;
  std::vector<std::string_view> modules_, children_;
  std::vector<Edge> edges_;
  absl::flat_hash_map<std::string, absl::flat_hash_map<Children, KindOfModule>> kinds_of_name_;
  absl::flat_hash_map<std::string, uint32_t> with_bias_;  // modules with a bias, by their name without numbers
  std::vector<std::string> lacking_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> LackingChildren(std::span<const StoredTensor> tensors,
                                                         const RequestContext& context) {
  return ModuleRules(tensors, context).Run();
}

}  // namespace keyload
