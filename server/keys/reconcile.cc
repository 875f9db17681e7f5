#include "server/keys/reconcile.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"
#include "server/checkpoint/natural_order.h"
#include "server/keys/absent_shards.h"
#include "server/keys/conversion_rules.h"
#include "server/keys/key_converter.h"
#include "server/keys/key_mapping.h"
#include "server/keys/name_arena.h"
#include "server/keys/pattern_set.h"
#include "server/keys/rename_rules.h"
#include "server/keys/rename_suggestion.h"
#include "server/keys/stored_aliases.h"
#include "server/keys/tied_groups.h"

namespace keyload {
namespace {

constexpr size_t kNamesInWarning = 5;
constexpr size_t kNamesRemembered = 10'000;  // so as not to count a name twice that a request names twice

// Rules of the request and its manifest together.
struct CompiledRules {
  RenameRules renames;
  ConversionRules conversions;
  PatternSet ignore_missing;
  PatternSet ignore_unexpected;
};

uint64_t NameBytes(const ReconcileInput& input) {
  uint64_t bytes = 0;
  for (const StoredTensor& tensor : input.index->tensors()) bytes += tensor.name.size();
  for (const std::string& name : input.index->index_only_keys()) bytes += name.size();
  for (const AbsentKey& key : input.index->absent_keys()) bytes += key.name.size();
  if (input.manifest != nullptr) {
    for (const TensorSpec& tensor : input.manifest->tensors) bytes += tensor.name.size();
  }
  return bytes;
}

absl::StatusOr<CompiledRules> CompileRules(const ReconcileInput& input) {
  static const Manifest* const kNoManifest = new Manifest;
  const Manifest& manifest = input.manifest != nullptr ? *input.manifest : *kNoManifest;
  size_t patterns = input.rules.renames.size() + manifest.renames.size();
  for (const Conversion& conversion : manifest.conversions) patterns += conversion.sources.size();
  PatternBudget budget(patterns, input.context);  // the others are not kept by themselves
  CompiledRules rules;
  KEYLOAD_ASSIGN_OR_RETURN(rules.renames, RenameRules::Compile(input.rules.renames, manifest.renames, budget));
  KEYLOAD_ASSIGN_OR_RETURN(rules.conversions, ConversionRules::Compile(manifest.conversions, budget));
  KEYLOAD_ASSIGN_OR_RETURN(rules.ignore_missing, PatternSet::Compile("ignore_missing", input.rules.ignore_missing,
                                                                     manifest.ignore_missing, budget));
  KEYLOAD_ASSIGN_OR_RETURN(
      rules.ignore_unexpected,
      PatternSet::Compile("ignore_unexpected", input.rules.ignore_unexpected, manifest.ignore_unexpected, budget));
  if (input.context != nullptr) KEYLOAD_RETURN_IF_ERROR(input.context->TakeHeap(budget.kept_bytes(), "the patterns"));
  const uint64_t name_bytes = NameBytes(input);
  KEYLOAD_RETURN_IF_ERROR(budget.CheckWork(name_bytes));
  if (!input.selection->selects_all()) KEYLOAD_RETURN_IF_ERROR(input.selection->CheckWork(name_bytes));
  return rules;
}

absl::StatusOr<std::vector<ModelKey>> KeysOfManifest(const Manifest& manifest, PeriodicCheck& check) {
  std::vector<ModelKey> keys;
  keys.reserve(manifest.tensors.size());
  for (const TensorSpec& tensor : manifest.tensors) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    keys.push_back(
        {.name = tensor.name,
         .shape = tensor.shape,
         .bytes = tensor.bytes,
         .kind = tensor.kind,
         .state = tensor.kind == TensorKind::kNonPersistentBuffer ? KeyState::kNonPersistent : KeyState::kMissing,
         .dtype = tensor.dtype});
  }
  return keys;
}

// The state of each key by itself; ties and ignore patterns come later. Returns how many keys `selection` selects,
// without those that only `widened` does.
absl::StatusOr<uint64_t> ClassifyKeys(const KeySelection& selection, const KeyReport* widened, PeriodicCheck& check,
                                      KeyReport& report) {
  std::vector<ModelKey>& keys = report.keys;
  const bool selects_all = selection.selects_all();
  uint64_t selected = 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    ModelKey& key = keys[i];
    if (key.state == KeyState::kNonPersistent) continue;
    KEYLOAD_RETURN_IF_ERROR(check.Check(selects_all ? 1 : selection.CostOf(key.name)));
    const bool selects = selects_all || selection.Selects(key.name);
    selected += selects;
    if (!selects && (widened == nullptr || widened->keys[i].state == KeyState::kNotSelected)) {
      key.state = KeyState::kNotSelected;
    } else if (key.stored < 0) {
      key.state = KeyState::kMissing;
    } else {
      key.state = report.Fits(key) ? KeyState::kFound : KeyState::kMismatched;
    }
  }
  return selected;
}

