#include "client/cli/check_source.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/exit_code.h"
#include "client/cli/input_file.h"
#include "server/base/request_context.h"
#include "server/base/weight_names.h"

namespace keyload::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kFileNamesShown = 8;
constexpr uintmax_t kMaxRevisionBytes = 4096;
constexpr char kStandardFile[] = "model.safetensors";
constexpr char kStandardIndex[] = "model.safetensors.index.json";

std::vector<std::string> NamesIn(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
    names.push_back(at->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string Shown(const std::vector<std::string>& names) {
  const auto end = names.begin() + static_cast<ptrdiff_t>(std::min(names.size(), kFileNamesShown));
  return absl::StrJoin(names.begin(), end, ", ") + (names.size() > kFileNamesShown ? ", ..." : "");
}

std::vector<std::string> DirectoriesIn(const fs::path& directory) {
  std::vector<std::string> names = NamesIn(directory);
  std::erase_if(names, [&](const std::string& name) {
    std::error_code error;
    return !fs::is_directory(directory / name, error);
  });
  return names;
}

// The first line of refs/main, if it is a plain name.
std::string MainRevision(const fs::path& repository) {
  const fs::path path = repository / "refs" / "main";
  std::error_code error;
  if (!fs::is_regular_file(path, error) || fs::file_size(path, error) > kMaxRevisionBytes) return "";
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  absl::StripAsciiWhitespace(&line);
  const bool plain = line.find('/') == std::string::npos && line != "." && line != "..";
  return plain ? line : "";
}

// The files of `names` that may be weights and are there.
std::vector<std::string> FilesThere(const fs::path& directory) {
  std::vector<std::string> names = NamesIn(directory);
  std::error_code error;
  std::erase_if(
      names, [&](const std::string& name) { return !ParseWeightName(name) || !fs::exists(directory / name, error); });
  return names;
}

// The shards that an index file names: its texts that end as weights do. What is no index has none.
absl::flat_hash_set<std::string> ShardsOf(const fs::path& index) {
  absl::flat_hash_set<std::string> shards;
  const absl::StatusOr<std::string> text = ReadInputFile(index.string());
  if (!text.ok()) return shards;
  const std::string end = absl::StrFormat("%s\"", kSafetensorsSuffix);
  for (size_t at = text->find(end); at != std::string::npos; at = text->find(end, at + end.size())) {
    const size_t quote = text->rfind('"', at);
    if (quote == std::string::npos) continue;
    shards.insert(text->substr(quote + 1, at + kSafetensorsSuffix.size() - quote - 1));
  }
  return shards;
}

bool Contains(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// What the server takes of the files `names`, of which `sets` are made, and why; empty where it asks.
std::pair<std::string, std::string> Taken(const std::vector<std::string>& names, const std::vector<WeightSet>& sets) {
  if (Contains(names, kStandardFile)) return {kStandardFile, "the standard name"};
  if (Contains(names, kStandardIndex)) return {kStandardIndex, "the standard index"};
  const absl::StatusOr<std::vector<WeightSet>> counting = SetsThatCount(sets, RequestContext());
  if (!counting.ok() || counting->size() != 1 || counting->front().form == WeightName::Form::kPart) return {};
  const WeightSet& taken = counting->front();
  const bool indexed = taken.form == WeightName::Form::kIndex;
  const auto same_form =
      std::count_if(sets.begin(), sets.end(), [&](const auto& set) { return set.form == taken.form; });
  if (same_form > 1) return {taken.file, "the only one that is no variant of another"};
  return {taken.file, indexed ? "the only index" : "the only one"};
}

}  // namespace

absl::StatusOr<CheckSource> FindCheckSource(const std::string& path) {
  const fs::path snapshots = fs::path(path) / "snapshots";
  std::error_code error;
  if (!fs::is_directory(snapshots, error)) return CheckSource{.path = path, .why = ""};
  if (const std::string revision = MainRevision(path); !revision.empty()) {
    const fs::path snapshot = snapshots / revision;
    if (fs::is_directory(snapshot, error)) return CheckSource{.path = snapshot.string(), .why = "named by refs/main"};
    return UsageError(
        absl::StrFormat("refs/main of %s names %s, which is not among its snapshots (%s); name one as %s/NAME", path,
                        revision, Shown(DirectoriesIn(snapshots)), snapshots.string()));
  }
  const std::vector<std::string> names = DirectoriesIn(snapshots);
  if (names.size() == 1) return CheckSource{.path = (snapshots / names[0]).string(), .why = "the only snapshot"};
  if (names.empty()) return UsageError(absl::StrFormat("%s holds no snapshot", path));
  return UsageError(absl::StrFormat("%s holds %d snapshots (%s), and refs/main names none of them; name one as %s/NAME",
                                    path, names.size(), Shown(names), snapshots.string()));
}

std::string WeightsText(const CheckSource& source, const std::string& weights) {
  std::string out;
  if (!source.why.empty()) out += absl::StrFormat("from    %s (%s)\n", source.path, source.why);
  std::error_code error;
  if (!fs::is_directory(source.path, error)) return out;
  if (!weights.empty()) return out + absl::StrFormat("weights %s (as --weights says)\n", weights);
  const std::vector<std::string> names = FilesThere(source.path);
  const absl::StatusOr<std::vector<WeightSet>> sets = SetsAmong(names, RequestContext());
  if (!sets.ok()) return out;
  const auto [taken, why] = Taken(names, *sets);
  if (taken.empty()) return out;
  out += absl::StrFormat("weights %s (%s)\n", taken, why);
  const auto own =
      taken.ends_with(".json") ? ShardsOf(fs::path(source.path) / taken) : absl::flat_hash_set<std::string>();
  std::vector<std::string> others;
  for (const WeightSet& set : *sets) {
    if (set.file != taken && !own.contains(set.file)) others.push_back(set.file);
  }
  if (!others.empty()) out += absl::StrFormat("        not taken: %s; --weights NAME takes another\n", Shown(others));
  return out;
}

}  // namespace keyload::cli
