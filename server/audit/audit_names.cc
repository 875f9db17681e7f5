#include "server/audit/audit_names.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "server/audit/lacking_names.h"
#include "server/audit/module_kinds.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

using Rests = std::vector<uint32_t>;

constexpr size_t kKindsCompared = 8;  // the most frequent ones of a list

// Members of a list that have the same below them.
struct Kind {
  const Rests* rests = nullptr;
  std::vector<size_t> members;  // positions in List::members
};

size_t RunsOf(const std::vector<uint32_t>& numbers) {
  size_t runs = numbers.empty() ? 0 : 1;
  for (size_t i = 1; i < numbers.size(); ++i) runs += numbers[i] != numbers[i - 1] + 1;
  return runs;
}

std::vector<uint32_t> NumbersOf(const NumberedLists::List& list, const std::vector<size_t>& members) {
  std::vector<uint32_t> numbers;
  for (const size_t member : members) numbers.push_back(list.members[member].number);
  return numbers;
}

// The numbers that `list` leaves out, where that looks like damage: few, and in one place or two. Activations between
// layers have numbers and no keys, so a list of bare tensors must be long and of one kind.
std::vector<uint32_t> HolesOf(const NumberedLists::List& list, size_t kinds) {
  const size_t count = list.members.size();
  const uint32_t last = list.members.back().number;
  if (count < 3 || last >= 2 * count || (!list.composed && (count < 4 || kinds != 1))) return {};
  std::vector<uint32_t> holes;
  uint32_t next = list.composed ? 0 : list.members.front().number;
  for (const NumberedLists::Member& member : list.members) {
    for (; next < member.number; ++next) holes.push_back(next);
    ++next;
  }
  if (holes.size() * 2 > count || RunsOf(holes) > std::max<size_t>(1, count / 8)) return {};
  return holes;
}

class NameRules {
 public:
  NameRules(const NumberedLists& lists, const RequestContext& context) : lists_(lists), check_(&context) {}

  absl::StatusOr<std::vector<Finding>> Run(const RequestContext& context) {
    for (size_t i = 0; i < lists_.size(); ++i) KEYLOAD_RETURN_IF_ERROR(Compare(lists_.At(i)));
    KEYLOAD_ASSIGN_OR_RETURN(const std::vector<std::string> children, LackingChildren(lists_.tensors(), context));
    for (const std::string& name : children) lacking_.Add(name);
    std::vector<Finding> findings;
    if (!gaps_.empty()) {
      findings.push_back(gaps_.Find("gap", [](uint64_t count, std::string_view names) {
        return StrCat(count == 1 ? "a number is left out where the others of its list are there: "
                                 : StrCat(count, " numbers are left out where the others of their lists are there: "),
                      names);
      }));
    }
    if (!lacking_.empty()) {
      findings.push_back(lacking_.Find("alike", [](uint64_t count, std::string_view names) {
        return StrCat(
            count,
            count == 1 ? " key seems to lack, as its like have it: " : " keys seem to lack, as their like have them: ",
            names);
      }));
    }
    return findings;
  }

 private:
  absl::Status Compare(const NumberedLists::List& list) {
    if (list.members.size() < 2) return absl::OkStatus();
    absl::flat_hash_map<Rests, std::vector<size_t>> by_rests;
    for (size_t i = 0; i < list.members.size(); ++i) {
      const std::span<const NumberedLists::Entry> entries = list.members[i].entries;
      KEYLOAD_RETURN_IF_ERROR(check_.Check(entries.size()));
      Rests rests;
      rests.reserve(entries.size());
      for (const NumberedLists::Entry& entry : entries) rests.push_back(entry.rest);
      by_rests[std::move(rests)].push_back(i);
    }
    for (const uint32_t hole : HolesOf(list, by_rests.size())) gaps_.Add(MemberName(list.name, hole));
    std::vector<Kind> kinds;
    for (auto& [rests, members] : by_rests) kinds.push_back({.rests = &rests, .members = std::move(members)});
    const size_t compared = std::min(kinds.size(), kKindsCompared);
    // By the first member too, so that the answer does not depend on hashes.
    std::partial_sort(kinds.begin(), kinds.begin() + static_cast<ptrdiff_t>(compared), kinds.end(),
                      [](const Kind& a, const Kind& b) {
                        if (a.members.size() != b.members.size()) return a.members.size() > b.members.size();
                        return a.members.front() < b.members.front();
                      });
    for (const Kind& kind : kinds) {
      KEYLOAD_RETURN_IF_ERROR(check_.Check(1 + kind.rests->size() / 8));
      CompareKind(list, kind, std::span(kinds).first(compared));
    }
    return absl::OkStatus();
  }

  // Adds what `kind` lacks of the nearest of `others` that has all that it has, and more members.
  void CompareKind(const NumberedLists::List& list, const Kind& kind, std::span<const Kind> others) {
    const size_t count = list.members.size();
    // Layers of another kind come at regular places; damage comes in one.
    if (kind.members.size() > 1 && (kind.members.size() * 4 > count || RunsOf(NumbersOf(list, kind.members)) > 1))
      return;
    Rests nearest;
    for (const Kind& other : others) {
      const bool frequent = count == 2 || (other.members.size() > 1 && other.members.size() > kind.members.size());
      if (!frequent || other.rests->size() <= kind.rests->size() || other.rests->size() > 2 * kind.rests->size())
        continue;
      if (!std::includes(other.rests->begin(), other.rests->end(), kind.rests->begin(), kind.rests->end())) continue;
      if (!SameShapes(list.members[kind.members.front()], list.members[other.members.front()])) continue;
      if (!nearest.empty() && nearest.size() <= other.rests->size() - kind.rests->size()) continue;
      nearest.clear();
      std::set_difference(other.rests->begin(), other.rests->end(), kind.rests->begin(), kind.rests->end(),
                          std::back_inserter(nearest));
    }
    for (const size_t member : kind.members) {
      const uint32_t number = list.members[member].number;
      // Some models have no norm in front of their first layer, as the embedding has one.
      if (number == 0 && nearest.size() == 1 && lists_.Rest(nearest.front()).find("norm") != std::string_view::npos)
        continue;
      for (const uint32_t rest : nearest) lacking_.Add(StrCat(MemberName(list.name, number), ".", lists_.Rest(rest)));
    }
  }

  // Stages of different sizes are not alike, whatever their keys are called. `a` has nothing that `b` has not.
  bool SameShapes(const NumberedLists::Member& a, const NumberedLists::Member& b) const {
    auto other = b.entries.begin();
    for (const NumberedLists::Entry& entry : a.entries) {
      while (other->rest != entry.rest) ++other;
      if (lists_.tensors()[entry.tensor].shape != lists_.tensors()[other->tensor].shape) return false;
    }
    return true;
  }

  const NumberedLists& lists_;
  PeriodicCheck check_;
  LackingNames gaps_, lacking_;
};

}  // namespace

absl::StatusOr<std::vector<Finding>> AuditNames(const NumberedLists& lists, const RequestContext& context) {
  return NameRules(lists, context).Run(context);
}

}  // namespace keyload
