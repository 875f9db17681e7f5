#include "server/checkpoint/weight_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/error.h"
#include "server/checkpoint/index_file.h"

namespace keyload {
namespace {

constexpr size_t kMaxListed = 200'000;
constexpr size_t kMaxNamed = 8;

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
};

std::string Join(const OpenedPath& directory, std::string_view name) {
  return absl::StrFormat("%s/%s", directory.resolved == "/" ? "" : directory.resolved, name);
}

bool IsPickle(std::string_view name) { return name.ends_with(".bin") || name.ends_with(".pt"); }

absl::Status PickleError(const OpenedPath& directory, std::string_view name) {
  const std::string path = Join(directory, name);
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

absl::StatusOr<Listing> List(const OpenedPath& directory) {
  // A descriptor of its own: closedir() closes it.
  const int fd = ::openat(directory.fd.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoToStatus(errno, "open", directory.resolved);
  std::unique_ptr<DIR, CloseDir> stream(::fdopendir(fd));
  if (stream == nullptr) {
    const int error = errno;
    ::close(fd);
    return ErrnoToStatus(error, "fdopendir", directory.resolved);
  }
  Listing listing;
  for (size_t count = 0;; ++count) {
    errno = 0;
    const dirent* entry = ::readdir(stream.get());
    if (entry == nullptr && errno != 0) return ErrnoToStatus(errno, "readdir", directory.resolved);
    if (entry == nullptr) break;
    if (count >= kMaxListed) {
      return MakeError(Reason::kCheckpointAmbiguous,
                       absl::StrFormat("%s has more than %d entries and no model.safetensors; name the file to load",
                                       directory.resolved, kMaxListed),
                       {{"path", directory.resolved}});
    }
    Sort(entry->d_name, listing);
  }
  for (auto* names : {&listing.indexes, &listing.safetensors, &listing.pickles})
    std::sort(names->begin(), names->end());
  return listing;
}

// Opens the first of `names` that is there; nullopt if none is.
absl::StatusOr<std::optional<WeightFile>> OpenFirst(const ModelRoots& roots, const OpenedPath& directory,
                                                    std::span<const std::string> names) {
  for (const std::string& name : names) {
    absl::StatusOr<OpenedPath> opened = roots.Open(Join(directory, name));
    if (!opened.ok() && ErrorReason(opened.status()) == Reason::kCheckpointNotFound) continue;
    if (!opened.ok()) return std::move(opened).status();
    const auto kind = name.ends_with(".json") ? WeightFile::Kind::kIndex : WeightFile::Kind::kSafetensors;
    return WeightFile{.kind = kind, .name = name, .opened = *std::move(opened)};
  }
  return std::nullopt;
}

absl::StatusOr<WeightFile> FindNamed(const ModelRoots& roots, const OpenedPath& directory, const std::string& weights) {
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
  return MakeError(Reason::kCheckpointNotFound,
                   absl::StrFormat("%s has no %s", directory.resolved, absl::StrJoin(names, ", ")),
                   {{"path", directory.resolved}, {"file", names.front()}});
}

absl::StatusOr<WeightFile> OpenOnly(const ModelRoots& roots, const OpenedPath& directory,
                                    const std::vector<std::string>& names) {
  if (names.size() > 1) {
    const auto shown = std::span(names).first(std::min(names.size(), kMaxNamed));
    return MakeError(Reason::kCheckpointAmbiguous,
                     absl::StrFormat("%s has %d sets of weights (%s%s); name one", directory.resolved, names.size(),
                                     absl::StrJoin(shown, ", "), shown.size() < names.size() ? ", ..." : ""),
                     {{"path", directory.resolved}});
  }
  KEYLOAD_ASSIGN_OR_RETURN(std::optional<WeightFile> file, OpenFirst(roots, directory, names));
  if (file) return *std::move(file);
  const std::string path = Join(directory, names.front());
  return MakeError(Reason::kCheckpointNotFound, absl::StrFormat("%s is a link to a file that is not there", path),
                   {{"file", path}});
}

}  // namespace

absl::StatusOr<WeightFile> FindWeights(const ModelRoots& roots, const OpenedPath& directory, const std::string& weights,
                                       bool allow_no_weights) {
  if (!weights.empty()) return FindNamed(roots, directory, weights);
  const std::array<std::string, 2> standard = {"model.safetensors", "model.safetensors.index.json"};
  KEYLOAD_ASSIGN_OR_RETURN(std::optional<WeightFile> file, OpenFirst(roots, directory, standard));
  if (file) return *std::move(file);
  KEYLOAD_ASSIGN_OR_RETURN(const Listing listing, List(directory));
  if (!listing.indexes.empty()) return OpenOnly(roots, directory, listing.indexes);
  if (!listing.safetensors.empty()) return OpenOnly(roots, directory, listing.safetensors);
  if (!listing.pickles.empty()) return PickleError(directory, listing.pickles.front());
  if (allow_no_weights) return WeightFile{};
  return MakeError(Reason::kCheckpointNotFound, absl::StrFormat("%s has no weights in it", directory.resolved),
                   {{"path", directory.resolved}});
}

}  // namespace keyload
