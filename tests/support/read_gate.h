#pragma once

#include <cstdint>
#include <memory>

#include "server/base/mutex.h"
#include "server/io/shard_reader.h"

namespace keyload {

// Counts what many readers read, and can make all of them wait. Thread-safe; outlives its readers.
class ReadGate {
 public:
  // `reader` behind the gate.
  std::unique_ptr<ShardReader> Guard(std::unique_ptr<ShardReader> reader);

  // From now on every call of every reader waits before it returns bytes, until Release.
  void Hold();
  void Release();
  // Blocks until `count` calls have begun since the gate was made.
  void WaitForCalls(uint64_t count);
  uint64_t calls() const;
  uint64_t bytes()
      const;  // of calls that have begun; those that could not read and are repeated in another way do not count

 private:
  class Reader;
  void Pass(uint64_t bytes);

  mutable Mutex mutex_;
  CondVar changed_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace keyload
