#include "server/state/state_directory.h"

#include <fcntl.h>
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

absl::Status SyncFolder(const std::string& path) {
  const UniqueFd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder || fsync(folder.get()) != 0) return Failed("fsync", path);
  return absl::OkStatus();
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

absl::StatusOr<std::string> ReadRecord(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!file) return ErrnoToStatus(errno, "open", path);
  KEYLOAD_ASSIGN_OR_RETURN(std::string bytes, ReadWholeFile(file.get(), path, kMaxRecordBytes));
  const size_t line = bytes.find('\n');
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

}  // namespace

absl::StatusOr<StateDirectory> StateDirectory::Open(const std::string& path, const std::vector<std::string>& kinds) {
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
  for (const std::string& kind : kinds) {
    const std::string folder = StrCat(path, "/", kind);
    if (!make(folder)) return CannotKeep(folder, error.message());
    for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(folder, error)) {
      if (entry.path().filename().string().starts_with(kHalfWritten)) std::filesystem::remove(entry.path(), error);
    }
    if (error) return CannotKeep(folder, error.message());
  }
  return StateDirectory(path, *std::move(lock));
}

std::string StateDirectory::FileOf(std::string_view kind, std::string_view name) const {
  return StrCat(path_, "/", kind, "/", name);
}

absl::Status StateDirectory::Write(std::string_view kind, std::string_view name, std::string_view bytes) const {
  const std::string half = FileOf(kind, StrCat(kHalfWritten, name));
  const std::string file = FileOf(kind, name);
  if (bytes.size() > kMaxRecordBytes) {
    return MakeError(Reason::kDocumentTooLarge, StrCat(file, " would be over ", kMaxRecordBytes, " bytes"),
                     {{"file", file}});
  }
  absl::Status status = WriteFile(half, bytes);
  if (status.ok() && rename(half.c_str(), file.c_str()) != 0) status = Failed("rename", file);
  if (!status.ok()) {
    unlink(half.c_str());
    return status;
  }
  return SyncFolder(FileOf(kind, ""));
}

absl::Status StateDirectory::Remove(std::string_view kind, std::string_view name) const {
  const std::string file = FileOf(kind, name);
  if (unlink(file.c_str()) == 0) return SyncFolder(FileOf(kind, ""));
  return errno == ENOENT ? absl::OkStatus() : Failed("unlink", file);
}

absl::StatusOr<std::vector<std::string>> StateDirectory::Names(std::string_view kind) const {
  std::vector<std::string> names;
  std::error_code error;
  const std::string folder = FileOf(kind, "");
  for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(folder, error)) {
    std::string name = entry.path().filename().string();
    if (!name.starts_with('.')) names.push_back(std::move(name));
  }
  if (error) return MakeError(Reason::kIoError, StrCat(folder, ": ", error.message()), {{"file", folder}});
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
