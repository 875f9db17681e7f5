#include "server/base/weight_names.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr std::string_view kDigits = "0123456789";
constexpr std::string_view kIndexMiddle = ".safetensors.index.";
constexpr std::string_view kJson = ".json";

// The stem of "STEM-00002-of-00005", which is one of five; nothing for what is no part, or the only one.
std::optional<std::string_view> StemOfPart(std::string_view base) {
  const size_t of = base.rfind("-of-");
  if (of == std::string_view::npos) return std::nullopt;
  const std::string_view count = base.substr(of + 4);
  const std::string_view numbered = base.substr(0, of);
  const size_t dash = numbered.find_last_not_of(kDigits);
  if (count.empty() || count.find_first_not_of(kDigits) != std::string_view::npos || dash == std::string_view::npos ||
      dash + 1 == numbered.size() || numbered[dash] != '-') {
    return std::nullopt;
  }
  const std::string_view significant = count.substr(std::min(count.find_first_not_of('0'), count.size()));
  if (significant == "1") return std::nullopt;
  std::string_view stem = numbered.substr(0, dash);
  if (stem.ends_with(kSafetensorsSuffix)) stem.remove_suffix(kSafetensorsSuffix.size());
  return stem;
}

std::optional<WeightName> ParseIndexName(std::string_view name) {
  const size_t middle = name.rfind(kIndexMiddle);
  if (middle == std::string_view::npos) return std::nullopt;
  const size_t word_at = middle + kIndexMiddle.size();
  const std::string_view stem = name.substr(0, middle);
  if (name.substr(word_at) == kJson.substr(1)) return WeightName{WeightName::Form::kIndex, std::string(stem)};
  if (name.size() < word_at + kJson.size()) return std::nullopt;
  const std::string_view word = name.substr(word_at, name.size() - kJson.size() - word_at);
  if (!IsVariantWord(word)) return std::nullopt;
  return WeightName{WeightName::Form::kIndex, StrCat(stem, ".", word)};
}

}  // namespace

bool IsVariantWord(std::string_view word) {
  const auto is_part_of_word = [](char c) { return absl::ascii_isalnum(c) || c == '_'; };
  if (word.empty() || !absl::ascii_isalpha(word[0]) || !std::all_of(word.begin(), word.end(), is_part_of_word))
    return false;
  return word.size() < 2 || absl::ascii_tolower(word[0]) != 'v' || !absl::ascii_isdigit(word[1]);
}

std::optional<WeightName> ParseWeightName(std::string_view name) {
  if (name.empty() || name.front() == '.') return std::nullopt;
  if (name.ends_with(kJson)) return ParseIndexName(name);
  if (!name.ends_with(kSafetensorsSuffix)) return std::nullopt;
  const std::string_view base = name.substr(0, name.size() - kSafetensorsSuffix.size());
  if (const auto stem = StemOfPart(base)) return WeightName{WeightName::Form::kPart, std::string(*stem)};
  const size_t dot = base.rfind('.');
  if (dot != std::string_view::npos && IsVariantWord(base.substr(dot + 1))) {
    if (const auto stem = StemOfPart(base.substr(0, dot)))
      return WeightName{WeightName::Form::kPart, StrCat(*stem, base.substr(dot))};
  }
  return WeightName{WeightName::Form::kSingle, std::string(base)};
}

absl::StatusOr<std::vector<WeightSet>> SetsAmong(const std::vector<std::string>& names, const RequestContext& context) {
  std::vector<WeightSet> sets;
  absl::flat_hash_set<std::string> indexed;
  PeriodicCheck check(&context);
  for (const std::string& name : names) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    std::optional<WeightName> parsed = ParseWeightName(name);
    if (!parsed) continue;
    if (parsed->form == WeightName::Form::kIndex) indexed.insert(parsed->stem);
    sets.push_back({.form = parsed->form, .stem = std::move(parsed->stem), .file = name});
  }
  absl::flat_hash_map<std::string, size_t> parts;  // without an index, by stem
  std::erase_if(sets, [&](const WeightSet& set) {
    return set.form == WeightName::Form::kPart && (indexed.contains(set.stem) || ++parts[set.stem] > 1);
  });
  for (WeightSet& set : sets) {
    if (set.form == WeightName::Form::kPart) set.parts = parts[set.stem];
  }
  return sets;
}

absl::StatusOr<std::vector<WeightSet>> SetsThatCount(const std::vector<WeightSet>& sets,
                                                     const RequestContext& context) {
  absl::flat_hash_set<std::string_view> stems;
  stems.reserve(sets.size());
  for (const WeightSet& set : sets) stems.insert(set.stem);
  std::vector<WeightSet> plain;
  PeriodicCheck check(&context);
  for (const WeightSet& set : sets) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    std::string_view stem = set.stem;
    bool is_variant = false;
    for (size_t dot = stem.rfind('.'); !is_variant && dot != std::string_view::npos; dot = stem.rfind('.')) {
      if (!IsVariantWord(stem.substr(dot + 1))) break;
      stem = stem.substr(0, dot);
      is_variant = stems.contains(stem);
    }
    if (!is_variant) plain.push_back(set);
  }
  const auto is_index = [](const WeightSet& set) { return set.form == WeightName::Form::kIndex; };
  if (std::any_of(plain.begin(), plain.end(), is_index)) std::erase_if(plain, std::not_fn(is_index));
  return plain;
}

}  // namespace keyload
