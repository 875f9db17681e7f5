#include "server/reload.h"

#include <string>
#include <utility>

#include "absl/strings/str_join.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/device/host_memory_limit.h"

namespace keyload {
namespace {

absl::StatusOr<std::pair<Config, ModelRoots>> ReadValid(const Reload::Read& read) {
  KEYLOAD_ASSIGN_OR_RETURN(Config config, read());
  KEYLOAD_ASSIGN_OR_RETURN(ModelRoots roots, ModelRoots::Create(config.model_roots));
  return std::pair(std::move(config), std::move(roots));
}

}  // namespace

uint64_t HoldMemoryBytes(const Config& config) { return config.hold_memory_bytes.value_or(HostMemoryLimit("") / 2); }

PeerRules AllowedPeers(const Config& config) { return {.uids = config.allowed_uids, .gids = config.allowed_gids}; }

void Reload::Run() {
  absl::StatusOr<std::pair<Config, ModelRoots>> wanted = ReadValid(read_);
  if (!wanted.ok()) {
    Log(LogLevel::kError, "reload refused", {{"error", std::string(wanted.status().message())}});
    return;
  }
  ConfigChange change;
  {
    MutexLock lock(mutex_);
    change = ChangeConfig(config_, wanted->first);
    config_ = change.config;
  }
  const std::string roots = absl::StrJoin(wanted->second.roots(), ":");
  targets_.roots->Set(std::move(wanted->second));
  targets_.peers->Set(AllowedPeers(change.config));
  targets_.held->set_limit(HoldMemoryBytes(change.config));
  targets_.loads->set_limit(change.config.load_queue);
  ConfigureLog(change.config.log_format, change.config.log_level);
  Log(LogLevel::kInfo, "reload", {{"changed", absl::StrJoin(change.changed, ",")}, {"model_roots", roots}});
  if (!change.needs_start.empty()) {
    Log(LogLevel::kWarning, "reload", {{"needs_restart", absl::StrJoin(change.needs_start, ",")}});
  }
}

}  // namespace keyload
