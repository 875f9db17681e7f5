#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "server/access/access_control.h"
#include "server/access/credential_files.h"
#include "server/access/peer.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/strings.h"
#include "server/checkpoint/header_cache.h"
#include "server/config/config.h"
#include "server/device/device.h"
#include "server/device/host_memory_limit.h"
#include "server/expected/derive_manifest.h"
#include "server/io/page_cache_hold.h"
#include "server/metrics/metrics.h"
#include "server/metrics/metrics_server.h"
#include "server/reload.h"
#include "server/rpc/call_metrics.h"
#include "server/rpc/convert_manifest.h"
#include "server/rpc/rpc_server.h"
#include "server/rpc/state_codec.h"
#include "server/service/loader_service.h"
#include "server/tensor/convert.h"

// keyloadd: reads flags, environment and configuration, builds the objects, waits for a signal, and takes everything
// down again in the order in which it says so below.

extern char** environ;

namespace keyload {
namespace {

constexpr int kExitBadConfig = 2;
constexpr int kExitFailed = 6;
constexpr size_t kPoolThreads = 8;
constexpr size_t kPoolQueue = 1024;
constexpr size_t kMostIdleSegments = 4096;
constexpr int kKeptFreeBytes = 64 << 20;
constexpr int kMappedAllocationBytes = 16 << 20;             // larger ones go back to the system when they are freed
constexpr uint64_t kHeaderCacheBytes = uint64_t{256} << 20;  // about two million tensors
constexpr absl::Duration kCancelGrace = absl::Seconds(3);

std::map<std::string, std::string> Environment() {
  std::map<std::string, std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (const size_t equals = text.find('='); equals != std::string_view::npos) {
      environment.emplace(text.substr(0, equals), text.substr(equals + 1));
    }
  }
  return environment;
}

// A checkpoint holds one descriptor for each of its shards while its model is loaded. Returns the limit.
size_t RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  const rlim_t before = limit.rlim_cur;
  limit.rlim_cur = limit.rlim_max;
  return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_max : before;
}

// Signals arrive by sigwait and sigtimedwait on the main thread only: every other thread inherits the mask.
struct Signals {
  sigset_t all;
  sigset_t ending;  // those that end the daemon
};