absl::Status FinishKeys(const PatternSet& ignore_missing, PeriodicCheck& check, KeyReport& report) {
  KeyCounts& counts = report.counts;
  for (ModelKey& key : report.keys) {
    if (key.state == KeyState::kNonPersistent) continue;
    const bool missing = key.state == KeyState::kMissing;
    KEYLOAD_RETURN_IF_ERROR(check.Check(missing ? ignore_missing.CostOf(key.name) : 1));
    if (missing && ignore_missing.Matches(key.name)) key.state = KeyState::kMissingIgnored;
    if (key.state == KeyState::kNotSelected) key.stored = key.made = -1;
    ++counts.expected;
    counts.not_selected += key.state == KeyState::kNotSelected;
    counts.missing += key.state == KeyState::kMissing;
    counts.missing_ignored += key.state == KeyState::kMissingIgnored;
    counts.missing_tied += key.state == KeyState::kTied;
    counts.mismatched += key.state == KeyState::kMismatched;
  }
  counts.selected = counts.expected - counts.not_selected;
  return absl::OkStatus();
}

absl::Status FinishUnexpected(const PatternSet& ignore_unexpected, const KeySelection& selection,
                              const KeyReport* widened, PeriodicCheck& check, KeyReport& report) {
  std::vector<UnexpectedKey>& unexpected = report.unexpected;
  if (!selection.selects_all()) {
    absl::flat_hash_set<int64_t> listed;
    if (widened != nullptr) {
      for (const UnexpectedKey& key : widened->unexpected) listed.insert(key.stored);
    }
    size_t kept = 0;
    for (const UnexpectedKey& key : unexpected) {
      KEYLOAD_RETURN_IF_ERROR(check.Check(selection.CostOf(key.name)));
      if (selection.Selects(key.name) || listed.contains(key.stored)) unexpected[kept++] = key;
    }
    unexpected.resize(kept);
  }
  for (UnexpectedKey& key : unexpected) {
    KEYLOAD_RETURN_IF_ERROR(check.Check(ignore_unexpected.CostOf(key.name)));
    key.ignored = key.ignored || ignore_unexpected.Matches(key.name);
    ++(key.ignored ? report.counts.unexpected_ignored : report.counts.unexpected);
  }
  // Two stored keys may have one name here: the stored position keeps their order fixed.
  const auto before = [](const UnexpectedKey& a, const UnexpectedKey& b) {
    if (a.name == b.name) return a.stored < b.stored;
    return NaturalLess(a.name, b.name);
  };
  if (!std::is_sorted(unexpected.begin(), unexpected.end(), before))
    std::sort(unexpected.begin(), unexpected.end(), before);
  return absl::OkStatus();
}

// The index file's keys that are in no shard and that the model does not expect; they are in no count.
absl::StatusOr<std::vector<std::string_view>> UnexpectedIndexOnly(const CheckpointIndex& index,
                                                                  const RenameRules& renames, ModelNames& names,
                                                                  const KeyConverter& converter, NameArena& arena,
                                                                  SearchWork& work, PeriodicCheck& check) {
  std::vector<std::string_view> unexpected;
  for (const std::string& name : index.index_only_keys()) {
    KEYLOAD_RETURN_IF_ERROR(check.Check(renames.CostOf(name) + converter.CostOf(name)));
    KEYLOAD_ASSIGN_OR_RETURN(const std::string_view renamed, renames.Apply(name, arena, work));
    if (names.FindWithPrefix(renamed) >= 0 || names.FindWithPrefix(name) >= 0) continue;
    if (!converter.Wants(renamed)) unexpected.push_back(name);
  }
  return unexpected;
}

