#include "server/checkpoint/weight_files.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <iterator>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/error.h"
#include "server/base/file_kind.h"
#include "server/base/strings.h"
#include "server/checkpoint/directory_entries.h"
#include "server/checkpoint/hub_cache.h"
#include "server/checkpoint/index_file.h"

namespace keyload {
namespace {

constexpr size_t kMaxNamed = 8;
constexpr size_t kMaxDirectories = 32;
constexpr size_t kMaxOthers = 1000;
constexpr time_t kNewerBySeconds = 60;  // a download of both takes its time

// What trainers leave beside weights in files that look like weights.
constexpr std::string_view kNotWeights[] = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin",
                                            "scheduler.pt"};

struct Listing {
  std::vector<std::string> weights;      // what ParseWeightName knows
  std::vector<std::string> others;       // what RecognizeName knows; the first ones
  std::vector<std::string> directories;  // the first ones
};

bool IsPickle(std::string_view name) { return name.ends_with(".bin") || name.ends_with(".pt"); }

bool MayBeWeights(std::string_view name) {
  return !name.starts_with('.') &&
         std::find(std::begin(kNotWeights), std::end(kNotWeights), name) == std::end(kNotWeights);
}

void Sort(std::string_view name, Listing& listing) {
  if (!MayBeWeights(name)) return;
  if (ParseWeightName(name)) {
    listing.weights.emplace_back(name);
  } else if (listing.others.size() < kMaxOthers && RecognizeName(name)) {
    listing.others.emplace_back(name);
  }
}

// What a name of `bytes` takes at most: in a list that doubles, and in two more that are made of it.
uint64_t ListedBytes(size_t bytes) { return 3 * (2 * sizeof(std::string) + sizeof(std::string_view) + bytes); }

absl::StatusOr<Listing> List(const OpenedPath& directory, const RequestContext& context, HeaderCharge* charge) {
  Listing listing;
  SteppedCharge listed(charge);
  absl::Status counted;
  size_t count = 0;
  KEYLOAD_RETURN_IF_ERROR(VisitEntries(directory, ".", context, [&](const dirent& entry) {
    if (count++ >= kMaxListed) return false;
    counted = listed.Add(ListedBytes(std::string_view(entry.d_name).size()), directory.resolved);
    if (!counted.ok()) return false;
    Sort(entry.d_name, listing);
    const bool may_be_directory = entry.d_type == DT_DIR || entry.d_type == DT_UNKNOWN;
    if (may_be_directory && entry.d_name[0] != '.' && listing.directories.size() < kMaxDirectories) {
      listing.directories.emplace_back(entry.d_name);
    }
    return true;
  }));
  KEYLOAD_RETURN_IF_ERROR(counted);
  if (count > kMaxListed) {
    return MakeError(Reason::kCheckpointAmbiguous,
                     absl::StrFormat("%s has more than %d entries and no model.safetensors; name the file to load",
                                     directory.resolved, kMaxListed),
                     {{"path", directory.resolved}});
  }
  for (auto* names : {&listing.weights, &listing.others, &listing.directories}) {
    KEYLOAD_RETURN_IF_ERROR(context.Check());
    std::sort(names->begin(), names->end());
  }
  return listing;
}

// Opens the first of `names` that is there; nullopt if none is.
absl::StatusOr<std::optional<WeightFile>> OpenFirst(const ModelRoots& roots, const OpenedPath& directory,
                                                    std::span<const std::string> names) {
  for (const std::string& name : names) {
    absl::StatusOr<OpenedPath> opened = roots.OpenIn(directory, name);
    if (!opened.ok() && ErrorReason(opened.status()) == Reason::kCheckpointNotFound) continue;
    if (!opened.ok()) return std::move(opened).status();
    const auto kind = name.ends_with(".json") ? WeightFile::Kind::kIndex : WeightFile::Kind::kSafetensors;
    return WeightFile{.kind = kind, .name = name, .opened = *std::move(opened)};
  }
  return std::nullopt;
}

// What a directory below `directory` has in it: weights, or a file of another format, by its name. Links are not
// followed.
struct Inside {
  bool weights = false;
  std::string other;
};
absl::StatusOr<Inside> LookInto(const OpenedPath& directory, const std::string& name, const RequestContext& context) {
  Inside inside;
  size_t count = 0;
  const absl::Status status = VisitEntries(directory, name.c_str(), context, [&](const dirent& entry) {
    const std::string_view entry_name = entry.d_name;
    inside.weights = entry_name.ends_with(kSafetensorsSuffix);
    if (inside.other.empty() && MayBeWeights(entry_name)) {
      const std::optional<FileKind> kind = RecognizeName(entry_name);
      if (kind && kind->is_format) inside.other = StrCat(name, "/", entry_name);
    }
    return !inside.weights && ++count < kMaxListed;
  });
  // What may not be looked into, or is no directory, is not what an answer can recommend.
  const Reason reason = status.ok() ? Reason::kInternal : ErrorReason(status);
  if (reason == Reason::kPathNotReadable || reason == Reason::kCheckpointNotFound) return Inside();
  KEYLOAD_RETURN_IF_ERROR(status);
  return inside;
}

// Of `others`, what says most about why there are no weights: pieces and capitals before other formats, and those
// before downloads that are not finished.
std::string_view MostTelling(const std::vector<std::string>& others) {
  std::string_view best;
  int best_rank = 3;
  for (const std::string& name : others) {
    const std::optional<FileKind> kind = RecognizeName(name);
    const int rank = kind->id == "incomplete" ? 2 : kind->is_format ? 1 : 0;
    if (rank < best_rank) {
      best = name;
      best_rank = rank;
    }
  }
  return best;
}

absl::Status NoWeights(const ModelRoots& roots, const OpenedPath& directory, const Listing& listing,
                       const RequestContext& context) {
  const ErrorMetadata metadata = {{"path", directory.resolved}};
  std::vector<std::string> components, repositories;
  std::vector<std::string> others = listing.others;
  for (const std::string& name : listing.directories) {
    if (IsHubRepository(name)) repositories.push_back(name);
    KEYLOAD_ASSIGN_OR_RETURN(Inside inside, LookInto(directory, name, context));
    if (inside.weights) components.push_back(name);
    if (!inside.other.empty()) others.push_back(std::move(inside.other));
  }
  if (!components.empty()) {
    return MakeError(
        Reason::kCheckpointAmbiguous,
        absl::StrFormat("%s has no weights of its own, but there are some in its directories (%s); give the "
                        "path of one, such as %s",
                        directory.resolved, absl::StrJoin(components, ", "),
                        ModelRoots::PathIn(directory, components.front())),
        metadata);
  }
  if (!repositories.empty()) {
    return MakeError(Reason::kCheckpointAmbiguous,
                     absl::StrFormat("%s is a hub's cache of repositories; give the path of one, such as %s",
                                     directory.resolved, ModelRoots::PathIn(directory, repositories.front())),
                     metadata);
  }
  const std::string_view other = MostTelling(others);
  const std::string downloads = UnfinishedDownloads(roots, directory, context);
  if (other.empty() || !downloads.empty()) {
    return MakeError(Reason::kCheckpointNotFound, StrCat(directory.resolved, " has no weights in it", downloads),
                     metadata);
  }
  return WrongKind(Reason::kCheckpointNotFound, ModelRoots::PathIn(directory, other), *RecognizeName(other));
}

absl::Status PartsAlone(const OpenedPath& directory, const WeightSet& set) {
  return MakeError(Reason::kCheckpointNotFound,
                   absl::StrFormat("%s has files of a sharded set of weights (%s%s) and no index file, which says "
                                   "what belongs to the set; fetch it, or name one file in weights (--weights) to "
                                   "read it alone",
                                   directory.resolved, set.file, set.parts > 1 ? ", ..." : ""),
                   {{"path", directory.resolved}});
}

// Opens the one set among `all` that counts.
absl::StatusOr<WeightFile> OpenOnly(const ModelRoots& roots, const OpenedPath& directory,
                                    const std::vector<WeightSet>& all, const RequestContext& context) {
  KEYLOAD_ASSIGN_OR_RETURN(const std::vector<WeightSet> sets, SetsThatCount(all, context));
  if (sets.size() > 1) {
    std::vector<std::string> shown;
    for (const WeightSet& set : sets) {
      if (shown.size() < kMaxNamed) shown.push_back(set.file);
    }
    return MakeError(
        Reason::kCheckpointAmbiguous,
        absl::StrFormat("%s has %d sets of weights (%s%s); name one in weights (--weights)", directory.resolved,
                        sets.size(), absl::StrJoin(shown, ", "), shown.size() < sets.size() ? ", ..." : ""),
        {{"path", directory.resolved}});
  }
  if (sets.front().form == WeightName::Form::kPart) return PartsAlone(directory, sets.front());
  KEYLOAD_ASSIGN_OR_RETURN(std::optional<WeightFile> file, OpenFirst(roots, directory, {&sets.front().file, 1}));
  if (file) return *std::move(file);
  const std::string path = ModelRoots::PathIn(directory, sets.front().file);
  return MakeError(Reason::kCheckpointNotFound,
                   StrCat(path,
                          " is a link to a file that is not there: where links were copied, the blobs that they "
                          "lead to have to be copied too",
                          UnfinishedDownloads(roots, directory, context)),
                   {{"file", path}});
}

absl::StatusOr<WeightFile> FindNamed(const ModelRoots& roots, const OpenedPath& directory, const std::string& weights,
                                     const RequestContext& context, HeaderCharge* charge) {
  if (std::string problem = FileNameProblem(weights); !problem.empty()) {
    return MakeError(Reason::kBadRequest, absl::StrFormat("the name of the weights %s", problem),
                     {{"path", directory.resolved}});
  }
  if (const auto kind = RecognizeName(weights); kind && kind->is_format)
    return WrongKind(Reason::kFormatNotSupported, ModelRoots::PathIn(directory, weights), *kind);
  std::vector<std::string> names = {weights};
  if (!weights.ends_with(kSafetensorsSuffix) && !weights.ends_with(".json")) {
    names = {absl::StrFormat("model.%s.safetensors", weights),
             absl::StrFormat("model.safetensors.index.%s.json", weights),
             absl::StrFormat("model.%s.safetensors.index.json", weights)};
  }
  KEYLOAD_ASSIGN_OR_RETURN(std::optional<WeightFile> file, OpenFirst(roots, directory, names));
  if (file) return *std::move(file);
  if (names.size() > 1) {
    KEYLOAD_ASSIGN_OR_RETURN(const Listing listing, List(directory, context, charge));
    KEYLOAD_ASSIGN_OR_RETURN(std::vector<WeightSet> sets, SetsAmong(listing.weights, context));
    const std::string end = StrCat(".", weights);
    std::erase_if(sets, [&end](const WeightSet& set) { return !set.stem.ends_with(end); });
    if (!sets.empty()) return OpenOnly(roots, directory, sets, context);
  }
  return MakeError(Reason::kCheckpointNotFound,
                   absl::StrFormat("%s has no %s", directory.resolved, absl::StrJoin(names, ", ")),
                   {{"path", directory.resolved}, {"file", names.front()}});
}

}  // namespace

