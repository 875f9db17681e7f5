#include "server/checkpoint/shard_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/base/file_kind.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_buffer.h"

namespace keyload {
namespace {

// Fills `size` bytes from `offset` on; short reads and interrupted calls go on.
absl::Status ReadFully(int fd, char* data, size_t size, uint64_t offset, const std::string& path) {
  while (size > 0) {
    const ssize_t got = ::pread(fd, data, size, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoToStatus(errno, absl::StrFormat("pread at byte %d", offset), path);
    if (got == 0) {
      return MakeError(Reason::kCheckpointTruncated,
                       absl::StrFormat("%s: the file ended at byte %d while it was read", path, offset),
                       {{"file", path}, {"offset", std::to_string(offset)}});
    }
    data += got;
    size -= static_cast<size_t>(got);
    offset += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<FileKind>> Recognize(int fd, uint64_t size, const std::string& path) {
  std::string first(std::min<uint64_t>(size, kFileKindBytes), '\0');
  KEYLOAD_RETURN_IF_ERROR(ReadFully(fd, first.data(), first.size(), 0, path));
  return RecognizeFile(first, size);
}

// What the file at `path` is instead of safetensors, where its first bytes tell; else `problem`, which they gave.
absl::Status NotSafetensors(const Shard& shard, const std::string& path, absl::Status problem) {
  const Reason reason = ErrorReason(problem);
  if (reason != Reason::kCheckpointCorrupt && reason != Reason::kCheckpointTruncated) return problem;
  KEYLOAD_ASSIGN_OR_RETURN(const std::optional<FileKind> kind, Recognize(shard.fd->get(), shard.identity.size, path));
  return kind ? WrongKind(reason, path, *kind) : problem;
}

}  // namespace

absl::StatusOr<Shard> MakeShard(OpenedPath opened, const std::string& path, const std::string& name) {
  if (opened.is_directory) {
    return MakeError(Reason::kCheckpointCorrupt, absl::StrFormat("%s is a directory, not a shard", path),
                     {{"file", path}, {"shard", name}});
  }
  Shard shard;
  KEYLOAD_ASSIGN_OR_RETURN(shard.identity, IdentifyFile(opened.fd.get(), path));
  shard.file = name;
  shard.resolved = std::move(opened.resolved);
  shard.fd = std::make_shared<const UniqueFd>(std::move(opened.fd));
  return shard;
}

absl::StatusOr<uint64_t> ReadHeaderLength(const Shard& shard, const std::string& path) {
  const int fd = shard.fd->get();
  const uint64_t file_size = shard.identity.size;
  // Else the kernel reads on behind the header, into tensors that may never be wanted.
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  char prefix[kHeaderPrefixBytes];
  const size_t prefix_size = std::min<uint64_t>(file_size, sizeof(prefix));
  KEYLOAD_RETURN_IF_ERROR(ReadFully(fd, prefix, prefix_size, 0, path));
  absl::StatusOr<uint64_t> length = ParseHeaderLength({prefix, prefix_size}, file_size, path);
  return length.ok() ? std::move(length) : NotSafetensors(shard, path, std::move(length).status());
}

absl::StatusOr<SafetensorsHeader> ReadShardHeader(const Shard& shard, uint64_t length, const std::string& path,
                                                  uint32_t number, HeaderCharge& charge) {
  TemporaryCharge buffer(&charge);
  KEYLOAD_RETURN_IF_ERROR(buffer.Add(length + JsonBuffer::kPadding, path));
  JsonBuffer json(length);
  KEYLOAD_RETURN_IF_ERROR(ReadFully(shard.fd->get(), json.data(), length, kHeaderPrefixBytes, path));
  absl::StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(json, shard.identity.size, path, number, &charge);
  return header.ok() ? std::move(header) : NotSafetensors(shard, path, std::move(header).status());
}

absl::Status CheckUnchanged(const Shard& shard, std::string_view when, ErrorMetadata metadata) {
  if (shard.fd == nullptr) return absl::OkStatus();  // it was absent, and nothing is read from it
  KEYLOAD_ASSIGN_OR_RETURN(const FileIdentity now, IdentifyFile(shard.fd->get(), shard.file));
  if (now == shard.identity) return absl::OkStatus();
  metadata["file"] = shard.file;
  return MakeError(Reason::kCheckpointChanged, StrCat(shard.file, ": the file changed ", when), metadata);
}

absl::StatusOr<std::optional<FileKind>> RecognizeOpened(const OpenedPath& opened, const std::string& path) {
  KEYLOAD_ASSIGN_OR_RETURN(const FileIdentity identity, IdentifyFile(opened.fd.get(), path));
  return Recognize(opened.fd.get(), identity.size, path);
}

absl::StatusOr<FileIdentity> IdentifyJsonFile(const OpenedPath& opened, const std::string& path) {
  if (opened.is_directory) {
    return MakeError(Reason::kCheckpointCorrupt, absl::StrFormat("%s is a directory, not an index file", path),
                     {{"file", path}});
  }
  return IdentifyFile(opened.fd.get(), path);
}

absl::StatusOr<IndexFile> ReadIndexFile(const OpenedPath& opened, const std::string& path, uint64_t size,
                                        HeaderCharge& charge) {
  if (size > kMaxIndexBytes) {
    return MakeError(
        Reason::kCheckpointCorrupt,
        absl::StrFormat("%s: the index has %d bytes, more than the allowed %d", path, size, kMaxIndexBytes),
        {{"file", path}});
  }
  TemporaryCharge buffer(&charge);
  KEYLOAD_RETURN_IF_ERROR(buffer.Add(size + JsonBuffer::kPadding, path));
  JsonBuffer json(size);
  KEYLOAD_RETURN_IF_ERROR(ReadFully(opened.fd.get(), json.data(), json.size(), 0, path));
  // Blanks in its place: every offset stays as it is.
  if (std::string_view(json.data(), json.size()).starts_with(kUtf8ByteOrderMark))
    std::fill_n(json.data(), kUtf8ByteOrderMark.size(), ' ');
  absl::StatusOr<IndexFile> index = ParseIndexFile(json, path, &charge);
  if (index.ok() || ErrorReason(index.status()) != Reason::kCheckpointCorrupt) return index;
  const std::optional<FileKind> kind = RecognizeInsteadOfJson({json.data(), json.size()}, size);
  return kind ? WrongKind(Reason::kCheckpointCorrupt, path, *kind) : std::move(index);
}

}  // namespace keyload
