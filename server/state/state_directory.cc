#include "server/state/state_directory.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "server/base/digest.h"
#include "server/base/error.h"
#include "server/base/lock_file.h"
#include "server/base/log.h"
#include "server/base/strings.h"
#include "server/base/whole_file.h"

namespace keyload {
namespace {

constexpr std::string_view kAside = "aside";
constexpr std::string_view kHalfWritten = ".half-";
constexpr std::string_view kMagic = "keyload state 1 ";  // then the payload's digest and a line feed, then the payload
constexpr uint64_t kMaxRecordBytes = uint64_t{1} << 30;

absl::Status CannotKeep(const std::string& path, std::string_view why) {
  return MakeError(Reason::kBadRequest, StrCat("cannot keep state in ", path, ": ", why), {{"path", path}});
}

absl::Status Failed(std::string_view operation, const std::string& path) {
  const int error = errno;
  return MakeError(Reason::kIoError, StrCat(path, ": ", operation, ": ", std::strerror(error)), {{"file", path}});
}

absl::Status WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t put = write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return Failed("write", path);
    bytes.remove_prefix(static_cast<size_t>(put));
  }
  return absl::OkStatus();
}

absl::Status WriteFile(const std::string& path, std::string_view bytes) {
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return Failed("open", path);
  KEYLOAD_RETURN_IF_ERROR(WriteAll(file.get(), StrCat(kMagic, Sha256Digest(bytes), "\n"), path));
  KEYLOAD_RETURN_IF_ERROR(WriteAll(file.get(), bytes, path));
  if (fdatasync(file.get()) != 0) return Failed("fdatasync", path);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadBytes(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!file) return ErrnoToStatus(errno, "open", path);
  return ReadWholeFile(file.get(), path, kMaxRecordBytes);
}

absl::StatusOr<std::string> ReadRecord(const std::string& path) {
  absl::StatusOr<std::string> read = ReadBytes(path);
  // What cannot be read is not what makes no sense: the caller leaves it where it is.
  if (ErrorReason(read.status()) == Reason::kCheckpointCorrupt) {
    return MakeError(Reason::kIoError, ToStd(read.status().message()), {{"file", path}});
  }
  KEYLOAD_RETURN_IF_ERROR(read.status());
  std::string bytes = *std::move(read);
  const size_t line = std::string_view(bytes).find('\n');
  if (!bytes.starts_with(kMagic) || line == std::string::npos) {
    return MakeError(Reason::kCheckpointCorrupt, StrCat(path, ": no record of this version"));
  }
  const std::string digest = bytes.substr(kMagic.size(), line - kMagic.size());
  bytes.erase(0, line + 1);
  if (Sha256Digest(bytes) != digest) {
    return MakeError(Reason::kCheckpointCorrupt, StrCat(path, ": the content is not what was written"));
  }
  return bytes;
}

// The names in a folder, without those that begin with a dot unless they are `half_written`.
absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& folder, bool half_written) {
  std::vector<std::string> names;
  std::error_code error;
  // The range-based loop would throw where the iterator's increment fails.
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (half_written ? name.starts_with(kHalfWritten) : !name.starts_with('.')) names.push_back(std::move(name));
  }
  if (error) return MakeError(Reason::kIoError, StrCat(folder, ": ", error.message()), {{"file", folder}});
  return names;
}

// How a new file came to its name: in the place of nothing, of a file that has the other name now, or of one that is
// gone.
enum class Placing { kNew, kExchanged, kReplaced };

absl::StatusOr<Placing> PutInPlace(const std::string& half, const std::string& file) {
  if (renameat2(AT_FDCWD, half.c_str(), AT_FDCWD, file.c_str(), RENAME_EXCHANGE) == 0) return Placing::kExchanged;
  const bool is_new = errno == ENOENT;
  if (!is_new && errno != EINVAL && errno != ENOSYS) return Failed("rename", file);
  if (rename(half.c_str(), file.c_str()) != 0) return Failed("rename", file);
  return is_new ? Placing::kNew : Placing::kReplaced;
}

}  // namespace

int StateDirectory::FsyncFolder(int fd) { return fsync(fd); }