absl::StatusOr<WeightFile> FindWeights(const ModelRoots& roots, const OpenedPath& directory, const std::string& weights,
                                       bool allow_no_weights, const RequestContext& context, HeaderCharge* charge) {
  if (!weights.empty()) return FindNamed(roots, directory, weights, context, charge);
  const std::array<std::string, 2> standard = {"model.safetensors", "model.safetensors.index.json"};
  KEYLOAD_ASSIGN_OR_RETURN(std::optional<WeightFile> file, OpenFirst(roots, directory, standard));
  if (file) return *std::move(file);
  KEYLOAD_ASSIGN_OR_RETURN(const Listing listing, List(directory, context, charge));
  KEYLOAD_ASSIGN_OR_RETURN(const std::vector<WeightSet> sets, SetsAmong(listing.weights, context));
  if (!sets.empty()) return OpenOnly(roots, directory, sets, context);
  if (allow_no_weights && std::none_of(listing.others.begin(), listing.others.end(), IsPickle)) return WeightFile{};
  return NoWeights(roots, directory, listing, context);
}

std::string NewerPickle(const OpenedPath& directory, const WeightFile& file) {
  struct stat taken, beside;
  if (::fstat(file.opened.fd.get(), &taken) != 0) return "";
  std::vector<std::string> names = {"pytorch_model.bin", "pytorch_model.bin.index.json"};
  if (const auto parsed = ParseWeightName(file.name)) names.push_back(StrCat(parsed->stem, ".bin"));
  for (const std::string& name : names) {
    if (::fstatat(directory.fd.get(), name.c_str(), &beside, 0) != 0 || !S_ISREG(beside.st_mode)) continue;
    if (beside.st_mtim.tv_sec - taken.st_mtim.tv_sec < kNewerBySeconds) continue;
    return StrCat(name, " is newer than ", file.name,
                  " and is not read; if it has the weights that you mean, convert it");
  }
  return "";
}

std::vector<std::string> SetsIn(const OpenedPath& directory, size_t limit, const RequestContext& context) {
  std::vector<std::string> files;
  const absl::StatusOr<Listing> listing = List(directory, context, /*charge=*/nullptr);
  if (!listing.ok()) return files;
  const absl::StatusOr<std::vector<WeightSet>> sets = SetsAmong(listing->weights, context);
  if (!sets.ok()) return files;
  for (const WeightSet& set : *sets) {
    if (files.size() < limit) files.push_back(set.file);
  }
  return files;
}

}  // namespace keyload