Signals BlockSignals() {
  Signals signals;
  sigemptyset(&signals.ending);
  for (const int signal_number : {SIGTERM, SIGINT}) sigaddset(&signals.ending, signal_number);
  signals.all = signals.ending;
  sigaddset(&signals.all, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals.all, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signals;
}

// Ends the process `limit` from now, whatever hangs then (a dead network file system). Set again, it counts anew.
void ArmWatchdog(absl::Duration limit) {
  signal(SIGALRM, [](int) {
    constexpr std::string_view message = "keyloadd: the shutdown hangs and is ended here\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, message.data(), message.size());
    _exit(kExitFailed);
  });
  alarm(static_cast<unsigned>(std::clamp<int64_t>(absl::ToInt64Seconds(absl::Ceil(limit, absl::Seconds(1))), 1,
                                                  std::numeric_limits<int>::max())));
}

std::vector<std::unique_ptr<Device>> MakeDevices(const Config& config, size_t descriptors) {
  std::vector<std::unique_ptr<Device>> devices;
  if (config.simulate_gpus) {
    for (uint32_t i = 0; i < config.simulate_gpus->count; ++i) {
      devices.push_back(MakeSimulatedGpu({.index = i,
                                          .capacity_bytes = config.simulate_gpus->capacity_bytes,
                                          .copy_bytes_per_second = config.simulate_gpus->copy_bytes_per_second}));
    }
  }
  const uint64_t capacity = config.host_memory_bytes.value_or(DefaultHostCapacity());
  devices.push_back(MakeHostDevice({.capacity_bytes = capacity,
                                    .reuse_bytes = config.reuse_memory_bytes.value_or(capacity / 4),
                                    .reuse_segments = std::min<size_t>(descriptors / 8, kMostIdleSegments)}));
  return devices;
}

// The threads of one kind of call. One caller has half of them, and half of the queue: the rest is for others.
std::unique_ptr<Executor> MakePool(std::string name, size_t threads = kPoolThreads) {
  return std::make_unique<Executor>(Executor::Options{.name = std::move(name),
                                                      .threads = threads,
                                                      .queue_limit = kPoolQueue,
                                                      .caller_threads = threads / 2,
                                                      .caller_queue = kPoolQueue / 2});
}

// Why a GPU that the node may have is not listed.
std::vector<std::string> DeviceNotes(const Config& config) {
  if (config.simulate_gpus) return {};
  return {"this version does not drive real GPUs; --simulate-gpus gives simulated ones"};
}

absl::StatusOr<std::unique_ptr<CredentialFiles>> OpenCredentials(const Config& config) {
  return CredentialFiles::Open(
      {.tls = {.cert = config.tls_cert, .key = config.tls_key, .client_ca = config.tls_client_ca},
       .tokens = config.token_file});
}

std::string TlsName(const Config& config) {
  if (config.tls_cert.empty()) return "none";
  return config.tls_client_ca.empty() ? "server" : "mutual";
}

// --check-config: the files that the configuration names are looked at too.
int CheckConfig(const Config& config) {
  if (const absl::Status status = OpenCredentials(config).status(); !status.ok()) {
    std::fprintf(stderr, "keyloadd: %s\n", std::string(status.message()).c_str());
    return kExitBadConfig;
  }
  std::puts("configuration is valid");
  return 0;
}

// True when another signal came before `deadline`.
bool WaitForSignal(const sigset_t& signals, absl::Duration timeout) {
  const timespec wait = absl::ToTimespec(timeout);
  return sigtimedwait(&signals, nullptr, &wait) > 0;
}

// Waits until no load is active and no call is open, or `grace` is over, or another signal comes.
void WaitForCalls(const RpcServer& server, const LoaderService& service, const sigset_t& signals,
                  absl::Duration grace) {
  const absl::Time deadline = absl::Now() + grace;
  while ((service.active_loads() > 0 || server.open_calls() > 0) && absl::Now() < deadline) {
    if (WaitForSignal(signals, absl::Milliseconds(20))) return;
  }
}

void TakeDown(RpcServer& server, LoaderService& service, const sigset_t& signals, absl::Duration grace) {
  ArmWatchdog(grace + 2 * kCancelGrace);
  server.BeginDrain();
  WaitForCalls(server, service, signals, grace);
  ArmWatchdog(2 * kCancelGrace);  // a second signal may have ended the grace early
  service.StopLoads();
  server.CancelCalls();
  WaitForCalls(server, service, signals, kCancelGrace);
  if (server.open_calls() > 0 || service.active_loads() > 0) {
    Log(LogLevel::kWarning, "stop",
        {{"open_calls", uint64_t{server.open_calls()}}, {"active_loads", uint64_t{service.active_loads()}}});
    server.Abandon();
    std::_Exit(service.active_loads() > 0 ? kExitFailed : 0);
  }
  server.Shutdown(absl::Now() + absl::Seconds(1));
}

// `read_config` gives the configuration as it is now.
int Run(const Config& config, Reload::Read read_config) {
  const Signals signals = BlockSignals();
  const size_t descriptors = RaiseDescriptorLimit();
  ConfigureLog(config.log_format, config.log_level);
  // Large tables come and go with every plan. With one arena the next plan finds the memory of the last one, pages and
  // all; by default every thread would keep its own. What is left over goes back to the system after each load.
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, kMappedAllocationBytes);
  mallopt(M_TRIM_THRESHOLD, kKeptFreeBytes);

  const absl::StatusOr<ModelRoots> resolved = ModelRoots::Create(config.model_roots);
  if (!resolved.ok()) {
    std::fprintf(stderr, "keyloadd: %s\n", std::string(resolved.status().message()).c_str());
    return kExitBadConfig;
  }
  const absl::StatusOr<std::unique_ptr<CredentialFiles>> credentials = OpenCredentials(config);
  if (!credentials.ok()) {
    std::fprintf(stderr, "keyloadd: %s\n", std::string(credentials.status().message()).c_str());
    return kExitBadConfig;
  }
  const AccessControl access((*credentials)->tokens(), config.socket_role);
  CurrentPeerRules peers(AllowedPeers(config));
  const size_t cores = std::max(std::thread::hardware_concurrency(), 1u);
  const size_t io_threads = config.io_threads > 0 ? config.io_threads : std::min<size_t>(cores, 8);

  Metrics metrics({.methods = RpcMethodNames(),
                   .build = {{"version", KEYLOAD_VERSION},
                             {"compiler", __VERSION__},
                             {"dtype_conversion", DTypeConversionAvailable() ? "true" : "false"}}});
  // Taken down in reverse: the server, what runs, the service, the models, the devices last.
  DeviceSet devices(MakeDevices(config, descriptors), DeviceNotes(config));
  CurrentRoots roots(*resolved);
  ByteBudget scratch(config.scratch_bytes);
  HoldBudget held(HoldMemoryBytes(config), [] { return HostMemoryHeadroom(""); });
  std::unique_ptr<KeptState> state;
  if (!config.state_dir.empty()) {
    absl::StatusOr<std::unique_ptr<KeptState>> opened = KeptState::Open(config.state_dir, ProtoStateCodec());
    if (!opened.ok()) {
      std::fprintf(stderr, "keyloadd: %s\n", std::string(opened.status().message()).c_str());
      return kExitFailed;
    }
    state = *std::move(opened);
  }
  ModelRegistry registry(state == nullptr ? 0 : state->first_number());
  DocumentStore documents(DocumentStore::Options(), ParseManifest);
  // Every running load has its own share of the threads: one that waits for a slow device or file holds up no other.
  // What waits for a disk needs more of them than there are cores.
  const size_t io_share = std::max(io_threads, TransferResources().cold_workers);
  // Reads of lazy keys load as well.
  const size_t io_total = io_share * (config.concurrent_loads + kPoolThreads);
  auto io = std::make_unique<Executor>(Executor::Options{.name = "io", .threads = io_total, .queue_limit = io_total});
  auto loads = std::make_unique<LoadQueue>(
      LoadQueue::Options{.threads = config.concurrent_loads, .limit = config.load_queue, .devices = &devices});
  // What is quick never waits behind what may take long: each kind of call has threads of its own.
  auto control = MakePool("control", 4);
  auto starts = MakePool("start", 4);
  auto plans = MakePool("plan");
  auto keys = MakePool("keys");
  auto maps = MakePool("maps", 2);
  auto reads = MakePool("reads");
  auto unloads = MakePool("unload");
  // Threads that only help: who opens a checkpoint reads headers itself too, so one that hangs on a dead file system
  // stops no other.
  HeaderCache header_cache({.max_bytes = kHeaderCacheBytes});
  auto header_readers = std::make_unique<Executor>(
      Executor::Options{.name = "header", .threads = io_threads, .queue_limit = 4 * io_threads});
  TemplateDirectories templates = config.template_dirs;
  templates.push_back(BuiltInTemplateDirectory());
  LoaderService service(
      {.roots = &roots,
       .documents = &documents,
       .registry = &registry,
       .held = &held,
       .loads = loads.get(),
       .queries = plans.get(),
       .headers = {.threads = header_readers.get(), .cache = &header_cache},
       .templates = std::move(templates),
       .transfer = {.devices = &devices,
                    .io = io.get(),
                    .workers = io_threads,
                    .scratch = &scratch,
                    .make_reader = [](const Shard& shard) { return MakeFileReader(shard.fd, shard.file); }},
       .state = state.get(),
       .metrics = &metrics});
  metrics.SetSampler([&service, tls = (*credentials)->tls()] {
    Metrics::Sample sample = service.SampleMetrics();
    if (tls != nullptr) {
      sample.tls = {.expiry = tls->get()->not_after, .current = tls->current(), .reload_failures = tls->failures()};
    }
    return sample;
  });

  std::unique_ptr<MetricsServer> scrapes;
  if (!config.metrics_listen.empty()) {
    absl::StatusOr<std::unique_ptr<MetricsServer>> started = MetricsServer::Start(config.metrics_listen, metrics);
    if (!started.ok()) {
      std::fprintf(stderr, "keyloadd: %s\n", std::string(started.status().message()).c_str());
      return kExitFailed;
    }
    scrapes = *std::move(started);
  }
  absl::StatusOr<std::unique_ptr<RpcServer>> server = RpcServer::Start({.listen = config.listen,
                                                                        .health_listen = config.health_listen,
                                                                        .reflection = config.reflection,
                                                                        .socket_mode = config.socket_mode,
                                                                        .peers = &peers,
                                                                        .tls = (*credentials)->tls(),
                                                                        .access = &access,
                                                                        .rpc = {.service = &service,
                                                                                .control = control.get(),
                                                                                .starts = starts.get(),
                                                                                .plans = plans.get(),
                                                                                .keys = keys.get(),
                                                                                .maps = maps.get(),
                                                                                .reads = reads.get(),
                                                                                .unloads = unloads.get()}});
  if (!server.ok()) {
    std::fprintf(stderr, "keyloadd: %s\n", std::string(server.status().message()).c_str());
    return kExitFailed;
  }
  Log(LogLevel::kInfo, "start",
      {{"version", std::string(KEYLOAD_VERSION)},
       {"listen", absl::StrJoin((*server)->addresses(), ",")},
       {"health_listen", (*server)->health_address()},
       {"metrics_listen", scrapes == nullptr ? std::string() : scrapes->address()},
       {"tls", TlsName(config)},
       {"tokens", !config.token_file.empty()},
       {"socket_mode", absl::StrFormat("%04o", config.socket_mode)},
       {"allow_uid", absl::StrJoin(config.allowed_uids, ",")},
       {"allow_gid", absl::StrJoin(config.allowed_gids, ",")},
       {"model_roots", absl::StrJoin(resolved->roots(), ":")},
       {"devices", uint64_t{devices.devices().size()}}});

  if (config.restore != Restore::kNot) service.RestoreModels(config.restore == Restore::kLazily);
  Reload reload(config, std::move(read_config),
                {.roots = &roots, .peers = &peers, .held = &held, .loads = loads.get()});
  // Its own thread: a configuration file that cannot be read now must not keep SIGTERM waiting.
  auto reloads = std::make_unique<Executor>(Executor::Options{.name = "reload", .threads = 1, .queue_limit = 1});
  int signal_number = 0;
  while (sigwait(&signals.all, &signal_number) == 0 && signal_number == SIGHUP) {
    // Refused only when one waits that has not read yet.
    [[maybe_unused]] const bool queued = reloads->TrySubmit([&reload] { reload.Run(); });
  }
  Log(LogLevel::kInfo, "drain",
      {{"signal", std::string(strsignal(signal_number))}, {"active_loads", uint64_t{service.active_loads()}}});
  TakeDown(**server, service, signals.ending, reload.config().grace);
  server->reset();
  scrapes.reset();
  metrics.SetSampler(nullptr);  // a scrape that hangs may go on
  reloads.reset();
  for (std::unique_ptr<Executor>* pool : {&control, &starts, &plans, &keys, &maps, &reads, &unloads}) pool->reset();
  loads.reset();
  header_readers.reset();
  io.reset();
  Log(LogLevel::kInfo, "stop", {});
  return 0;
}

}  // namespace
}  // namespace keyload

int main(int argc, char** argv) {
  const auto read_config = [args = std::vector<std::string>(argv + 1, argv + argc)] {
    return keyload::ParseConfig(args, keyload::Environment(), keyload::ReadConfigFile);
  };
  const absl::StatusOr<keyload::Config> config = read_config();
  if (!config.ok()) {
    std::fprintf(stderr, "keyloadd: %s\n", std::string(config.status().message()).c_str());
    return keyload::kExitBadConfig;
  }
  if (config->show_text) {
    std::fputs(config->text.c_str(), stdout);
    return 0;
  }
  if (config->check_config) return keyload::CheckConfig(*config);
  try {
    return keyload::Run(*config, read_config);
  } catch (const std::exception& error) {  // the system gives no thread or no memory to start with
    std::fprintf(stderr, "keyloadd: cannot start: %s\n", error.what());
    return keyload::kExitFailed;
  }
}
