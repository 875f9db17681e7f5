#include "server/audit/numbered_lists.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr size_t kMaxListsOfName = 4;
constexpr size_t kMaxDigits = 6;
constexpr size_t kBytesOfId = 2 * (sizeof(std::string_view) + sizeof(uint32_t)) + sizeof(std::string_view);

// The number that a component is, as model code writes them: no sign, no leading zero.
std::optional<uint32_t> NumberOf(std::string_view component) {
  if (component.empty() || component.size() > kMaxDigits || (component.size() > 1 && component[0] == '0')) return {};
  uint32_t number = 0;
  const char* end = component.data() + component.size();
  const auto [rest, error] = std::from_chars(component.data(), end, number);
  if (error != std::errc() || rest != end) return {};
  return number;
}

// Numbers texts in the order in which they come.
class Ids {
 public:
  explicit Ids(std::vector<std::string_view>& texts) : texts_(texts) {}
  uint32_t Of(std::string_view text) {
    const auto [known, is_new] = ids_.try_emplace(ToAbsl(text), static_cast<uint32_t>(texts_.size()));
    if (is_new) texts_.push_back(text);
    return known->second;
  }

 private:
  absl::flat_hash_map<absl::string_view, uint32_t> ids_;
  std::vector<std::string_view>& texts_;
};

}  // namespace

bool IsAuditable(std::string_view name) {
  return name.size() <= kMaxAuditedNameBytes &&
         static_cast<size_t>(std::count(name.begin(), name.end(), '.')) < kMaxAuditedComponents;
}

uint64_t NumberedLists::MemoryBytes(std::span<const StoredTensor> tensors) {
  // A component may be a number in a list, and is a child of a module: an entry or an edge, and a name with its id.
  uint64_t components = 0;
  for (const StoredTensor& tensor : tensors) {
    if (IsAuditable(tensor.name)) components += 1 + std::count(tensor.name.begin(), tensor.name.end(), '.');
  }
  return components * (sizeof(Entry) + 2 * kBytesOfId);
}

absl::StatusOr<NumberedLists> NumberedLists::Collect(std::span<const StoredTensor> tensors,
                                                     const RequestContext& context) {
  NumberedLists lists;
  lists.tensors_ = tensors;
  Ids list_ids(lists.names_), rest_ids(lists.rests_);
  PeriodicCheck check(&context);
  for (uint32_t position = 0; position < tensors.size(); ++position) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    const std::string_view name = tensors[position].name;
    if (!IsAuditable(name)) continue;
    size_t found = 0;
    for (size_t begin = 0; found < kMaxListsOfName;) {
      const size_t dot = name.find('.', begin);
      if (dot == std::string_view::npos) break;
      if (const std::optional<uint32_t> number = NumberOf(name.substr(begin, dot - begin))) {
        lists.entries_.push_back({.list = list_ids.Of(name.substr(0, begin == 0 ? 0 : begin - 1)),
                                  .number = *number,
                                  .rest = rest_ids.Of(name.substr(dot + 1)),
                                  .tensor = position});
        ++found;
      }
      begin = dot + 1;
    }
  }
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  std::sort(lists.entries_.begin(), lists.entries_.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.list, a.number, a.rest) < std::tie(b.list, b.number, b.rest);
  });
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  for (size_t i = 0; i < lists.entries_.size(); ++i) {
    if (lists.entries_[i].list == lists.first_entry_.size()) lists.first_entry_.push_back(i);
  }
  lists.first_entry_.push_back(lists.entries_.size());
  return lists;
}

NumberedLists::List NumberedLists::At(size_t list) const {
  List result = {.name = names_[list], .members = {}};
  const std::span<const Entry> entries =
      std::span(entries_).subspan(first_entry_[list], first_entry_[list + 1] - first_entry_[list]);
  size_t with_modules = 0;
  for (size_t begin = 0; begin < entries.size();) {
    size_t end = begin;
    bool has_modules = false;
    for (; end < entries.size() && entries[end].number == entries[begin].number; ++end) {
      has_modules = has_modules || Rest(entries[end].rest).find('.') != std::string_view::npos;
    }
    result.members.push_back({.number = entries[begin].number, .entries = entries.subspan(begin, end - begin)});
    with_modules += has_modules;
    begin = end;
  }
  result.composed = with_modules * 2 > result.members.size();
  return result;
}

std::string MemberName(std::string_view list, uint32_t number) {
  return list.empty() ? StrCat(number) : StrCat(list, ".", number);
}

}  // namespace keyload