void WarnAboutIndexOnly(const CheckpointIndex& index, const std::vector<std::string_view>& unexpected,
                        KeyReport& report) {
  const std::vector<std::string>& all = index.index_only_keys();
  if (all.empty()) return;
  std::string warning = StrCat(index.index_file(), ": ", all.size(), " of its keys are in no shard, for example ",
                               Shortened(unexpected.empty() ? std::string_view(all.front()) : unexpected.front()));
  if (unexpected.size() == all.size()) {
    StrAppend(&warning, "; none of them is expected");
  } else if (!unexpected.empty()) {
    StrAppend(&warning, ", which is not expected, as ", unexpected.size(), " of them are not");
  }
  report.warnings.push_back(std::move(warning));
}

absl::Status WarnAboutSelection(const KeySelection& selection, uint64_t selected, PeriodicCheck& check,
                                KeyReport& report) {
  if (selection.selects_all()) return absl::OkStatus();
  absl::flat_hash_set<std::string_view> known;  // of what is named, not of what the selection names: that may be more
  if (selection.name_count() > 0) {
    for (const ModelKey& key : report.keys) {
      KEYLOAD_RETURN_IF_ERROR(check.Check());
      if (key.state != KeyState::kNonPersistent) known.insert(key.name);
    }
  }
  size_t count = 0;
  std::vector<std::string> first;
  absl::flat_hash_set<std::string_view> told;  // a name may stand twice in a request
  for (size_t i = 0; i < selection.name_count(); ++i) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    const std::string_view name = selection.name(i);
    if (known.contains(name) || told.contains(name)) continue;
    ++count;
    if (told.size() < kNamesRemembered) told.insert(name);
    if (first.size() < kNamesInWarning) first.emplace_back(name);
  }
  if (count > 0) {
    report.warnings.push_back(absl::StrCat(count, count == 1 ? " selected name is" : " selected names are",
                                           " no expected key: ", absl::StrJoin(first, ", "),
                                           count > first.size() ? ", ..." : ""));
  }
  if (selected == 0 && report.counts.expected > 0) {
    report.warnings.push_back(absl::StrCat("the selection matches none of ", report.counts.expected, " expected keys"));
  }
  return absl::OkStatus();
}

absl::StatusOr<RenameSuggestion> SuggestFor(const KeyReport& report, PeriodicCheck& check) {
  std::vector<NamedShape> lacking, spare;
  for (const UnexpectedKey& key : report.unexpected) {
    if (!key.ignored) spare.push_back({.name = key.name, .shape = &report.index->tensors()[key.stored].shape});
  }
  if (spare.empty()) return RenameSuggestion();
  for (const ModelKey& key : report.keys) {
    const bool lacks = key.stored < 0 && key.made < 0 && key.kind != TensorKind::kNonPersistentBuffer;
    if (lacks) lacking.push_back({.name = key.name, .shape = &key.shape});
  }
  return SuggestRenames(lacking, spare, check);
}

// Of a checkpoint's own keys.
absl::StatusOr<std::vector<std::vector<uint32_t>>> AliasGroups(const CheckpointIndex& index, const RenameRules& renames,
                                                               NameArena& arena, SearchWork& work, PeriodicCheck& check,
                                                               std::vector<ModelKey>& keys) {
  std::vector<std::vector<uint32_t>> groups;
  if (!HasAliases(index)) return groups;
  absl::flat_hash_map<std::string_view, int64_t> positions;
  for (size_t i = 0; i < keys.size(); ++i) positions.emplace(keys[i].name, static_cast<int64_t>(i));
  const auto find = [&](std::string_view name) {
    const auto found = positions.find(name);
    return found == positions.end() ? int64_t{-1} : found->second;
  };
  KEYLOAD_ASSIGN_OR_RETURN(const std::vector<AliasedKey> aliased,
                           FindAliasedKeys(index, renames, find, /*shaped=*/false, arena, work, check, keys));
  AddToGroups(aliased, groups);
  return groups;
}

}  // namespace

const Shape& KeyReport::StoredShape(const ModelKey& key) const {
  return key.made >= 0 ? made[key.made].shape : index->tensors()[key.stored].shape;
}

