#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/base/mutex.h"
#include "server/io/shard_reader.h"

namespace keyload {

// A reader with faults around another one. Bytes before a fault are delivered, as a file system would. Thread-safe.
class FaultyReader : public ShardReader {
 public:
  struct Faults {
    std::optional<uint64_t> end_of_file_at;  // from this offset on the file is gone: CHECKPOINT_TRUNCATED
    std::optional<uint64_t> io_error_at;     // whatever touches this byte fails with IO_ERROR
    std::optional<uint64_t> cold_from;       // ReadCached finds nothing from here on: direct reads are tried
    bool throws = false;                     // every call throws std::bad_alloc
    bool refuse_direct = false;              // ReadDirect fails, and leaves the buffers written to
    std::string file = "shard";              // for the messages
  };
  FaultyReader(std::unique_ptr<ShardReader> reader, Faults faults);

  // From now on every call waits, before it does anything, until Release.
  void Hold();
  void Release();
  // Blocks until `count` calls have begun since the reader was made.
  void WaitForCalls(uint64_t count);
  uint64_t calls() const;
  uint64_t direct_reads() const;  // that succeeded

  absl::Status ReadVector(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) override;
  absl::StatusOr<bool> ReadCached(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) override;
  bool ReadDirect(uint64_t offset, std::span<const iovec> buffers, uint64_t needed, ReadCounts& counts) override;
  void WillNeed(uint64_t offset, uint64_t length) override;
  absl::Status Populate(uint64_t offset, uint64_t length, ReadCounts& counts) override;

 private:
  // Bytes of [offset, offset + length) before the first fault, and that fault (OK when there is none).
  struct Limit {
    uint64_t length = 0;
    absl::Status fault;
  };
  Limit LimitOf(uint64_t offset, uint64_t length) const;
  // `buffers` up to `length` bytes.
  static std::vector<iovec> FirstBytes(std::span<const iovec> buffers, uint64_t length);
  void BeginCall();

  const std::unique_ptr<ShardReader> reader_;
  const Faults faults_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t direct_reads_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace keyload
