#include "tests/support/faulty_reader.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"

namespace keyload {
namespace {

uint64_t TotalBytes(std::span<const iovec> buffers) {
  uint64_t bytes = 0;
  for (const iovec& buffer : buffers) bytes += buffer.iov_len;
  return bytes;
}

}  // namespace

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

uint64_t FaultyReader::direct_reads() const {
  MutexLock lock(mutex_);
  return direct_reads_;
}

absl::Status FaultyReader::ReadVector(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) {
  BeginCall();
  const Limit limit = LimitOf(offset, TotalBytes(buffers));
  KEYLOAD_RETURN_IF_ERROR(reader_->ReadVector(offset, FirstBytes(buffers, limit.length), counts));
  return limit.fault;
}

absl::StatusOr<bool> FaultyReader::ReadCached(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) {
  BeginCall();
  if (faults_.cold_from && offset + TotalBytes(buffers) > *faults_.cold_from) return false;
  const Limit limit = LimitOf(offset, TotalBytes(buffers));
  KEYLOAD_ASSIGN_OR_RETURN(const bool cached, reader_->ReadCached(offset, FirstBytes(buffers, limit.length), counts));
  if (!cached || limit.fault.ok()) return cached;
  return limit.fault;
}

bool FaultyReader::ReadDirect(uint64_t offset, std::span<const iovec> buffers, uint64_t needed, ReadCounts& counts) {
  BeginCall();
  const bool read = reader_->ReadDirect(offset, buffers, needed, counts);
  if (faults_.refuse_direct || !LimitOf(offset, needed).fault.ok()) {
    for (const iovec& buffer : buffers) std::memset(buffer.iov_base, 0xee, buffer.iov_len);
    return false;
  }
  MutexLock lock(mutex_);
  direct_reads_ += read ? 1 : 0;
  return read;
}

void FaultyReader::WillNeed(uint64_t offset, uint64_t length) { reader_->WillNeed(offset, length); }

absl::Status FaultyReader::Populate(uint64_t offset, uint64_t length, ReadCounts& counts) {
  BeginCall();
  const Limit limit = LimitOf(offset, length);
  KEYLOAD_RETURN_IF_ERROR(reader_->Populate(offset, limit.length, counts));
  return limit.fault;
}

std::vector<iovec> FaultyReader::FirstBytes(std::span<const iovec> buffers, uint64_t length) {
  std::vector<iovec> first;
  for (const iovec& buffer : buffers) {
    first.push_back({buffer.iov_base, std::min<uint64_t>(length, buffer.iov_len)});
    length -= first.back().iov_len;
  }
  return first;
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
  if (faults_.throws) throw std::bad_alloc();
}

}  // namespace keyload
