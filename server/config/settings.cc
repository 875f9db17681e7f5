#include "server/config/settings.h"

#include <iterator>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "server/base/byte_size.h"
#include "server/base/error.h"
#include "server/config/address.h"

namespace keyload {
namespace {

using Values = absl::Span<const std::string>;

constexpr uint64_t kMinMemoryBytes = uint64_t{1} << 20;
constexpr uint32_t kMaxSimulatedGpus = 1024;
constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kMaxQueue = 1'000'000;
constexpr uint32_t kMaxId = std::numeric_limits<uint32_t>::max() - 1;  // the last one means none

template <typename... Args>
absl::Status BadValue(const absl::FormatSpec<Args...>& format, const Args&... args) {
  return MakeError(Reason::kBadRequest, absl::StrFormat(format, args...));
}

absl::StatusOr<uint32_t> ParseCount(std::string_view text, uint32_t least, uint32_t most) {
  uint64_t value = 0;
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
  if (!digits || !absl::SimpleAtoi(std::string(text), &value) || value < least || value > most) {
    return BadValue("expected a whole number from %d to %d, not \"%s\"", least, most, text);
  }
  return static_cast<uint32_t>(value);
}

absl::StatusOr<uint64_t> ParsePositiveSize(std::string_view text) {
  KEYLOAD_ASSIGN_OR_RETURN(const uint64_t bytes, ParseByteSize(text));
  if (bytes == 0) return BadValue("the size must not be 0");
  return bytes;
}

template <typename Enum>
absl::Status ParseChoice(std::string_view text, std::initializer_list<std::pair<std::string_view, Enum>> choices,
                         Enum& result) {
  std::string names;
  for (const auto& [name, value] : choices) {
    if (name == text) {
      result = value;
      return absl::OkStatus();
    }
    absl::StrAppendFormat(&names, "%s%s", names.empty() ? "" : ", ", name);
  }
  return BadValue("expected %s, not \"%s\"", names, text);
}

absl::Status ApplyListen(Values values, Config& config) {
  if (values.empty()) return BadValue("the list is empty, the daemon would not be reachable");
  for (size_t i = 0; i < values.size(); ++i) {
    KEYLOAD_RETURN_IF_ERROR(CheckListenAddress(values[i]));
    for (size_t j = 0; j < i; ++j) {
      if (values[i] == values[j]) return BadValue("address \"%s\" is listed twice", values[i]);
    }
  }
  config.listen.assign(values.begin(), values.end());
  return absl::OkStatus();
}

absl::Status ApplySocketMode(Values values, Config& config) {
  const std::string& text = values[0];
  const bool octal = text.size() >= 3 && text.size() <= 4 && text.find_first_not_of("01234567") == std::string::npos;
  const unsigned long mode = octal ? std::stoul(text, nullptr, 8) : 0;
  if (!octal || mode > 0777) return BadValue("expected a mode such as 0660, not \"%s\"", text);
  config.socket_mode = static_cast<uint32_t>(mode);
  return absl::OkStatus();
}

// Numbers, because the names of another container are not this one's.
absl::Status ParseIds(Values values, std::vector<uint32_t>& ids) {
  if (values.empty()) return BadValue("the list is empty: leave the key out to let everybody in");
  std::vector<uint32_t> parsed;
  for (const std::string& text : values) {
    KEYLOAD_ASSIGN_OR_RETURN(parsed.emplace_back(), ParseCount(text, 0, kMaxId));
  }
  ids = std::move(parsed);
  return absl::OkStatus();
}

absl::Status ApplyAllowUid(Values values, Config& config) { return ParseIds(values, config.allowed_uids); }
absl::Status ApplyAllowGid(Values values, Config& config) { return ParseIds(values, config.allowed_gids); }

absl::Status ApplySocketRole(Values values, Config& config) {
  return ParseChoice<Role>(
      values[0], {{"none", Role::kNone}, {"read", Role::kRead}, {"load", Role::kLoad}, {"admin", Role::kAdmin}},
      config.socket_role);
}

template <auto kField>
absl::Status ApplyPath(Values values, Config& config) {
  if (!values[0].starts_with('/')) return BadValue("expected an absolute path, not \"%s\"", values[0]);
  config.*kField = values[0];
  return absl::OkStatus();
}

template <auto kField>
absl::Status ApplyTcpAddress(Values values, Config& config) {
  KEYLOAD_RETURN_IF_ERROR(CheckTcpAddress(values[0]));
  config.*kField = values[0];
  return absl::OkStatus();
}

template <auto kField>
absl::Status ApplySwitch(Values values, Config& config) {
  return ParseChoice<bool>(values[0], {{"true", true}, {"false", false}}, config.*kField);
}

absl::Status ApplyModelRoots(Values values, Config& config) {
  for (const std::string& root : values) {
    if (!root.starts_with('/')) return BadValue("model root \"%s\" must be an absolute path", root);
  }
  config.model_roots.assign(values.begin(), values.end());
  return absl::OkStatus();
}

absl::Status ApplyTemplateDirs(Values values, Config& config) {
  for (const std::string& directory : values) {
    if (!directory.starts_with('/')) return BadValue("template directory \"%s\" must be an absolute path", directory);
  }
  config.template_dirs.assign(values.begin(), values.end());
  return absl::OkStatus();
}

absl::Status ApplySimulateGpus(Values values, Config& config) {
  const std::string_view text = values[0];
  const size_t times = text.find('x');
  if (times == std::string_view::npos) {
    return BadValue("expected COUNTxSIZE or COUNTxSIZE@RATE, as in 2x80GiB, not \"%s\"", text);
  }
  SimulatedGpus gpus;
  KEYLOAD_ASSIGN_OR_RETURN(gpus.count, ParseCount(text.substr(0, times), 1, kMaxSimulatedGpus));
  std::string_view size = text.substr(times + 1);
  if (const size_t at = size.find('@'); at != std::string_view::npos) {
    KEYLOAD_ASSIGN_OR_RETURN(gpus.copy_bytes_per_second, ParsePositiveSize(size.substr(at + 1)));
    size = size.substr(0, at);
  }
  KEYLOAD_ASSIGN_OR_RETURN(gpus.capacity_bytes, ParsePositiveSize(size));
  if (gpus.capacity_bytes > uint64_t{std::numeric_limits<int64_t>::max()} / gpus.count) {
    return BadValue("\"%s\" is more memory than 64 bits can count", text);
  }
  config.simulate_gpus = gpus;
  return absl::OkStatus();
}

absl::Status ApplyHostMemory(Values values, Config& config) {
  KEYLOAD_ASSIGN_OR_RETURN(config.host_memory_bytes, ParsePositiveSize(values[0]));
  return absl::OkStatus();
}

absl::Status ApplyReuseMemory(Values values, Config& config) {
  KEYLOAD_ASSIGN_OR_RETURN(config.reuse_memory_bytes, ParseByteSize(values[0]));
  return absl::OkStatus();
}

absl::Status ApplyHoldMemory(Values values, Config& config) {
  KEYLOAD_ASSIGN_OR_RETURN(config.hold_memory_bytes, ParseByteSize(values[0]));
  return absl::OkStatus();
}

template <auto kField>
absl::Status ApplyMemory(Values values, Config& config) {
  KEYLOAD_ASSIGN_OR_RETURN(const uint64_t bytes, ParseByteSize(values[0]));
  if (bytes < kMinMemoryBytes) return BadValue("at least 1MiB is needed, not \"%s\"", values[0]);
  config.*kField = bytes;
  return absl::OkStatus();
}

template <auto kField>
absl::Status ApplyLimit(Values values, Config& config) {
  KEYLOAD_ASSIGN_OR_RETURN(config.*kField, ParseCount(values[0], 1, kMaxQueue));
  return absl::OkStatus();
}

absl::Status ApplyHugePages(Values values, Config& config) {
  return ParseChoice<HugePages>(
      values[0], {{"never", HugePages::kNever}, {"try", HugePages::kTry}, {"require", HugePages::kRequire}},
      config.huge_pages);
}

absl::Status ApplyConcurrentLoads(Values values, Config& config) {
  KEYLOAD_ASSIGN_OR_RETURN(config.concurrent_loads, ParseCount(values[0], 1, kMaxThreads));
  return absl::OkStatus();
}

absl::Status ApplyIoThreads(Values values, Config& config) {
  KEYLOAD_ASSIGN_OR_RETURN(config.io_threads, ParseCount(values[0], 0, kMaxThreads));
  return absl::OkStatus();
}

absl::Status ApplyLoadQueue(Values values, Config& config) {
  KEYLOAD_ASSIGN_OR_RETURN(config.load_queue, ParseCount(values[0], 1, kMaxQueue));
  return absl::OkStatus();
}

absl::Status ApplyGrace(Values values, Config& config) {
  absl::Duration grace;
  if (!absl::ParseDuration(values[0], &grace) || grace < absl::ZeroDuration() || grace == absl::InfiniteDuration()) {
    return BadValue("expected a duration such as 30s or 2m, not \"%s\"", values[0]);
  }
  config.grace = grace;
  return absl::OkStatus();
}

absl::Status ApplyRestore(Values values, Config& config) {
  return ParseChoice<Restore>(
      values[0], {{"lazy", Restore::kLazily}, {"load", Restore::kAsAsked}, {"none", Restore::kNot}}, config.restore);
}

absl::Status ApplyLogFormat(Values values, Config& config) {
  return ParseChoice<LogFormat>(values[0], {{"text", LogFormat::kText}, {"json", LogFormat::kJson}}, config.log_format);
}

absl::Status ApplyLogLevel(Values values, Config& config) {
  return ParseChoice<LogLevel>(values[0],
                               {{"debug", LogLevel::kDebug},
                                {"info", LogLevel::kInfo},
                                {"warning", LogLevel::kWarning},
                                {"error", LogLevel::kError}},
                               config.log_level);
}

template <auto kField>
bool Same(const Config& first, const Config& second) {
  return first.*kField == second.*kField;
}

template <auto kField>
void Adopt(const Config& from, Config& to) {
  to.*kField = from.*kField;
}

constexpr Setting kSettings[] = {
    {"--listen", "KEYLOADD_LISTEN", "listen", SettingKind::kList, ',', "ADDRESS",
     "Serve on unix:PATH or HOST:PORT; may be repeated [unix:/run/keyload/keyload.sock]", ApplyListen,
     Same<&Config::listen>, nullptr},
    {"--insecure-listen", "KEYLOADD_INSECURE_LISTEN", "insecure_listen", SettingKind::kSwitch, '\0', "",
     "Serve addresses beyond loopback without TLS", ApplySwitch<&Config::insecure_listen>,
     Same<&Config::insecure_listen>, nullptr},
    {"--socket-mode", "KEYLOADD_SOCKET_MODE", "socket_mode", SettingKind::kText, '\0', "MODE",
     "Permissions of Unix sockets [0660]", ApplySocketMode, Same<&Config::socket_mode>, nullptr},
    {"--allow-uid", "KEYLOADD_ALLOW_UID", "allow_uid", SettingKind::kList, ',', "UID",
     "Of those that can reach a Unix socket, serve only this user; may be repeated, and combined with --allow-gid",
     ApplyAllowUid, Same<&Config::allowed_uids>, Adopt<&Config::allowed_uids>},
    {"--allow-gid", "KEYLOADD_ALLOW_GID", "allow_gid", SettingKind::kList, ',', "GID",
     "The same for the members of a group", ApplyAllowGid, Same<&Config::allowed_gids>, Adopt<&Config::allowed_gids>},
    {"--socket-role", "KEYLOADD_SOCKET_ROLE", "socket_role", SettingKind::kText, '\0', "ROLE",
     "What callers on a Unix socket may do without a token: none, read, load or admin [admin]", ApplySocketRole,
     Same<&Config::socket_role>, nullptr},
    {"--tls-cert", "KEYLOADD_TLS_CERT", "tls_cert", SettingKind::kText, '\0', "FILE",
     "Serve TCP over TLS with the certificate chain in this PEM file; read again when it changes",
     ApplyPath<&Config::tls_cert>, Same<&Config::tls_cert>, nullptr},
    {"--tls-key", "KEYLOADD_TLS_KEY", "tls_key", SettingKind::kText, '\0', "FILE", "Its private key",
     ApplyPath<&Config::tls_key>, Same<&Config::tls_key>, nullptr},
    {"--tls-client-ca", "KEYLOADD_TLS_CLIENT_CA", "tls_client_ca", SettingKind::kText, '\0', "FILE",
     "Serve TCP only to clients with a certificate that one of these authorities signed",
     ApplyPath<&Config::tls_client_ca>, Same<&Config::tls_client_ca>, nullptr},
    {"--token-file", "KEYLOADD_TOKEN_FILE", "token_file", SettingKind::kText, '\0', "FILE",
     "Serve TCP only to callers with one of these tokens; read again when it changes", ApplyPath<&Config::token_file>,
     Same<&Config::token_file>, nullptr},
    {"--health-listen", "KEYLOADD_HEALTH_LISTEN", "health_listen", SettingKind::kText, '\0', "HOST:PORT",
     "Answer health probes, and nothing else, without TLS and token", ApplyTcpAddress<&Config::health_listen>,
     Same<&Config::health_listen>, nullptr},
    {"--metrics-listen", "KEYLOADD_METRICS_LISTEN", "metrics_listen", SettingKind::kText, '\0', "HOST:PORT",
     "Serve metrics for Prometheus over HTTP", ApplyTcpAddress<&Config::metrics_listen>, Same<&Config::metrics_listen>,
     nullptr},
    {"--reflection", "KEYLOADD_REFLECTION", "reflection", SettingKind::kSwitch, '\0', "",
     "Let any client list the services and messages of this server", ApplySwitch<&Config::reflection>,
     Same<&Config::reflection>, nullptr},
    {"--model-root", "KEYLOADD_MODEL_ROOT", "model_roots", SettingKind::kList, ':', "DIR",
     "Allow loading from below DIR; may be repeated; without any, no path is allowed", ApplyModelRoots,
     Same<&Config::model_roots>, Adopt<&Config::model_roots>},
    {"--template-dir", "KEYLOADD_TEMPLATE_DIR", "template_dirs", SettingKind::kList, ':', "DIR",
     "Look for the key templates of model types in DIR before the built-in ones; may be repeated", ApplyTemplateDirs,
     Same<&Config::template_dirs>, nullptr},
    {"--simulate-gpus", "KEYLOADD_SIMULATE_GPUS", "simulate_gpus", SettingKind::kText, '\0', "COUNTxSIZE[@RATE]",
     "Offer cuda:0.. in host memory, as in 2x80GiB; RATE limits the bytes copied per second", ApplySimulateGpus,
     Same<&Config::simulate_gpus>, nullptr},
    {"--host-memory", "KEYLOADD_HOST_MEMORY", "host_memory", SettingKind::kSize, '\0', "SIZE",
     "Memory for models on the device cpu [what the machine allows]", ApplyHostMemory, Same<&Config::host_memory_bytes>,
     nullptr},
    {"--reuse-memory", "KEYLOADD_REUSE_MEMORY", "reuse_memory", SettingKind::kSize, '\0', "SIZE",
     "Freed memory of the device cpu to keep for the next loads; 0: none [a quarter of --host-memory]",
     ApplyReuseMemory, Same<&Config::reuse_memory_bytes>, nullptr},
    {"--hold-memory", "KEYLOADD_HOLD_MEMORY", "hold_memory", SettingKind::kSize, '\0', "SIZE",
     "Page cache of files to keep in memory for those who ask for it; 0: none [half of what the machine allows]",
     ApplyHoldMemory, Same<&Config::hold_memory_bytes>, Adopt<&Config::hold_memory_bytes>},
    {"--scratch-memory", "KEYLOADD_SCRATCH_MEMORY", "scratch_memory", SettingKind::kSize, '\0', "SIZE",
     "Memory for bytes on their way from file to device, all loads together [256MiB, at most an eighth of what the "
     "machine allows]",
     ApplyMemory<&Config::scratch_bytes>, Same<&Config::scratch_bytes>, nullptr},
    {"--huge-pages", "KEYLOADD_HUGE_PAGES", "huge_pages", SettingKind::kText, '\0', "WHEN",
     "Put models on the device cpu into huge pages that are set aside (vm.nr_hugepages): never, try or require [never]",
     ApplyHugePages, Same<&Config::huge_pages>, nullptr},
    {"--request-memory", "KEYLOADD_REQUEST_MEMORY", "request_memory", SettingKind::kSize, '\0', "SIZE",
     "Memory for what requests bring (key lists, manifests, large messages) and for the tables that planning makes of "
     "it, "
     "all together; one request may take half [an eighth of what the machine allows, at most 1GiB]",
     ApplyMemory<&Config::request_memory_bytes>, Same<&Config::request_memory_bytes>, nullptr},
    {"--send-memory", "KEYLOADD_SEND_MEMORY", "send_memory", SettingKind::kSize, '\0', "SIZE",
     "Memory for answers on their way to clients, of which one client gets a quarter [256MiB]",
     ApplyMemory<&Config::send_bytes>, Same<&Config::send_bytes>, nullptr},
    {"--max-connections", "KEYLOADD_MAX_CONNECTIONS", "max_connections", SettingKind::kCount, '\0', "N",
     "Open connections of each listener; fewer where the process may have few descriptors [4096]",
     ApplyLimit<&Config::max_connections>, Same<&Config::max_connections>, nullptr},
    {"--max-connections-per-peer", "KEYLOADD_MAX_CONNECTIONS_PER_PEER", "max_connections_per_peer", SettingKind::kCount,
     '\0', "N", "Of these, those of one user on a Unix socket or of one host over TCP [1024]",
     ApplyLimit<&Config::max_connections_per_peer>, Same<&Config::max_connections_per_peer>, nullptr},
    {"--max-calls", "KEYLOADD_MAX_CALLS", "max_calls", SettingKind::kCount, '\0', "N",
     "Open calls and streams; beyond that a call is refused [4096]", ApplyLimit<&Config::max_calls>,
     Same<&Config::max_calls>, nullptr},
    {"--max-calls-per-peer", "KEYLOADD_MAX_CALLS_PER_PEER", "max_calls_per_peer", SettingKind::kCount, '\0', "N",
     "Of these, those of one caller: a token on one host, or all processes on Unix sockets without one [2048]",
     ApplyLimit<&Config::max_calls_per_peer>, Same<&Config::max_calls_per_peer>, nullptr},
    {"--header-memory", "KEYLOADD_HEADER_MEMORY", "header_memory", SettingKind::kSize, '\0', "SIZE",
     "Memory for the headers and index files of all checkpoints that are open or remembered; one that is being opened "
     "may take half [an eighth of what the machine allows, at most 1GiB]",
     ApplyMemory<&Config::header_memory_bytes>, Same<&Config::header_memory_bytes>, nullptr},
    {"--concurrent-loads", "KEYLOADD_CONCURRENT_LOADS", "concurrent_loads", SettingKind::kCount, '\0', "N",
     "Loads that run at the same time [2]", ApplyConcurrentLoads, Same<&Config::concurrent_loads>, nullptr},
    {"--io-threads", "KEYLOADD_IO_THREADS", "io_threads", SettingKind::kCount, '\0', "N",
     "Threads that read files; 0: one per core, at most 8 [0]", ApplyIoThreads, Same<&Config::io_threads>, nullptr},
    {"--load-queue", "KEYLOADD_LOAD_QUEUE", "load_queue", SettingKind::kCount, '\0', "N",
     "Loads that may wait; beyond that a load is refused [64]", ApplyLoadQueue, Same<&Config::load_queue>,
     Adopt<&Config::load_queue>},
    {"--grace", "KEYLOADD_GRACE", "grace", SettingKind::kText, '\0', "DURATION",
     "Time that running loads get after SIGTERM [30s]", ApplyGrace, Same<&Config::grace>, Adopt<&Config::grace>},
    {"--state-dir", "KEYLOADD_STATE_DIR", "state_dir", SettingKind::kText, '\0', "DIR",
     "Keep models, device maps and reports there over a restart; without it nothing is kept",
     ApplyPath<&Config::state_dir>, Same<&Config::state_dir>, nullptr},
    {"--restore", "KEYLOADD_RESTORE", "restore", SettingKind::kText, '\0', "HOW",
     "Models of the run before: lazy (known, read on first need), load (as they were asked for) or none [lazy]",
     ApplyRestore, Same<&Config::restore>, nullptr},
    {"--log-format", "KEYLOADD_LOG_FORMAT", "log_format", SettingKind::kText, '\0', "FORMAT", "text or json [text]",
     ApplyLogFormat, Same<&Config::log_format>, Adopt<&Config::log_format>},
    {"--log-level", "KEYLOADD_LOG_LEVEL", "log_level", SettingKind::kText, '\0', "LEVEL",
     "debug, info, warning or error [info]", ApplyLogLevel, Same<&Config::log_level>, Adopt<&Config::log_level>},
};

}  // namespace

absl::Span<const Setting> AllSettings() { return kSettings; }

}  // namespace keyload
