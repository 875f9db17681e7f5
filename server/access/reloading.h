#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/access/file_watch.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/mutex.h"

namespace keyload {

// The last good value that was read from files which may be replaced at any time. get() and the counts are thread-safe;
// Refresh is for one thread.
template <typename T>
class Reloading {
 public:
  using Read = std::function<absl::StatusOr<T>()>;

  // Reads the value for the first time and returns its error. `paths` are what `read` reads. Blocks.
  static absl::StatusOr<std::unique_ptr<Reloading>> Open(std::vector<std::string> paths, Read read) {
    FileWatch watch(std::move(paths));  // before reading: what changes meanwhile is a change
    KEYLOAD_ASSIGN_OR_RETURN(T value, read());
    return std::unique_ptr<Reloading>(new Reloading(std::move(watch), std::move(read), std::move(value)));
  }

  // Never null, and not changed afterwards.
  std::shared_ptr<const T> get() const {
    MutexLock lock(mutex_);
    return value_;
  }
  // False while the files hold something that could not be taken over.
  bool current() const { return current_; }
  uint64_t failures() const { return failures_; }

  // Takes over what the files hold if they have changed and settled, and logs it. What is not valid changes nothing; it
  // is looked at again each time, as a file that could not be read need not change to be readable. Blocks on the files.
  void Refresh() {
    if (!watch_.Changed() && current_) return;
    absl::StatusOr<T> value = read_();
    current_ = value.ok();
    std::string error(value.status().message());
    const bool told = error == std::exchange(error_, error);
    if (!value.ok()) {
      if (told) return;
      ++failures_;
      Log(LogLevel::kError, "credentials refused",
          {{"error", std::move(error)}, {"effect", std::string("those from before stay in use")}});
      return;
    }
    {
      MutexLock lock(mutex_);
      value_ = std::make_shared<const T>(*std::move(value));
    }
    Log(LogLevel::kInfo, "credentials", {{"file", path_}});
  }

 private:
  Reloading(FileWatch watch, Read read, T value)
      : path_(watch.first_path()),
        watch_(std::move(watch)),
        read_(std::move(read)),
        value_(std::make_shared<const T>(std::move(value))) {}

  const std::string path_;  // the first of the files, for the log
  FileWatch watch_;
  const Read read_;
  std::string error_;  // of the last look; empty: none
  std::atomic<bool> current_ = true;
  std::atomic<uint64_t> failures_ = 0;
  mutable Mutex mutex_;
  std::shared_ptr<const T> value_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
