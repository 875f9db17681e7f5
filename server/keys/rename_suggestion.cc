#include "server/keys/rename_suggestion.h"

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_replace.h"
#include "re2/re2.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"

namespace keyload {
namespace {

constexpr size_t kMostSpare = 512;
constexpr size_t kMostChanges = 4;
constexpr size_t kMostLeading = 6;  // components that a prefix may have
constexpr size_t kMostComponents = 16;
constexpr size_t kMostVotes = 4'096;  // for different changes
constexpr size_t kMostRepeats = 4;
constexpr uint64_t kCostOfName = 8;  // for PeriodicCheck
constexpr char kMask = '\1';

bool IsNumber(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::vector<std::string_view> ComponentsOf(std::string_view name) {
  std::vector<std::string_view> components;
  for (size_t begin = 0; components.size() < kMostComponents;) {
    const size_t end = std::min(name.find('.', begin), name.size());
    components.push_back(name.substr(begin, end - begin));
    if (end == name.size()) break;
    begin = end + 1;
  }
  return components;
}

bool HasNumber(std::string_view prefix) {
  const std::vector<std::string_view> components = ComponentsOf(prefix);
  return std::any_of(components.begin(), components.end(), IsNumber);
}

// `name` without the components that are `component`; the last one stays.
std::string Without(std::string_view name, std::string_view component, size_t& count) {
  std::string result;
  count = 0;
  for (size_t begin = 0;;) {
    const size_t dot = name.find('.', begin);
    if (dot == std::string_view::npos) return result.append(name.substr(begin));
    if (name.substr(begin, dot - begin) == component) {
      ++count;
    } else {
      result.append(name.substr(begin, dot + 1 - begin));
    }
    begin = dot + 1;
  }
}

// `name` with `text` in the place of `component`, which is a part of it.
std::string With(std::string_view name, std::string_view component, std::string_view text) {
  const auto at = static_cast<size_t>(component.data() - name.data());
  return StrCat(name.substr(0, at), text, name.substr(at + component.size()));
}

std::string Quoted(std::string_view text) { return re2::RE2::QuoteMeta(re2::StringPiece(text.data(), text.size())); }
std::string AsReplacement(std::string_view text) { return absl::StrReplaceAll(ToAbsl(text), {{"\\", "\\\\"}}); }

struct Change {
  enum class Kind : uint8_t { kPrefix, kRemove, kExchange };
  Kind kind = Kind::kPrefix;
  std::string from, to;
  bool operator==(const Change&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const Change& change) {
    return H::combine(std::move(h), change.kind, change.from, change.to);
  }

  bool Replaces() const { return !from.empty() && !to.empty(); }

  // Returns how often it applied.
  size_t Apply(std::string& name) const {
    if (kind == Kind::kPrefix) {
      if (!name.starts_with(from)) return 0;
      name.replace(0, from.size(), to);
      return 1;
    }
    if (kind == Kind::kRemove) {
      size_t count = 0;
      name = Without(name, from, count);
      return count;
    }
    for (const std::string_view component : ComponentsOf(name)) {
      if (component != from) continue;
      name = With(name, component, to);
      return 1;
    }
    return 0;
  }

  Rename AsRename() const {
    if (kind == Kind::kPrefix) return {.pattern = StrCat("^", Quoted(from)), .replacement = AsReplacement(to)};
    if (kind == Kind::kRemove) return {.pattern = StrCat(R"((^|\.))", Quoted(from), R"(\.)"), .replacement = R"(\1)"};
    return {.pattern = StrCat(R"((^|\.))", Quoted(from), R"((\.|$))"),
            .replacement = StrCat(R"(\1)", AsReplacement(to), R"(\2)")};
  }

  std::string Describe() const {
    if (kind == Kind::kRemove) return StrCat("with \"", Shortened(from), ".\" in them");
    if (kind == Kind::kExchange) return StrCat("with \"", Shortened(from), "\" for \"", Shortened(to), "\"");
    if (to.empty()) return StrCat("with the prefix \"", Shortened(from), "\"");
    if (from.empty()) return StrCat("without the prefix \"", Shortened(to), "\"");
    return StrCat("with the prefix \"", Shortened(from), "\" for \"", Shortened(to), "\"");
  }
};

// The names of a round, as they can be looked up: whole, without leading components, without one component, with one
// masked.
class SpareNames {
 public:
  SpareNames(const std::vector<std::string>& names, const std::vector<const Shape*>& shapes) : shapes_(shapes) {
    for (uint32_t i = 0; i < names.size(); ++i) Add(i, names[i]);
  }

  // The change that makes one of the names `name`; nothing, or one that changes nothing.
  std::optional<Change> FindChange(const NamedShape& lacking) const {
    const std::string_view name = lacking.name;
    size_t begin = 0;
    for (size_t leading = 0; leading <= kMostLeading; ++leading) {
      if (const Spare* spare = Find(tails_, name.substr(begin), *lacking.shape)) {
        if (std::optional<Change> change = PrefixChange(spare->part, name, begin)) return change;
      }
      const size_t dot = name.find('.', begin);
      if (dot == std::string_view::npos) break;
      begin = dot + 1;
    }
    if (const Spare* spare = Find(shorter_, ToAbsl(name), *lacking.shape))
      return Change{.kind = Change::Kind::kRemove, .from = std::string(spare->part), .to = ""};
    for (const std::string_view component : ComponentsOf(name)) {
      if (component.empty() || IsNumber(component)) continue;
      const Spare* spare = Find(masked_, With(name, component, std::string_view(&kMask, 1)), *lacking.shape);
      if (spare == nullptr || IsNumber(spare->part)) continue;
      return Change{.kind = Change::Kind::kExchange, .from = std::string(spare->part), .to = std::string(component)};
    }
    return std::nullopt;
  }

 private:
  struct Spare {
    uint32_t name = 0;
    std::string_view part;  // what was left out of the name
  };
  template <typename Key>
  using Names = absl::flat_hash_map<Key, Spare>;

  void Add(uint32_t number, std::string_view name) {
    size_t begin = 0;
    for (size_t leading = 0; leading <= kMostLeading; ++leading) {
      tails_.try_emplace(name.substr(begin), Spare{number, name.substr(0, begin)});
      const size_t dot = name.find('.', begin);
      if (dot == std::string_view::npos) break;
      begin = dot + 1;
    }
    for (const std::string_view component : ComponentsOf(name)) {
      if (component.empty() || IsNumber(component)) continue;
      size_t count = 0;
      std::string shorter = Without(name, component, count);
      if (count > 0) shorter_.try_emplace(std::move(shorter), Spare{number, component});
      masked_.try_emplace(With(name, component, std::string_view(&kMask, 1)), Spare{number, component});
    }
  }

  template <typename Key, typename Name>
  const Spare* Find(const Names<Key>& names, const Name& name, const Shape& shape) const {
    const auto found = names.find(name);
    return found != names.end() && *shapes_[found->second.name] == shape ? &found->second : nullptr;
  }

  // `from` stands for the first `length` bytes of `name`. What both have between numbers is another layer, not another
  // name; a last component alone is in many names.
  static std::optional<Change> PrefixChange(std::string_view from, std::string_view name, size_t length) {
    const std::string_view to = name.substr(0, length);
    const bool both = !from.empty() && !to.empty();
    if (both && (HasNumber(from) || HasNumber(to))) return std::nullopt;
    if (both && name.find('.', length) == std::string_view::npos) return std::nullopt;
    return Change{.kind = Change::Kind::kPrefix, .from = std::string(from), .to = std::string(to)};
  }

  const std::vector<const Shape*>& shapes_;
  Names<std::string_view> tails_;
  Names<std::string> shorter_, masked_;
};

// The change that most of `lacking` ask for; nothing where all are there already, or none can be had.
absl::StatusOr<std::optional<Change>> BestChange(std::span<const NamedShape> lacking, const SpareNames& spare,
                                                 PeriodicCheck& check) {
  absl::flat_hash_map<Change, size_t> votes;
  for (const NamedShape& name : lacking) {
    KEYLOAD_RETURN_IF_ERROR(check.Check(kCostOfName));
    std::optional<Change> change = spare.FindChange(name);
    if (!change || change->from == change->to) continue;
    if (votes.size() < kMostVotes || votes.contains(*change)) ++votes[*std::move(change)];
  }
  const Change* best = nullptr;
  size_t most = 0;
  for (const auto& [change, count] : votes) {
    if (change.Replaces() && count < 2) continue;
    const auto rank = [](const Change& of, size_t number) {
      return std::tuple(number, -static_cast<int64_t>(of.from.size() + of.to.size()), of.from, of.to);
    };
    if (best != nullptr && rank(change, count) <= rank(*best, most)) continue;
    best = &change;
    most = count;
  }
  return best == nullptr ? std::nullopt : std::optional(*best);
}

}  // namespace

absl::StatusOr<RenameSuggestion> SuggestRenames(std::span<const NamedShape> lacking, std::span<const NamedShape> spare,
                                                PeriodicCheck& check) {
  RenameSuggestion suggestion;
  std::vector<std::string> names;
  std::vector<const Shape*> shapes;
  const size_t count = std::min(spare.size(), kMostSpare);
  for (size_t i = 0; i < count; ++i) {
    const NamedShape& taken = spare[i * spare.size() / count];
    names.emplace_back(taken.name);
    shapes.push_back(taken.shape);
  }
  for (size_t changes = 0; changes < kMostChanges && !names.empty() && !lacking.empty(); ++changes) {
    KEYLOAD_ASSIGN_OR_RETURN(const std::optional<Change> change, BestChange(lacking, SpareNames(names, shapes), check));
    if (!change) break;
    size_t repeats = 1;
    for (std::string& name : names) repeats = std::max(repeats, std::min(change->Apply(name), kMostRepeats));
    suggestion.renames.insert(suggestion.renames.end(), repeats, change->AsRename());
    StrAppend(&suggestion.what, suggestion.what.empty() ? "" : ", and ", change->Describe());
    suggestion.replaces |= change->Replaces();
  }
  return suggestion;
}

std::string RenameFlags(std::span<const Rename> renames) {
  std::string flags;
  for (const Rename& rename : renames) {
    StrAppend(&flags, flags.empty() ? "" : " ", "--rename '", Shortened(rename.pattern), "=>",
              Shortened(rename.replacement), "'");
  }
  return flags;
}

}  // namespace keyload
