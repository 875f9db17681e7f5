#include "client/cli/safetensors_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/cli/exit_code.h"
#include "client/cli/json_output.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

constexpr size_t kHeaderAlignment = 8;
constexpr size_t kCopyBytes = 1 << 20;

absl::Status DiskError(const std::string& path, const char* operation) {
  return absl::InternalError(absl::StrFormat("%s: %s: %s", path, operation, std::strerror(errno)));
}

absl::Status WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return DiskError(path, "write");
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// Appends all of `from` to `to`, by copy_file_range where the file system has it.
absl::Status AppendFile(int from, uint64_t bytes, int to, const std::string& path) {
  off_t offset = 0;
  while (bytes > 0) {
    ssize_t copied = ::copy_file_range(from, &offset, to, nullptr, bytes, 0);
    if (copied <= 0) break;
    bytes -= static_cast<uint64_t>(copied);
  }
  std::string buffer;
  while (bytes > 0) {
    buffer.resize(std::min<uint64_t>(bytes, kCopyBytes));
    ssize_t got = ::pread(from, buffer.data(), buffer.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return DiskError(path, "read back");
    KEYLOAD_RETURN_IF_ERROR(WriteAll(to, std::string_view(buffer).substr(0, static_cast<size_t>(got)), path));
    offset += got;
    bytes -= static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

std::string LittleEndian(uint64_t value) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

// A new file beside `path`, and its name.
absl::StatusOr<std::pair<UniqueFd, std::string>> MakeTemporary(const std::string& path) {
  std::string name = path + ".XXXXXX";
  UniqueFd fd(::mkostemp(name.data(), O_CLOEXEC));
  if (!fd) return UsageError(absl::StrFormat("%s: no file can be made there: %s", path, std::strerror(errno)));
  return std::make_pair(std::move(fd), std::move(name));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(const std::string& path) {
  // The finished file is renamed over `path`, which must not take away a device, a directory or a link.
  struct stat there = {};
  if (::lstat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode)) {
    return UsageError(absl::StrFormat("%s: exists and is no regular file", path));
  }
  KEYLOAD_ASSIGN_OR_RETURN(auto data, MakeTemporary(path));
  ::unlink(data.second.c_str());
  return std::unique_ptr<SafetensorsWriter>(new SafetensorsWriter(path, std::move(data.first)));
}

absl::Status SafetensorsWriter::CheckLastIsWhole() const {
  if (tensors_.empty()) return absl::OkStatus();
  const Tensor& last = tensors_.back();
  uint64_t got = data_bytes_ - last.begin;
  if (got == last.bytes) return absl::OkStatus();
  return absl::DataLossError(absl::StrFormat("%s: %d bytes of %d arrived", last.name, got, last.bytes));
}

absl::Status SafetensorsWriter::Add(const v1::ReadTensorsResponse& piece) {
  if (piece.has_tensor()) {
    const v1::KeyInfo& info = piece.tensor();
    KEYLOAD_RETURN_IF_ERROR(CheckLastIsWhole());
    if (!names_.insert(info.key()).second) return absl::DataLossError(info.key() + ": arrived twice");
    tensors_.push_back(Tensor{.name = info.key(),
                              .dtype = info.dtype(),
                              .shape = {info.shape().begin(), info.shape().end()},
                              .begin = data_bytes_,
                              .bytes = info.bytes()});
  }
  if (tensors_.empty()) return absl::DataLossError("data arrived before the tensor that it belongs to");
  const Tensor& tensor = tensors_.back();
  uint64_t got = data_bytes_ - tensor.begin;
  if (piece.offset() != got || piece.data().size() > tensor.bytes - got) {
    return absl::DataLossError(absl::StrFormat("%s: a piece of %d bytes at offset %d after %d of %d bytes", tensor.name,
                                               piece.data().size(), piece.offset(), got, tensor.bytes));
  }
  KEYLOAD_RETURN_IF_ERROR(WriteAll(data_.get(), piece.data(), path_));
  data_bytes_ += piece.data().size();
  return absl::OkStatus();
}

std::string SafetensorsWriter::Header() const {
  Json header = Json::object();
  for (const Tensor& tensor : tensors_) {
    AddMember(header, tensor.name,
              {{"dtype", tensor.dtype},
               {"shape", tensor.shape},
               {"data_offsets", {tensor.begin, tensor.begin + tensor.bytes}}});
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize((text.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  return LittleEndian(text.size()) + text;
}

absl::Status SafetensorsWriter::Finish() {
  KEYLOAD_RETURN_IF_ERROR(CheckLastIsWhole());
  KEYLOAD_ASSIGN_OR_RETURN(auto temporary, MakeTemporary(path_));
  auto& [fd, name] = temporary;
  absl::Status status = WriteAll(fd.get(), Header(), path_);
  if (status.ok()) status = AppendFile(data_.get(), data_bytes_, fd.get(), path_);
  if (status.ok() && ::fchmod(fd.get(), 0644) != 0) status = DiskError(path_, "chmod");
  if (status.ok() && ::fsync(fd.get()) != 0) status = DiskError(path_, "sync");
  if (status.ok() && ::rename(name.c_str(), path_.c_str()) != 0) status = DiskError(path_, "rename");
  if (!status.ok()) ::unlink(name.c_str());
  return status;
}

}  // namespace keyload::cli