DType KeyReport::StoredDType(const ModelKey& key) const {
  return key.made >= 0 ? made[key.made].dtype : index->tensors()[key.stored].dtype;
}

uint64_t KeyReport::StoredBytes(const ModelKey& key) const {
  return key.made >= 0 ? made[key.made].bytes : index->tensors()[key.stored].bytes;
}

absl::InlinedVector<KeyPart, 1> KeyReport::PartsOf(const ModelKey& key) const {
  if (key.made >= 0) return {made[key.made].parts.begin(), made[key.made].parts.end()};
  return {{.stored = static_cast<uint32_t>(key.stored), .offset = 0, .bytes = index->tensors()[key.stored].bytes}};
}

bool KeyReport::Fits(const ModelKey& key) const {
  return StoredShape(key) == key.shape && (key.made < 0 || !made[key.made].parts.empty());
}

uint64_t MemoryBytes(const KeyReport& report) {
  uint64_t bytes = report.keys.capacity() * sizeof(ModelKey) + report.made.capacity() * sizeof(MadeTensor) +
                   report.unexpected.capacity() * sizeof(UnexpectedKey);
  for (const MadeTensor& made : report.made) bytes += made.parts.capacity() * sizeof(KeyPart);
  for (const std::vector<uint32_t>& group : report.tied_groups) bytes += sizeof(group) + group.capacity() * 4;
  for (const std::shared_ptr<const std::string>& block : report.name_blocks) bytes += block->capacity();
  return bytes;
}

