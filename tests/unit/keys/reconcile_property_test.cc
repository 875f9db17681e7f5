#include <algorithm>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/error.h"
#include "tests/unit/keys/reconcile_case.h"

namespace keyload {
namespace {

constexpr int kCases = 1000;

// The rules written down naively: every lookup scans a list, every pattern is a substring.
class NaiveModel {
 public:
  explicit NaiveModel(const ReconcileCase& test)
      : test_(test), tensors_(test.manifest.tensors), found_(tensors_.size(), -1) {}

  // Nothing when two stored keys become one model key.
  std::optional<KeyCounts> Count() {
    for (size_t stored = 0; stored < test_.stored.size(); ++stored) {
      if (!Place(stored)) return std::nullopt;
    }
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (tensors_[i].kind == TensorKind::kNonPersistentBuffer) continue;
      ++counts_.expected;
      CountExpected(i);
    }
    counts_.selected = counts_.expected - counts_.not_selected;
    return counts_;
  }

 private:
  int Find(const std::string& name) const {
    const std::string prefix = test_.manifest.base_model_prefix + ".";
    for (const std::string& candidate :
         {name, name.rfind(prefix, 0) == 0 ? name.substr(prefix.size()) : name, prefix + name}) {
      for (size_t i = 0; i < tensors_.size(); ++i) {
        if (tensors_[i].name == candidate) return static_cast<int>(i);
      }
      if (prefix == ".") break;
    }
    return -1;
  }

  static std::string Replace(std::string name, const std::string& from, const std::string& to) {
    const size_t at = name.find(from);
    return at == std::string::npos ? name : name.replace(at, from.size(), to);
  }

  bool Selected(const std::string& name) const {
    return test_.selection.exclude.empty() || name.find("d") == std::string::npos;
  }

  bool Place(size_t stored) {
    std::string name = test_.stored[stored].name;
    for (const Rename& rename : test_.rules.renames) name = Replace(name, rename.pattern, rename.replacement);
    int target = Find(name);
    if (target < 0) target = Find(test_.stored[stored].name);
    const bool non_persistent = target >= 0 && tensors_[target].kind == TensorKind::kNonPersistentBuffer;
    if (target >= 0 && !non_persistent) {
      if (found_[target] >= 0) return false;
      found_[target] = static_cast<int>(stored);
    } else if (Selected(non_persistent ? tensors_[target].name : name)) {
      const bool ignored =
          non_persistent || (!test_.rules.ignore_unexpected.empty() && name.find("c") != std::string::npos);
      ++(ignored ? counts_.unexpected_ignored : counts_.unexpected);
    }
    return true;
  }

  bool Loads(size_t i) const {
    return tensors_[i].kind != TensorKind::kNonPersistentBuffer && Selected(tensors_[i].name) && found_[i] >= 0 &&
           test_.stored[found_[i]].shape == tensors_[i].shape;
  }

  bool Supplied(size_t i) const {
    for (const TiedGroup& group : test_.manifest.tied_groups) {
      std::vector<std::string> members = group.targets;
      members.push_back(group.source);
      if (std::find(members.begin(), members.end(), tensors_[i].name) == members.end()) continue;
      for (size_t other = 0; other < tensors_.size(); ++other) {
        if (Loads(other) && std::find(members.begin(), members.end(), tensors_[other].name) != members.end())
          return true;
      }
    }
    return false;
  }

  void CountExpected(size_t i) {
    const std::string& name = tensors_[i].name;
    if (!Selected(name)) {
      ++counts_.not_selected;
    } else if (found_[i] >= 0) {
      counts_.mismatched += !Loads(i);
    } else if (Supplied(i)) {
      ++counts_.missing_tied;
    } else {
      const bool ignored = !test_.rules.ignore_missing.empty() && name.find("b") != std::string::npos;
      ++(ignored ? counts_.missing_ignored : counts_.missing);
    }
  }

  const ReconcileCase& test_;
  const std::vector<TensorSpec>& tensors_;
  std::vector<int> found_;  // per tensor: position in `stored`
  KeyCounts counts_;
};

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  ReconcileCase Make() {
    ReconcileCase test;
    if (Chance(2)) test.manifest.base_model_prefix = "p";
    for (const std::string& name : UniqueNames()) {
      TensorSpec tensor = Chance(6) ? NonPersistent(name) : Parameter(name);
      if (Chance(8)) tensor.kind = TensorKind::kBuffer;
      test.manifest.tensors.push_back(tensor);
    }
    for (const std::string& name : UniqueNames()) test.stored.emplace_back(name, Chance(8) ? Shape{3} : Shape{2});
    if (Chance(2)) test.rules.renames = {{"a", "b"}, {"b", "c"}};
    if (Chance(2)) test.rules.ignore_missing = {"b"};
    if (Chance(2)) test.rules.ignore_unexpected = {"c"};
    if (Chance(2)) test.selection.exclude = {"*d*"};
    TieSome(test.manifest);
    return test;
  }

 private:
  bool Chance(int one_in) { return random_() % one_in == 0; }

  std::set<std::string> UniqueNames() {
    std::set<std::string> names;
    for (uint64_t i = random_() % 12; i > 0; --i) {
      std::string name = Chance(3) ? "p." : "";
      for (uint64_t part = 1 + random_() % 2; part > 0; --part)
        name += std::string(1, "abcd"[random_() % 4]) + (part > 1 ? "." : "");
      names.insert(name);
    }
    return names;
  }

  void TieSome(Manifest& manifest) {
    std::vector<std::string> names;
    for (const TensorSpec& tensor : manifest.tensors) {
      if (tensor.dtype == DType::kF32) names.push_back(tensor.name);
    }
    std::shuffle(names.begin(), names.end(), random_);
    if (names.size() >= 2) manifest.tied_groups.push_back({names[0], {names[1]}});
    if (names.size() >= 5) manifest.tied_groups.push_back({names[2], {names[3], names[4]}});
  }

  std::mt19937_64 random_;
};

std::vector<uint64_t> AsList(const KeyCounts& c) {
  return {c.expected,        c.selected,
          c.not_selected,    c.missing,
          c.missing_ignored, c.missing_tied,
          c.unexpected,      c.unexpected_ignored,
          c.mismatched,      c.loaded + c.lazy + c.initialized + c.tied_conflicts};
}

TEST(ReconcileProperty, CountsAgreeWithANaiveModel) {
  const uint64_t first_seed = std::random_device()();
  int conflicts = 0;
  for (uint64_t seed = first_seed; seed < first_seed + kCases; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const ReconcileCase test = Generator(seed).Make();
    const std::optional<KeyCounts> expected = NaiveModel(test).Count();
    const auto report = test.Run();
    if (!expected.has_value()) {
      ++conflicts;
      ASSERT_EQ(ErrorReason(report.status()), Reason::kKeyConflict);
      continue;
    }
    ASSERT_TRUE(report.ok()) << report.status();
    ASSERT_EQ(AsList((*report)->counts), AsList(*expected));
  }
  EXPECT_LT(conflicts, kCases * 3 / 4) << "too few cases were compared, from seed " << first_seed;
}

}  // namespace
}  // namespace keyload
