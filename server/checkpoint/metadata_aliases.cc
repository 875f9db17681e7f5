#include "server/checkpoint/metadata_aliases.h"

#include "absl/container/flat_hash_set.h"
#include "server/base/error.h"
#include "server/checkpoint/json_checks.h"

namespace keyload {
namespace {

constexpr std::string_view kFormatEntry = "format";  // in most files, and never a tensor
constexpr uint64_t kBytesOfEntry = 256;              // the entry, its places in tables, and an alias

}  // namespace

absl::Status MetadataAliases::Add(std::string_view name, std::string_view text, HeaderCharge* charge,
                                  std::string_view file) {
  if (name.empty() || name == kFormatEntry || KeyProblem(name) != nullptr || KeyProblem(text) != nullptr) return absl::OkStatus();
  if (charge != nullptr) KEYLOAD_RETURN_IF_ERROR(charge->Add(kBytesOfEntry + name.size() + text.size(), file));
  entries_.emplace_back(name, text);
  return absl::OkStatus();
}

std::shared_ptr<const StoredAliases> MetadataAliases::Find(std::span<const StoredTensor> tensors) const {
  if (entries_.empty()) return nullptr;
  absl::flat_hash_set<std::string_view> names, texts, stored, taken;
  for (const auto& [name, text] : entries_) {
    names.insert(name);
    texts.insert(text);
  }
  for (const StoredTensor& tensor : tensors) {
    if (texts.contains(tensor.name)) stored.insert(tensor.name);
    if (names.contains(tensor.name)) taken.insert(tensor.name);
  }
  auto aliases = std::make_shared<StoredAliases>();
  for (const auto& [name, text] : entries_) {
    if (!stored.contains(text) || !taken.insert(name).second) continue;
    aliases->push_back({.alias = std::string(name), .stored = std::string(text)});
  }
  return aliases->empty() ? nullptr : std::shared_ptr<const StoredAliases>(std::move(aliases));
}

}  // namespace keyload
