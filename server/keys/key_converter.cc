#include "server/keys/key_converter.h"

#include <utility>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/keys/lacking_sources.h"
#include "server/keys/make_tensors.h"

namespace keyload {
namespace {

constexpr size_t kKeysExplained = 5;

}  // namespace

KeyConverter::KeyConverter(const CheckpointIndex& index, const ConversionRules& rules, ModelNames& names,
                           NameArena& arena, const RequestContext* context, KeyReport& report)
    : index_(index),
      rules_(rules),
      names_(names),
      arena_(arena),
      context_(context),
      check_(context),
      report_(report),
      taken_(rules.empty() ? 0 : index.tensors().size()),
      group_of_(rules.conversions().size()) {}

absl::StatusOr<bool> KeyConverter::Take(uint32_t stored, std::string_view name) {
  if (rules_.empty()) return false;
  const std::optional<ConversionRules::Match> match = rules_.Find(name);
  if (!match) return false;
  const std::string made = rules_.Replaced(name, *match, 0);
  auto& group_of = group_of_[match->conversion];
  auto found = group_of.find(made);
  if (found == group_of.end()) {
    KEYLOAD_ASSIGN_OR_RETURN(const int32_t group, AddGroup(stored, name, *match));
    KEYLOAD_ASSIGN_OR_RETURN(const std::string_view kept, arena_.Add(made));
    found = group_of.emplace(kept, group).first;
  }
  if (groups_[found->second].targets.empty()) return false;
  const auto [other, is_new] = name_taken_.emplace(name, stored);
  if (!is_new) return KeyConflict(index_, name, other->second, stored);
  taken_[stored] = {.group = found->second, .source = match->source};
  return true;
}

absl::StatusOr<int32_t> KeyConverter::AddGroup(uint32_t stored, std::string_view name,
                                               const ConversionRules::Match& match) {
  Group group = {.conversion = match.conversion, .first = stored, .targets = {}, .inputs = {}};
  const Conversion& conversion = rules_.conversions()[match.conversion];
  KEYLOAD_RETURN_IF_ERROR(check_.Check(conversion.targets.size()));
  const auto take = [this](uint64_t bytes) {
    return context_ == nullptr ? absl::OkStatus() : context_->TakeHeap(bytes, "conversions");
  };
  KEYLOAD_RETURN_IF_ERROR(take(2 * sizeof(Group) + conversion.targets.size() * sizeof(uint32_t)));
  for (size_t i = 0; i < conversion.targets.size(); ++i) {
    const int64_t key = names_.FindWithPrefix(rules_.Replaced(name, match, i));
    if (key < 0 || report_.keys[key].kind == TensorKind::kNonPersistentBuffer) {
      group.targets.clear();
      break;
    }
    group.targets.push_back(static_cast<uint32_t>(key));
  }
  for (const uint32_t key : group.targets) {
    const auto [other, is_new] = claimed_.emplace(key, stored);
    if (!is_new) return KeyConflict(index_, report_.keys[key].name, other->second, stored);
  }
  if (!group.targets.empty()) {
    KEYLOAD_RETURN_IF_ERROR(take(conversion.sources.size() * sizeof(group.inputs[0])));
    group.inputs.resize(conversion.sources.size());
  }
  groups_.push_back(std::move(group));
  return static_cast<int32_t>(groups_.size() - 1);
}

bool KeyConverter::Wants(std::string_view name) const {
  const std::optional<ConversionRules::Match> match = rules_.Find(name);
  return match && names_.FindWithPrefix(rules_.Replaced(name, *match, 0)) >= 0;
}

absl::Status KeyConverter::Finish(PeriodicCheck& check) {
  if (claimed_.empty()) return absl::OkStatus();
  for (const uint32_t stored : index_.headers().NaturalOrder()) {
    const Taken& taken = taken_[stored];
    if (taken.group >= 0) groups_[taken.group].inputs[taken.source].push_back(stored);
  }
  for (Group& group : groups_) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    if (!group.targets.empty()) KEYLOAD_RETURN_IF_ERROR(MakeKeys(group));
  }
  return absl::OkStatus();
}

std::vector<Shape> KeyConverter::ShapesOf(const Group& group) const {
  std::vector<Shape> shapes;
  for (const uint32_t key : group.targets) shapes.push_back(report_.keys[key].shape);
  return shapes;
}

absl::Status KeyConverter::MakeKeys(Group& group) {
  for (const uint32_t key : group.targets) {
    const ModelKey& target = report_.keys[key];
    if (target.stored >= 0) return KeyConflict(index_, target.name, target.stored, group.first);
  }
  const Conversion& conversion = rules_.conversions()[group.conversion];
  group.in_trouble = !WhatIsLacking(index_, conversion, group.inputs, ShapesOf(group)).empty();
  if (group.in_trouble) return absl::OkStatus();
  KEYLOAD_ASSIGN_OR_RETURN(MadeTensors made, MakeTensors(index_, rules_.conversions(), group.conversion, group.inputs));
  group.in_trouble = !made.misfit.empty();
  for (size_t i = 0; i < group.targets.size(); ++i) {
    ModelKey& key = report_.keys[group.targets[i]];
    const std::vector<KeyPart>& parts = made.tensors[i].parts;
    key.stored = parts.empty() ? group.first : parts.front().stored;
    key.made = static_cast<int64_t>(report_.made.size());
    report_.made.push_back(std::move(made.tensors[i]));
  }
  return absl::OkStatus();
}

std::string KeyConverter::TroubleOf(const Group& group) const {
  const Conversion& conversion = rules_.conversions()[group.conversion];
  std::string lacking = WhatIsLacking(index_, conversion, group.inputs, ShapesOf(group));
  if (!lacking.empty()) return lacking;
  absl::StatusOr<MadeTensors> made = MakeTensors(index_, rules_.conversions(), group.conversion, group.inputs);
  return made.ok() ? std::move(made->misfit) : std::string(made.status().message());
}

void KeyConverter::Explain() {
  size_t explained = 0;
  size_t others = 0;
  for (const Group& group : groups_) {
    if (!group.in_trouble) continue;
    for (const uint32_t index : group.targets) {
      const ModelKey& key = report_.keys[index];
      if (key.state != KeyState::kMissing && key.state != KeyState::kMismatched) continue;
      if (explained++ >= kKeysExplained) {
        ++others;
        continue;
      }
      report_.warnings.push_back(
          StrCat(key.name, key.state == KeyState::kMissing ? " is missing: " : " cannot be made: ", TroubleOf(group)));
    }
  }
  if (others > 0) {
    report_.warnings.push_back(
        StrCat(others, " more keys lack stored keys that they are made of, or theirs do not fit"));
  }
}

}  // namespace keyload
