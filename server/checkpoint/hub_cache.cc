#include "server/checkpoint/hub_cache.h"

#include <sys/stat.h>

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "server/base/byte_size.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/base/whole_file.h"
#include "server/checkpoint/directory_entries.h"
#include "server/checkpoint/index_file.h"

namespace keyload {
namespace {

constexpr uint64_t kMaxRevisionBytes = 4096;
constexpr size_t kMaxSnapshots = 1000;
constexpr size_t kNamesShown = 8;
constexpr size_t kDownloadsShown = 3;
constexpr std::string_view kSnapshots = "snapshots";

// What refs/main says, if it is a plain name; else empty.
std::string MainRevision(const ModelRoots& roots, const OpenedPath& repository) {
  const absl::StatusOr<OpenedPath> file = roots.OpenIn(repository, "refs/main");
  if (!file.ok() || file->is_directory) return "";
  const absl::StatusOr<std::string> text = ReadWholeFile(file->fd.get(), file->resolved, kMaxRevisionBytes);
  if (!text.ok()) return "";
  const std::string revision(absl::StripAsciiWhitespace(ToAbsl(*text)));
  return FileNameProblem(revision).empty() ? revision : "";
}

std::string Shown(const std::vector<std::string>& names) {
  const auto shown = std::span(names).first(std::min(names.size(), kNamesShown));
  return StrCat(absl::StrJoin(shown, ", "), shown.size() < names.size() ? ", ..." : "");
}

struct Download {
  std::string name;
  uint64_t bytes = 0;
};

void AddDownloads(const absl::StatusOr<OpenedPath>& directory, std::string_view prefix, const RequestContext& context,
                  std::vector<Download>& found) {
  if (!directory.ok() || !directory->is_directory) return;
  size_t count = 0;
  // What cannot be listed is not told; the answer is about something else.
  VisitEntries(*directory, ".", context, [&](const dirent& entry) {
    const std::string_view name = entry.d_name;
    struct stat status;
    if (name.ends_with(".incomplete") && ::fstatat(directory->fd.get(), entry.d_name, &status, 0) == 0) {
      found.push_back({.name = StrCat(prefix, name), .bytes = static_cast<uint64_t>(status.st_size)});
    }
    return ++count < kMaxListed;
  }).IgnoreError();
}

}  // namespace

absl::StatusOr<std::optional<OpenedPath>> OpenSnapshot(const ModelRoots& roots, const OpenedPath& directory,
                                                       const RequestContext& context) {
  absl::StatusOr<OpenedPath> snapshots = roots.OpenIn(directory, std::string(kSnapshots));
  if (!snapshots.ok() || !snapshots->is_directory) return std::nullopt;
  std::vector<std::string> names;
  KEYLOAD_RETURN_IF_ERROR(VisitEntries(*snapshots, ".", context, [&](const dirent& entry) {
    if (entry.d_name[0] != '.') names.emplace_back(entry.d_name);
    return names.size() < kMaxSnapshots;
  }));
  std::sort(names.begin(), names.end());
  const ErrorMetadata metadata = {{"path", directory.resolved}};
  if (names.empty()) {
    return MakeError(Reason::kCheckpointNotFound,
                     StrCat(directory.resolved, " is a repository of the hub's cache that holds no snapshot",
                            UnfinishedDownloads(roots, directory, context)),
                     metadata);
  }
  const std::string revision = MainRevision(roots, directory);
  if (revision.empty() && names.size() > 1) {
    return MakeError(Reason::kCheckpointAmbiguous,
                     StrCat(directory.resolved, " holds ", names.size(), " snapshots (", Shown(names),
                            "), and refs/main names none of them; give the path of one, such as ",
                            ModelRoots::PathIn(*snapshots, names.front())),
                     metadata);
  }
  absl::StatusOr<OpenedPath> snapshot = roots.OpenIn(*snapshots, revision.empty() ? names.front() : revision);
  if (snapshot.ok() || ErrorReason(snapshot.status()) != Reason::kCheckpointNotFound) return snapshot;
  return MakeError(
      Reason::kCheckpointNotFound,
      StrCat("refs/main of ", directory.resolved, " names ", revision, ", which is not among its snapshots (",
             Shown(names), "); give the path of one, such as ", ModelRoots::PathIn(*snapshots, names.front())),
      metadata);
}

std::string UnfinishedDownloads(const ModelRoots& roots, const OpenedPath& directory, const RequestContext& context) {
  std::vector<Download> found;
  AddDownloads(roots.OpenIn(directory, "."), "", context, found);
  constexpr char kDownloadCache[] = ".cache/huggingface/download";
  AddDownloads(roots.OpenIn(directory, kDownloadCache), StrCat(kDownloadCache, "/"), context, found);
  AddDownloads(roots.OpenIn(directory, "blobs"), "blobs/", context, found);
  const std::string_view resolved = directory.resolved;
  const size_t name = resolved.rfind('/');
  const std::string_view parent = resolved.substr(0, name);
  if (name != std::string_view::npos && parent.ends_with(StrCat("/", kSnapshots))) {
    const std::string blobs = StrCat(parent.substr(0, parent.size() - kSnapshots.size()), "blobs");
    AddDownloads(roots.Open(blobs), StrCat(blobs, "/"), context, found);
  }
  if (found.empty()) return "";
  std::sort(found.begin(), found.end(), [](const Download& a, const Download& b) { return a.name < b.name; });
  const size_t shown = std::min(found.size(), kDownloadsShown);
  const auto text = [](std::string* out, const Download& download) {
    StrAppend(out, download.name, " (", FormatByteSize(download.bytes), ")");
  };
  return StrCat("; ", found.size(), found.size() == 1 ? " download was" : " downloads were", " not finished: ",
                absl::StrJoin(found.begin(), found.begin() + static_cast<ptrdiff_t>(shown), ", ", text),
                shown < found.size() ? ", ..." : "", "; run the download again");
}

}  // namespace keyload
