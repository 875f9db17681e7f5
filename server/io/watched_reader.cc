#include "server/io/watched_reader.h"

#include <utility>

namespace keyload {
namespace {

class WatchedReader : public ShardReader {
 public:
  WatchedReader(std::unique_ptr<ShardReader> reader, StorageThreads::NotedMount mount)
      : reader_(std::move(reader)), mount_(std::move(mount)) {}

  absl::Status ReadVector(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) override {
    const StorageThreads::Operation operation(mount_);
    return reader_->ReadVector(offset, buffers, counts);
  }
  absl::StatusOr<bool> ReadCached(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) override {
    const StorageThreads::Operation operation(mount_);
    return reader_->ReadCached(offset, buffers, counts);
  }
  bool ReadDirect(uint64_t offset, std::span<const iovec> buffers, uint64_t needed, ReadCounts& counts) override {
    const StorageThreads::Operation operation(mount_);
    return reader_->ReadDirect(offset, buffers, needed, counts);
  }
  void WillNeed(uint64_t offset, uint64_t length) override {
    const StorageThreads::Operation operation(mount_);
    reader_->WillNeed(offset, length);
  }
  absl::Status Populate(uint64_t offset, uint64_t length, ReadCounts& counts) override {
    const StorageThreads::Operation operation(mount_);
    return reader_->Populate(offset, length, counts);
  }

 private:
  const std::unique_ptr<ShardReader> reader_;
  const StorageThreads::NotedMount mount_;
};

}  // namespace

std::unique_ptr<ShardReader> WatchReads(std::unique_ptr<ShardReader> reader, StorageThreads& storage,
                                        const std::string& resolved) {
  return std::make_unique<WatchedReader>(std::move(reader), StorageThreads::MountOfFile(&storage, resolved));
}

}  // namespace keyload
