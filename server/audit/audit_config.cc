#include "server/audit/audit_config.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"

namespace keyload {
namespace {

using Names = std::span<const std::string_view>;

constexpr std::string_view kLayerCounts[] = {"num_hidden_layers", "n_layer", "n_layers", "num_layers"};
constexpr std::string_view kExpertCounts[] = {"num_experts", "num_local_experts", "n_routed_experts",
                                              "moe_num_experts"};
constexpr std::string_view kLayerLists[] = {"layers", "layer", "h", "blocks", "block"};
constexpr std::string_view kExpertLists[] = {"experts"};
constexpr std::string_view kPartsOfConfig[] = {"text_config", "language_config", "llm_config"};
constexpr std::string_view kWriters[] = {"ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM"};
constexpr std::string_view kHeads[] = {"ForCausalLM", "LMHeadModel"};

bool IsOneOf(std::string_view name, Names names) { return std::find(names.begin(), names.end(), name) != names.end(); }

bool EndsWithOneOf(std::string_view name, Names suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(), [&](std::string_view suffix) { return name.ends_with(suffix); });
}

std::string_view ArchitectureOf(const ConfigValue& config) {
  const ConfigValue* architectures = config.Find("architectures");
  const ConfigValue::List* list = architectures == nullptr ? nullptr : architectures->list();
  if (list == nullptr || list->empty() || list->front().text() == nullptr) return "";
  return *list->front().text();
}

// A whole number above 0.
std::optional<uint64_t> CountAt(const ConfigValue& config, std::string_view name) {
  const ConfigValue* value = config.Find(name);
  const int64_t* number = value == nullptr ? nullptr : std::get_if<int64_t>(&value->data);
  if (number == nullptr || *number <= 0) return std::nullopt;
  return static_cast<uint64_t>(*number);
}

// The longest list of modules that is called one of `called`: its name and how many members it has room for.
struct Longest {
  std::string_view name;
  uint64_t members = 0;
};
Longest LongestList(const NumberedLists& lists, Names called) {
  Longest longest;
  for (size_t i = 0; i < lists.size(); ++i) {
    const NumberedLists::List list = lists.At(i);
    if (!list.composed || !IsOneOf(list.name.substr(list.name.rfind('.') + 1), called)) continue;
    const uint64_t members = uint64_t{list.members.back().number} + 1;
    if (members > longest.members) longest = {.name = list.name, .members = members};
  }
  return longest;
}

// A model that runs its layers several times has a fraction of what its config.json says.
void CompareCount(const ConfigValue& config, Names counts, const Longest& longest, std::string_view rule,
                  std::vector<Finding>& findings) {
  for (const std::string_view name : counts) {
    const std::optional<uint64_t> wanted = CountAt(config, name);
    if (!wanted || longest.members == 0 || longest.members >= *wanted || *wanted % longest.members == 0) continue;
    const std::string list = Shortened(longest.name);
    Finding& finding = findings.emplace_back();
    finding.rule = std::string(rule);
    finding.count = *wanted - longest.members;
    finding.lacks = true;
    const uint64_t shown = std::min<uint64_t>(finding.count, kNamesInFinding);
    for (uint64_t i = 0; i < shown; ++i) {
      finding.names.push_back(MemberName(list, static_cast<uint32_t>(longest.members + i)));
    }
    finding.message = StrCat("config.json says ", name, " ", *wanted, ", and ", list, " ends with ",
                             longest.members - 1, ": ", finding.count, " seem to lack behind it");
    return;
  }
}

void CompareVocabulary(const NumberedLists& lists, const ConfigValue& config, uint64_t size, bool needs_head,
                       std::vector<Finding>& findings) {
  size_t with_rows = 0;
  std::string_view only;
  for (const StoredTensor& tensor : lists.tensors()) {
    if (tensor.shape.size() != 2 || (tensor.shape[0] < size && tensor.shape[1] != size)) continue;
    ++with_rows;
    only = tensor.name;
  }
  const ConfigValue* tied = config.Find("tie_word_embeddings");
  const int64_t* value = tied == nullptr ? nullptr : std::get_if<int64_t>(&tied->data);
  const bool untied = value != nullptr && *value == 0;
  if (with_rows > 1 || (with_rows == 1 && !(untied && needs_head))) return;
  Finding& finding = findings.emplace_back();
  finding.rule = "vocabulary";
  finding.count = 1;
  finding.lacks = true;
  finding.message = with_rows == 0
                        ? StrCat("config.json says vocab_size ", size,
                                 ", and no matrix has so many rows: the embedding seems to lack")
                        : StrCat("config.json says tie_word_embeddings false, and only ", Shortened(only), " has the ",
                                 size, " rows of vocab_size: the embedding or the head seems to lack");
}

}  // namespace

absl::StatusOr<std::vector<Finding>> AuditConfig(const NumberedLists& lists, const ConfigValue& config,
                                                 const RequestContext& context) {
  std::vector<Finding> findings;
  const std::string_view architecture = ArchitectureOf(config);
  if (!EndsWithOneOf(architecture, kWriters) || lists.tensors().empty()) return findings;
  const Longest layers = LongestList(lists, kLayerLists);
  const Longest experts = LongestList(lists, kExpertLists);
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  const ConfigValue* text = &config;
  for (const std::string_view part : kPartsOfConfig) {
    if (const ConfigValue* found = config.Find(part); found != nullptr && found->object() != nullptr) text = found;
  }
  CompareCount(*text, kLayerCounts, layers, "layers", findings);
  CompareCount(*text, kExpertCounts, experts, "experts", findings);
  if (const std::optional<uint64_t> size = CountAt(*text, "vocab_size"); size && *size > 1) {
    CompareVocabulary(lists, config, *size, EndsWithOneOf(architecture, kHeads), findings);
  }
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  return findings;
}

}  // namespace keyload
