#include "server/metrics/process_values.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

namespace keyload {
namespace {

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

uint64_t CountOpenFds() {
  std::error_code error;
  const std::filesystem::directory_iterator entries("/proc/self/fd", error);
  if (error) return 0;
  const auto count = static_cast<uint64_t>(std::distance(begin(entries), end(entries)));
  return count > 0 ? count - 1 : 0;  // the directory's own
}

}  // namespace

ProcessValues ReadProcessValues() {
  ProcessValues values = {.open_fds = CountOpenFds()};
  uint64_t total_pages = 0;
  uint64_t resident_pages = 0;
  if (std::ifstream("/proc/self/statm") >> total_pages >> resident_pages) {
    values.resident_bytes = resident_pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  }
  rusage usage = {};
  if (getrusage(RUSAGE_SELF, &usage) == 0) values.cpu_seconds = Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
  return values;
}

}  // namespace keyload
