#include "client/cli/check_source.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/exit_code.h"

namespace keyload::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kNamesShown = 8;
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
  const auto end = names.begin() + static_cast<ptrdiff_t>(std::min(names.size(), kNamesShown));
  return absl::StrJoin(names.begin(), end, ", ") + (names.size() > kNamesShown ? ", ..." : "");
}

// The first line of refs/main, if it is a plain name.
std::string MainRevision(const fs::path& repository) {
  std::ifstream file(repository / "refs" / "main");
  std::string line;
  std::getline(file, line);
  absl::StripAsciiWhitespace(&line);
  const bool plain = line.find('/') == std::string::npos && line != "." && line != "..";
  return plain ? line : "";
}

// "model-00001-of-00004.safetensors" is a part of a set, not one.
bool IsPart(const std::string& name) { return name.find("-of-") != std::string::npos && !name.ends_with(".json"); }

std::vector<std::string> SetsIn(const fs::path& directory) {
  std::vector<std::string> sets;
  for (const std::string& name : NamesIn(directory)) {
    if (name.starts_with('.') || IsPart(name)) continue;
    if (name.ends_with(kFileSuffix) || name.ends_with(kIndexSuffix)) sets.push_back(name);
  }
  return sets;
}

}  // namespace

absl::StatusOr<CheckSource> FindCheckSource(const std::string& path) {
  const fs::path snapshots = fs::path(path) / "snapshots";
  std::error_code error;
  if (!fs::is_directory(snapshots, error)) return CheckSource{.path = path, .why = ""};
  if (const std::string revision = MainRevision(path); !revision.empty()) {
    const fs::path snapshot = snapshots / revision;
    if (fs::is_directory(snapshot, error)) return CheckSource{.path = snapshot.string(), .why = "named by refs/main"};
  }
  const std::vector<std::string> names = NamesIn(snapshots);
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
  std::vector<std::string> sets = SetsIn(source.path);
  const auto has = [&sets](const char* name) { return std::find(sets.begin(), sets.end(), name) != sets.end(); };
  std::string taken;
  std::string why;
  if (!weights.empty()) {
    return out + absl::StrFormat("weights %s (as --weights says)\n", weights);
  } else if (has(kStandardFile)) {
    taken = kStandardFile;
    why = "the standard name";
  } else if (has(kStandardIndex)) {
    taken = kStandardIndex;
    why = "the standard index";
  } else if (sets.size() == 1) {
    taken = sets[0];
    why = "the only one";
  } else {
    return out;  // the server takes the one that is no variant of another, or asks
  }
  std::erase(sets, taken);
  out += absl::StrFormat("weights %s (%s)\n", taken, why);
  if (!sets.empty()) out += absl::StrFormat("        not taken: %s; --weights NAME takes another\n", Shown(sets));
  return out;
}

}  // namespace keyload::cli
