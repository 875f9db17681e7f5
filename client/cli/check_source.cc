#include "client/cli/check_source.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/exit_code.h"

namespace keyload::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kFileNamesShown = 8;
constexpr uintmax_t kMaxRevisionBytes = 4096;
constexpr char kStandardFile[] = "model.safetensors";
constexpr char kStandardIndex[] = "model.safetensors.index.json";
constexpr char kFileSuffix[] = ".safetensors";
constexpr char kIndexSuffix[] = ".safetensors.index.json";

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

// The sets of weights of a directory: index files and single files, without the files of sharded sets.
struct Sets {
  std::vector<std::string> indexes, files;
};

// "model-00001-of-00004.safetensors" belongs to a set that an index names.
bool IsPart(const std::string& name) {
  const size_t of = name.rfind("-of-");
  return of != std::string::npos && of > 0 && absl::ascii_isdigit(name[of - 1]) && absl::ascii_isdigit(name[of + 4]);
}

Sets SetsIn(const fs::path& directory) {
  Sets sets;
  std::error_code error;
  std::vector<std::string> parts;
  for (const std::string& name : NamesIn(directory)) {
    if (name.starts_with('.') || !fs::exists(directory / name, error)) continue;
    if (name.ends_with(kIndexSuffix)) sets.indexes.push_back(name);
    if (name.ends_with(kFileSuffix)) (IsPart(name) ? parts : sets.files).push_back(name);
  }
  if (sets.indexes.empty()) sets.files.insert(sets.files.end(), parts.begin(), parts.end());
  return sets;
}

// "x.fp16.safetensors" is a variant of "x.safetensors".
std::vector<std::string> WithoutVariants(const std::vector<std::string>& names, std::string_view suffix) {
  std::vector<std::string> plain;
  for (const std::string& name : names) {
    const bool variant = std::any_of(names.begin(), names.end(), [&](const std::string& other) {
      return name.size() > other.size() && name.starts_with(other.substr(0, other.size() - suffix.size()) + ".");
    });
    if (!variant) plain.push_back(name);
  }
  return plain;
}

bool Contains(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// What the server takes of `sets`, and why; empty where it asks.
std::pair<std::string, std::string> Taken(const Sets& sets) {
  if (Contains(sets.files, kStandardFile)) return {kStandardFile, "the standard name"};
  if (Contains(sets.indexes, kStandardIndex)) return {kStandardIndex, "the standard index"};
  const bool indexed = !sets.indexes.empty();
  const std::vector<std::string>& all = indexed ? sets.indexes : sets.files;
  const std::vector<std::string> plain = WithoutVariants(all, indexed ? kIndexSuffix : kFileSuffix);
  if (plain.size() != 1 || (IsPart(plain[0]) && !plain[0].ends_with("-00001-of-00001.safetensors"))) return {};
  if (all.size() > 1) return {plain[0], "the only one that is no variant of another"};
  return {plain[0], indexed ? "the only index" : "the only one"};
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
  const Sets sets = SetsIn(source.path);
  const auto [taken, why] = Taken(sets);
  if (taken.empty()) return out;
  out += absl::StrFormat("weights %s (%s)\n", taken, why);
  std::vector<std::string> others = sets.files;
  others.insert(others.end(), sets.indexes.begin(), sets.indexes.end());
  std::sort(others.begin(), others.end());
  std::erase(others, taken);
  if (!others.empty()) out += absl::StrFormat("        not taken: %s; --weights NAME takes another\n", Shown(others));
  return out;
}

}  // namespace keyload::cli
