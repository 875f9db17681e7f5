#include "tests/support/faulty_reader.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"

namespace keyload {

FaultyReader::FaultyReader(std::unique_ptr<ShardReader> reader, Faults faults)
    : reader_(std::move(reader)), faults_(std::move(faults)) {}

void FaultyReader::Hold() {
  MutexLock lock(mutex_);
  held_ = true;
}

void FaultyReader::Release() {
  {
    MutexLock lock(mutex_);
    held_ = false;
  }
  changed_.NotifyAll();
}

void FaultyReader::WaitForCalls(uint64_t count) {
  MutexLock lock(mutex_);
  while (calls_ < count) changed_.Wait(mutex_);
}

uint64_t FaultyReader::calls() const {
  MutexLock lock(mutex_);
  return calls_;
}

absl::Status FaultyReader::ReadVector(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) {
  BeginCall();
  uint64_t length = 0;
  for (const iovec& buffer : buffers) length += buffer.iov_len;
  const Limit limit = LimitOf(offset, length);
  std::vector<iovec> before;
  uint64_t left = limit.length;
  for (const iovec& buffer : buffers) {
    before.push_back({buffer.iov_base, std::min<uint64_t>(left, buffer.iov_len)});
    left -= before.back().iov_len;
  }
  KEYLOAD_RETURN_IF_ERROR(reader_->ReadVector(offset, before, counts));
  return limit.fault;
}

absl::Status FaultyReader::Populate(uint64_t offset, uint64_t length, ReadCounts& counts) {
  BeginCall();
  const Limit limit = LimitOf(offset, length);
  KEYLOAD_RETURN_IF_ERROR(reader_->Populate(offset, limit.length, counts));
  return limit.fault;
}

FaultyReader::Limit FaultyReader::LimitOf(uint64_t offset, uint64_t length) const {
  Limit limit = {.length = length, .fault = absl::OkStatus()};
  const ErrorMetadata metadata = {{"file", faults_.file}, {"offset", absl::StrCat(offset)}};
  if (faults_.end_of_file_at && offset + length > *faults_.end_of_file_at) {
    limit.length = std::max(offset, *faults_.end_of_file_at) - offset;
    limit.fault = MakeError(Reason::kCheckpointTruncated,
                            absl::StrCat(faults_.file, ": ", length - limit.length, " bytes are missing"), metadata);
  }
  if (faults_.io_error_at && *faults_.io_error_at >= offset && *faults_.io_error_at - offset < limit.length) {
    limit.length = *faults_.io_error_at - offset;
    limit.fault = MakeError(Reason::kIoError,
                            absl::StrCat(faults_.file, ": read at offset ", *faults_.io_error_at, " fails"), metadata);
  }
  return limit;
}

void FaultyReader::BeginCall() {
  MutexLock lock(mutex_);
  ++calls_;
  changed_.NotifyAll();
  while (held_) changed_.Wait(mutex_);
}

}  // namespace keyload