absl::StatusOr<StateDirectory> StateDirectory::Open(const std::string& path, const std::vector<std::string>& kinds,
                                                    FolderSync sync) {
  std::error_code error;
  const auto make = [&](const std::string& folder) {
    if (std::filesystem::create_directories(folder, error)) {
      std::filesystem::permissions(folder, std::filesystem::perms::owner_all, error);
    }
    return !error;
  };
  if (!make(path) || !make(StrCat(path, "/", kAside))) return CannotKeep(path, error.message());
  absl::StatusOr<UniqueFd> lock = LockFile(StrCat(path, "/lock"), "another keyloadd keeps its state there");
  if (!lock.ok()) return CannotKeep(path, ToStd(lock.status().message()));
  StateDirectory state(path, *std::move(lock), std::move(sync));
  for (const std::string& kind : kinds) {
    const std::string folder = StrCat(path, "/", kind);
    if (!make(folder)) return CannotKeep(folder, error.message());
    UniqueFd opened(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!opened) return CannotKeep(folder, std::strerror(errno));
    state.folders_.emplace(kind, std::move(opened));
    const absl::StatusOr<std::vector<std::string>> halves = ListFolder(folder, /*half_written=*/true);
    if (!halves.ok()) return CannotKeep(folder, ToStd(halves.status().message()));
    for (const std::string& half : *halves) {
      if (!std::filesystem::remove(StrCat(folder, "/", half), error) && error)
        return CannotKeep(folder, error.message());
    }
  }
  return state;
}

std::string StateDirectory::FileOf(std::string_view kind, std::string_view name) const {
  return StrCat(path_, "/", kind, "/", name);
}

absl::Status StateDirectory::SyncFolder(std::string_view kind) const {
  const auto folder = folders_.find(kind);
  if (folder == folders_.end()) return MakeError(Reason::kInternal, StrCat("no kind of record ", kind));
  return sync_(folder->second.get()) == 0 ? absl::OkStatus() : Failed("fsync", FileOf(kind, ""));
}

absl::Status StateDirectory::WriteHalf(std::string_view kind, std::string_view name, std::string_view bytes) const {
  const std::string file = FileOf(kind, name);
  if (bytes.size() > kMaxRecordBytes) {
    return MakeError(Reason::kDocumentTooLarge, StrCat(file, " would be over ", kMaxRecordBytes, " bytes"),
                     {{"file", file}});
  }
  const std::string half = FileOf(kind, StrCat(kHalfWritten, name));
  absl::Status status = WriteFile(half, bytes);
  if (!status.ok()) unlink(half.c_str());
  return status;
}

absl::Status StateDirectory::Write(std::string_view kind, std::string_view name, std::string_view bytes) const {
  const Record record = {name, bytes};
  return WriteAll(kind, {&record, 1});
}

absl::Status StateDirectory::WriteAll(std::string_view kind, std::span<const Record> records) const {
  struct Placed {
    std::string file;
    std::string half;
    Placing how;
  };
  std::vector<Placed> placed;
  absl::Status result;
  for (const Record& record : records) {
    const std::string file = FileOf(kind, record.name);
    const std::string half = FileOf(kind, StrCat(kHalfWritten, record.name));
    absl::Status status = WriteHalf(kind, record.name, record.bytes);
    if (status.ok()) {
      const absl::StatusOr<Placing> how = PutInPlace(half, file);
      if (how.ok()) placed.push_back({file, half, *how});
      if (!how.ok()) unlink(half.c_str());
      status = how.status();
    }
    result.Update(status);
  }
  if (placed.empty()) return result;
  const absl::Status synced = SyncFolder(kind);
  for (const Placed& place : placed) {
    if (!synced.ok() && place.how == Placing::kNew) unlink(place.file.c_str());
    if (place.how != Placing::kExchanged) continue;
    if (!synced.ok()) rename(place.half.c_str(), place.file.c_str());
    unlink(place.half.c_str());
  }
  result.Update(synced);
  return result;
}

absl::Status StateDirectory::Remove(std::string_view kind, std::string_view name) const {
  const std::string file = FileOf(kind, name);
  if (unlink(file.c_str()) == 0) return SyncFolder(kind);
  return errno == ENOENT ? absl::OkStatus() : Failed("unlink", file);
}

absl::Status StateDirectory::Forget(std::string_view kind, std::span<const std::string> names) const {
  absl::Status result;
  for (const std::string& name : names) {
    const std::string file = FileOf(kind, name);
    if (unlink(file.c_str()) != 0 && errno != ENOENT) result.Update(Failed("unlink", file));
  }
  return result;
}

absl::StatusOr<std::vector<std::string>> StateDirectory::Names(std::string_view kind) const {
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<std::string> names, ListFolder(FileOf(kind, ""), /*half_written=*/false));
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::string> StateDirectory::Read(std::string_view kind, std::string_view name) const {
  return ReadRecord(FileOf(kind, name));
}

void StateDirectory::SetAside(std::string_view kind, std::string_view name, const absl::Status& why) const {
  const std::string aside = FileOf(kAside, StrCat(kind, "-", name));
  const bool moved = rename(FileOf(kind, name).c_str(), aside.c_str()) == 0;
  Log(LogLevel::kWarning, "state set aside",
      {{"file", moved ? aside : FileOf(kind, name)}, {"reason", std::string(why.message())}});
}

}  // namespace keyload