namespace {

// Decides with the rules of `input` alone. `suggestion`, which may be null, gets what would make the names match that
// do not.
absl::StatusOr<std::shared_ptr<KeyReport>> ReconcileAsAsked(const ReconcileInput& input, RenameSuggestion* suggestion) {
  KEYLOAD_ASSIGN_OR_RETURN(const CompiledRules rules, CompileRules(input));
  auto report = std::make_shared<KeyReport>();
  report->index = input.index;
  report->manifest = input.manifest;
  const CheckpointIndex& index = *input.index;
  NameArena arena(input.context);
  SearchWork work(input.context);
  PeriodicCheck check(input.context);
  uint64_t selected = 0;
  const auto widened = [&] {
    const bool counts = input.widened != nullptr && input.widened->keys.size() == report->keys.size();
    return counts ? input.widened : nullptr;
  };
  if (input.manifest != nullptr) {
    const Manifest& manifest = *input.manifest;
    ModelNames names(manifest, input.rules.base_model_prefix.value_or(manifest.base_model_prefix));
    KEYLOAD_ASSIGN_OR_RETURN(report->keys, KeysOfManifest(manifest, check));
    KeyConverter converter(index, rules.conversions, names, arena, input.context, *report);
    KEYLOAD_ASSIGN_OR_RETURN(report->unexpected,
                             MapStoredKeys(index, rules.renames, names, arena, work, converter, check, report->keys));
    KEYLOAD_RETURN_IF_ERROR(converter.Finish(check));
    if (suggestion != nullptr) {
      KEYLOAD_ASSIGN_OR_RETURN(*suggestion, SuggestFor(*report, check));
    }
    KEYLOAD_ASSIGN_OR_RETURN(const std::vector<std::string_view> unexpected,
                             UnexpectedIndexOnly(index, rules.renames, names, converter, arena, work, check));
    WarnAboutIndexOnly(index, unexpected, *report);
    KEYLOAD_ASSIGN_OR_RETURN(selected, ClassifyKeys(*input.selection, widened(), check, *report));
    KEYLOAD_ASSIGN_OR_RETURN(std::vector<std::vector<uint32_t>> tied, TiedGroupsOf(manifest, names, check));
    const auto find = [&](std::string_view name) { return names.FindWithPrefix(name); };
    KEYLOAD_ASSIGN_OR_RETURN(
        const std::vector<AliasedKey> aliased,
        FindAliasedKeys(index, rules.renames, find, /*shaped=*/true, arena, work, check, report->keys));
    AddToGroups(aliased, tied);
    ResolveTiedGroups(std::move(tied), widened(), *report);
    KEYLOAD_RETURN_IF_ERROR(CheckAbsentShards(rules.renames, names, converter, arena, work, check, *report));
    KEYLOAD_RETURN_IF_ERROR(FinishKeys(rules.ignore_missing, check, *report));
    converter.Explain();
  } else {
    KEYLOAD_ASSIGN_OR_RETURN(report->keys, KeysOfCheckpoint(index, rules.renames, arena, work, check));
    WarnAboutIndexOnly(index, {}, *report);
    KEYLOAD_ASSIGN_OR_RETURN(std::vector<std::vector<uint32_t>> tied,
                             AliasGroups(index, rules.renames, arena, work, check, report->keys));
    KEYLOAD_ASSIGN_OR_RETURN(selected, ClassifyKeys(*input.selection, widened(), check, *report));
    ResolveTiedGroups(std::move(tied), widened(), *report);
    KEYLOAD_RETURN_IF_ERROR(CheckAbsentShards(rules.renames, arena, work, check, *report));
    KEYLOAD_RETURN_IF_ERROR(FinishKeys(rules.ignore_missing, check, *report));
  }
  KEYLOAD_RETURN_IF_ERROR(FinishUnexpected(rules.ignore_unexpected, *input.selection, widened(), check, *report));
  KEYLOAD_RETURN_IF_ERROR(WarnAboutSelection(*input.selection, selected, check, *report));
  report->name_blocks = arena.Release();
  return report;
}

// Whether the renames mend so much that they are worth a word: what strips or adds a name half of either side, what
// replaces one, and may be an accident, half of both.
bool IsWorthIt(const KeyCounts& before, const KeyCounts& after, bool replaces) {
  if (after.missing >= before.missing || after.mismatched > before.mismatched) return false;
  const bool most_missing = 2 * (before.missing - after.missing) >= before.missing;
  const bool most_unexpected =
      after.unexpected < before.unexpected && 2 * (before.unexpected - after.unexpected) >= before.unexpected;
  return replaces ? most_missing && most_unexpected : most_missing || most_unexpected;
}

std::string AboutRenames(const RenameSuggestion& suggestion, uint64_t mended, uint64_t missing) {
  const std::string keys = missing == 1        ? "the missing key is"
                           : mended == missing ? StrCat("all ", missing, " missing keys are")
                                               : StrCat(mended, " of ", missing, " missing keys are");
  return StrCat(keys, " in the checkpoint under another name, ", suggestion.what);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const KeyReport>> Reconcile(const ReconcileInput& input) {
  RenameSuggestion suggestion;
  KEYLOAD_ASSIGN_OR_RETURN(std::shared_ptr<KeyReport> report, ReconcileAsAsked(input, &suggestion));
  const uint64_t missing = report->counts.missing;
  if (missing == 0 || suggestion.renames.empty()) return report;
  if (input.context != nullptr) {
    KEYLOAD_RETURN_IF_ERROR(input.context->TakeHeap(MemoryBytes(*report), "trying other names"));
  }
  ReconcileInput renamed = input;
  renamed.rules.renames.insert(renamed.rules.renames.end(), suggestion.renames.begin(), suggestion.renames.end());
  const absl::StatusOr<std::shared_ptr<KeyReport>> again = ReconcileAsAsked(renamed, nullptr);
  if (!again.ok()) {  // renames that make a conflict are none to suggest
    if (input.context != nullptr) KEYLOAD_RETURN_IF_ERROR(input.context->Check());
    return report;
  }
  if (!IsWorthIt(report->counts, (*again)->counts, suggestion.replaces)) return report;
  const uint64_t mended = missing - (*again)->counts.missing;
  const std::string about = AboutRenames(suggestion, mended, missing);
  const std::string flags = RenameFlags(suggestion.renames);
  if (mended < missing) {
    report->warnings.push_back(
        StrCat(about, "; ", flags, " makes them match",
               input.rules.rename_auto ? ", and is not applied by itself, as not all would" : ""));
  } else if (input.rules.rename_auto) {
    (*again)->warnings.push_back(StrCat(about, "; renamed as by ", flags));
    return *again;
  } else {
    report->warnings.push_back(StrCat(about, "; ", flags, " makes them match, as --rename auto does by itself"));
  }
  return report;
}

}  // namespace keyload
