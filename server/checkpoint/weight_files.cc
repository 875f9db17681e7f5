#include "server/checkpoint/weight_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/error.h"
#include "server/checkpoint/index_file.h"

namespace keyload {
namespace {

constexpr size_t kMaxListed = 200'000;
constexpr size_t kMaxNamed = 8;
constexpr size_t kMaxDirectories = 32;

// What trainers leave beside weights in files that look like weights.
constexpr std::string_view kNotWeights[] = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin",
                                            "scheduler.pt"};

struct CloseDir {
  void operator()(DIR* stream) const { ::closedir(stream); }
};

struct Listing {
  std::vector<std::string> indexes;
  std::vector<std::string> safetensors;
  std::vector<std::string> pickles;
  std::vector<std::string> directories;  // the first ones
};

bool IsPickle(std::string_view name) { return name.ends_with(".bin") || name.ends_with(".pt"); }

absl::Status PickleError(const OpenedPath& directory, std::string_view name) {
  const std::string path = ModelRoots::PathIn(directory, name);
  return MakeError(Reason::kFormatNotSupported,
                   absl::StrFormat("%s holds pickled weights; only safetensors is read", path), {{"file", path}});
}

void Sort(std::string_view name, Listing& listing) {
  if (name.starts_with('.')) return;
  if (name.ends_with(kIndexFileSuffix)) listing.indexes.emplace_back(name);
  if (name.ends_with(kSafetensorsSuffix)) listing.safetensors.emplace_back(name);
  if (IsPickle(name) && std::find(std::begin(kNotWeights), std::end(kNotWeights), name) == std::end(kNotWeights)) {
    listing.pickles.emplace_back(name);
  }
}

// Calls `visit` with the entries of the directory `name` below `directory`, "." for itself, in no order, until it
// returns false. Links to directories are not followed. Asks `context`. An error of the file system is one, also in the
// middle.
absl::Status VisitEntries(const OpenedPath& directory, const char* name, const RequestContext& context,
                          absl::FunctionRef<bool(const dirent&)> visit) {
  const std::string path = ModelRoots::PathIn(directory, name);
  // A descriptor of its own: closedir() closes it.
  const int fd = ::openat(directory.fd.get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return ErrnoToStatus(errno, "open", path);
  std::unique_ptr<DIR, CloseDir> stream(::fdopendir(fd));
  if (stream == nullptr) {
    const int error = errno;
    ::close(fd);
    return ErrnoToStatus(error, "fdopendir", path);
  }
  PeriodicCheck check(&context);
  while (true) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    errno = 0;
    const dirent* entry = ::readdir(stream.get());
    if (entry == nullptr && errno != 0) return ErrnoToStatus(errno, "readdir", path);
    if (entry == nullptr || !visit(*entry)) return absl::OkStatus();
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
  for (auto* names : {&listing.indexes, &listing.safetensors, &listing.pickles, &listing.directories}) {
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

// `names`, which are sorted and end with `suffix`, without those that are variants of another one:
// "unet.fp16.safetensors" is the variant fp16 of "unet.safetensors"; and so with index files.
absl::StatusOr<std::vector<std::string>> WithoutVariants(const std::vector<std::string>& names, std::string_view suffix,
                                                         const RequestContext& context) {
  // A variant begins with the stem of the other name and a dot. All that begin so are neighbours in the order of names,
  // behind the stem itself: one pass over both lists finds, for each name, the shortest stem that it begins with.
  std::vector<std::string_view> stems;
  stems.reserve(names.size());
  for (const std::string& name : names)
    stems.push_back(std::string_view(name).substr(0, name.size() - suffix.size() + 1));
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  std::sort(stems.begin(), stems.end());
  std::vector<std::string> plain;
  std::string_view shortest;
  PeriodicCheck check(&context);
  auto stem = stems.begin();
  for (const std::string& name : names) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    for (; stem != stems.end() && *stem <= name; ++stem) {
      if (shortest.empty() || !stem->starts_with(shortest)) shortest = *stem;
    }
    const bool is_variant =
        !shortest.empty() && name.starts_with(shortest) && name.size() > shortest.size() - 1 + suffix.size();
    if (!is_variant) plain.push_back(name);
  }
  return plain;
}

// Whether a directory below `directory` has weights in it. Links are not followed.
absl::StatusOr<bool> HoldsWeights(const OpenedPath& directory, const std::string& name, const RequestContext& context) {
  bool found = false;
  size_t count = 0;
  const absl::Status status = VisitEntries(directory, name.c_str(), context, [&](const dirent& entry) {
    found = std::string_view(entry.d_name).ends_with(kSafetensorsSuffix);
    return !found && ++count < kMaxListed;
  });
  // What may not be looked into, or is no directory, is not what an answer can recommend.
  const Reason reason = status.ok() ? Reason::kInternal : ErrorReason(status);
  if (reason == Reason::kPathNotReadable || reason == Reason::kCheckpointNotFound) return false;
  KEYLOAD_RETURN_IF_ERROR(status);
  return found;
}

absl::Status NoWeights(const OpenedPath& directory, const Listing& listing, const RequestContext& context) {
  std::vector<std::string> components;
  for (const std::string& name : listing.directories) {
    KEYLOAD_ASSIGN_OR_RETURN(const bool holds_weights, HoldsWeights(directory, name, context));
    if (holds_weights) components.push_back(name);
  }
  if (components.empty()) {
    return MakeError(Reason::kCheckpointNotFound, absl::StrFormat("%s has no weights in it", directory.resolved),
                     {{"path", directory.resolved}});
  }
  return MakeError(Reason::kCheckpointAmbiguous,
                   absl::StrFormat("%s has no weights of its own, but there are some in its directories (%s); give the "
                                   "path of one, such as %s",
                                   directory.resolved, absl::StrJoin(components, ", "),
                                   ModelRoots::PathIn(directory, components.front())),
                   {{"path", directory.resolved}});
}

absl::StatusOr<WeightFile> OpenOnly(const ModelRoots& roots, const OpenedPath& directory,
                                    const std::vector<std::string>& all, std::string_view suffix,
                                    const RequestContext& context) {
  KEYLOAD_ASSIGN_OR_RETURN(const std::vector<std::string> names, WithoutVariants(all, suffix, context));
  if (names.size() > 1) {
    const auto shown = std::span(names).first(std::min(names.size(), kMaxNamed));
    return MakeError(
        Reason::kCheckpointAmbiguous,
        absl::StrFormat("%s has %d sets of weights (%s%s); name one in weights (--weights)", directory.resolved,
                        names.size(), absl::StrJoin(shown, ", "), shown.size() < names.size() ? ", ..." : ""),
        {{"path", directory.resolved}});
  }
  KEYLOAD_ASSIGN_OR_RETURN(std::optional<WeightFile> file, OpenFirst(roots, directory, names));
  if (file) return *std::move(file);
  const std::string path = ModelRoots::PathIn(directory, names.front());
  return MakeError(Reason::kCheckpointNotFound, absl::StrFormat("%s is a link to a file that is not there", path),
                   {{"file", path}});
}

// "model-00002-of-00005.safetensors" is one of five files.
bool IsPart(std::string_view name) {
  constexpr std::string_view kDigits = "0123456789";
  name.remove_suffix(kSafetensorsSuffix.size());
  const size_t count = name.find_last_not_of(kDigits);
  if (count == std::string_view::npos || !name.substr(0, count + 1).ends_with("-of-")) return false;
  const std::string_view numbered = name.substr(0, count + 1 - 4);
  const size_t dash = numbered.find_last_not_of(kDigits);
  const bool of_one = name.find_first_not_of('0', count + 1) == name.size() - 1 && name.ends_with('1');
  return dash != std::string_view::npos && dash + 1 < numbered.size() && numbered[dash] == '-' &&
         count + 1 < name.size() && !of_one;
}

absl::Status PartsAlone(const OpenedPath& directory, const std::vector<std::string>& parts) {
  const auto shown = std::span(parts).first(std::min(parts.size(), kMaxNamed));
  return MakeError(
      Reason::kCheckpointNotFound,
      absl::StrFormat("%s has files of a sharded set of weights (%s%s) and no index file; to read one alone, "
                      "name it in weights (--weights)",
                      directory.resolved, absl::StrJoin(shown, ", "), shown.size() < parts.size() ? ", ..." : ""),
      {{"path", directory.resolved}});
}

// "unet.fp16.safetensors" for fp16.
std::vector<std::string> VariantsNamed(const std::vector<std::string>& names, std::string_view variant,
                                       std::string_view suffix) {
  const std::string end = absl::StrFormat(".%s%s", variant, suffix);
  std::vector<std::string> found;
  std::copy_if(names.begin(), names.end(), std::back_inserter(found),
               [&end](const std::string& name) { return name.ends_with(end); });
  return found;
}

absl::StatusOr<WeightFile> FindNamed(const ModelRoots& roots, const OpenedPath& directory, const std::string& weights,
                                     const RequestContext& context, HeaderCharge* charge) {
  if (std::string problem = FileNameProblem(weights); !problem.empty()) {
    return MakeError(Reason::kBadRequest, absl::StrFormat("the name of the weights %s", problem),
                     {{"path", directory.resolved}});
  }
  if (IsPickle(weights)) return PickleError(directory, weights);
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
    const std::vector<std::string> indexes = VariantsNamed(listing.indexes, weights, kIndexFileSuffix);
    if (!indexes.empty()) return OpenOnly(roots, directory, indexes, kIndexFileSuffix, context);
    const std::vector<std::string> files = VariantsNamed(listing.safetensors, weights, kSafetensorsSuffix);
    if (!files.empty()) return OpenOnly(roots, directory, files, kSafetensorsSuffix, context);
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
  if (!listing.indexes.empty()) return OpenOnly(roots, directory, listing.indexes, kIndexFileSuffix, context);
  if (!listing.safetensors.empty() && std::all_of(listing.safetensors.begin(), listing.safetensors.end(), IsPart))
    return PartsAlone(directory, listing.safetensors);
  if (!listing.safetensors.empty()) return OpenOnly(roots, directory, listing.safetensors, kSafetensorsSuffix, context);
  if (!listing.pickles.empty()) return PickleError(directory, listing.pickles.front());
  if (allow_no_weights) return WeightFile{};
  return NoWeights(directory, listing, context);
}

}  // namespace keyload
