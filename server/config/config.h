#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/huge_pages.h"
#include "server/base/log.h"
#include "server/base/role.h"

namespace keyload {

// "--simulate-gpus 2x80GiB@10GiB": devices cuda:0 .. count-1 in host memory.
struct SimulatedGpus {
  uint32_t count = 0;
  uint64_t capacity_bytes = 0;
  uint64_t copy_bytes_per_second = 0;  // 0: as fast as memory copies

  bool operator==(const SimulatedGpus&) const = default;
};

// How the models of the run before come back at the start.
enum class Restore { kLazily, kAsAsked, kNot };

// How one daemon is set up. A plain value; sizes in bytes.
struct Config {
  // "unix:/ABSOLUTE/PATH" or "HOST:PORT"; beyond loopback only with TLS or insecure_listen.
  std::vector<std::string> listen{"unix:/run/keyload/keyload.sock"};
  bool insecure_listen = false;
  uint32_t socket_mode = 0660;         // of Unix sockets
  std::vector<uint32_t> allowed_uids;  // who may connect to a Unix socket; both lists empty: whom the mode lets in
  std::vector<uint32_t> allowed_gids;  // a process is let in for any of its groups
  Role socket_role = Role::kAdmin;     // of callers on a Unix socket that show no token
  std::string tls_cert;                // absolute paths of PEM files; empty: TCP without TLS
  std::string tls_key;
  std::string tls_client_ca;   // empty: clients need no certificate
  std::string token_file;      // absolute; empty: no tokens, and every caller let in is an admin
  std::string health_listen;   // "HOST:PORT", for probes; empty: none
  std::string metrics_listen;  // "HOST:PORT", for Prometheus; empty: none
  bool reflection = false;
  std::vector<std::string> model_roots;    // absolute, not resolved; empty: no path may be loaded
  std::vector<std::string> template_dirs;  // absolute; looked through before the built-in templates
  std::optional<SimulatedGpus> simulate_gpus;
  std::optional<uint64_t> host_memory_bytes;   // absent: what the machine or its cgroup allows
  std::optional<uint64_t> reuse_memory_bytes;  // freed host memory that is kept; absent: a quarter of the above
  std::optional<uint64_t> hold_memory_bytes;   // page cache kept locked; absent: half of what the machine allows
  // Buffers between file and device, all loads together; absent: 256 MiB, or less where the machine allows little.
  std::optional<uint64_t> scratch_bytes;
  HugePages huge_pages = HugePages::kNever;   // for models on the device cpu
  uint64_t send_bytes = uint64_t{256} << 20;  // answers on their way to clients
  uint32_t max_connections = 4096;            // open ones of each listener
  uint32_t max_connections_per_peer = 1024;
  uint32_t max_calls = 4096;  // open ones
  uint32_t max_calls_per_peer = 2048;
  // Heap for headers and index files of checkpoints, all together; absent: an eighth of what the machine allows, at
  // most 1 GiB. The same for what requests bring and for the tables that planning makes of it.
  std::optional<uint64_t> header_memory_bytes;
  std::optional<uint64_t> request_memory_bytes;
  uint32_t concurrent_loads = 2;
  uint32_t io_threads = 0;                   // 0: one per core, at most 8
  uint32_t load_queue = 64;                  // loads that wait beyond those that run
  absl::Duration grace = absl::Seconds(30);  // what running loads get to finish after SIGTERM
  std::string state_dir;  // where models, maps and reports are kept over a restart; absolute; empty: nowhere
  Restore restore = Restore::kLazily;
  LogFormat log_format = LogFormat::kText;
  LogLevel log_level = LogLevel::kInfo;
  bool check_config = false;  // say whether the configuration is valid, then end
  bool show_text = false;     // --help or --version: print `text` on standard output, then end with 0
  std::string text;
};

// Returns a file's content or why it cannot be read.
using ConfigFileReader = absl::FunctionRef<absl::StatusOr<std::string>(const std::string& path)>;

// The configuration from `args` (without the program's name), `environment` and the file that --config or
// KEYLOADD_CONFIG names. A flag wins over the environment, the environment over the file, the file over the default; a
// list replaces the list below it. All three are checked, what is overridden too. The environment's lists are separated
// by "," (KEYLOADD_LISTEN) and ":" (KEYLOADD_MODEL_ROOT, KEYLOADD_TEMPLATE_DIR); an empty variable counts as absent.
// BAD_REQUEST names the flag, the variable, or file, line and key.
absl::StatusOr<Config> ParseConfig(const std::vector<std::string>& args,
                                   const std::map<std::string, std::string>& environment, ConfigFileReader read_file);

// What a configuration that was read again changes in a daemon that runs.
struct ConfigChange {
  Config config;                         // as it runs from now on
  std::vector<std::string> changed;      // flags of the settings that `config` has from `wanted`
  std::vector<std::string> needs_start;  // flags of those that differ and are read at the start only
};
ConfigChange ChangeConfig(const Config& running, const Config& wanted);

// The reader that the daemon uses. Blocks on the file. A file over 1 MiB is BAD_REQUEST.
absl::StatusOr<std::string> ReadConfigFile(const std::string& path);

}  // namespace keyload
