#include "client/cli/safetensors_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/cli/json_output.h"
#include "client/cli/output_file.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

constexpr size_t kHeaderAlignment = 8;
constexpr size_t kCopyBytes = 1 << 20;

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

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(const std::string& path) {
  KEYLOAD_RETURN_IF_ERROR(CheckReplaceable(path));
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
  return ReplaceFile(path_, [this](int fd) -> absl::Status {
    KEYLOAD_RETURN_IF_ERROR(WriteAll(fd, Header(), path_));
    return AppendFile(data_.get(), data_bytes_, fd, path_);
  });
}

}  // namespace keyload::cli
