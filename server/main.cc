#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "server/access/access_control.h"
#include "server/access/credential_files.h"
#include "server/access/peer.h"
#include "server/base/error.h"
#include "server/base/heap_trimmer.h"
#include "server/base/log.h"
#include "server/base/strings.h"
#include "server/checkpoint/header_cache.h"
#include "server/checkpoint/header_memory.h"
#include "server/config/config.h"
#include "server/device/device.h"
#include "server/device/host_memory_limit.h"
#include "server/expected/derive_manifest.h"
#include "server/io/page_cache_hold.h"
#include "server/io/storage_threads.h"
#include "server/io/watched_reader.h"
#include "server/metrics/metrics.h"
#include "server/metrics/metrics_server.h"
#include "server/reload.h"
#include "server/rpc/call_metrics.h"
#include "server/rpc/convert_manifest.h"
#include "server/rpc/grpc_log.h"
#include "server/rpc/rpc_server.h"
#include "server/rpc/state_codec.h"
#include "server/service/loader_service.h"
#include "server/shutdown.h"
#include "server/signals.h"
#include "server/tensor/convert.h"

// keyloadd: reads flags, environment and configuration, builds the objects, waits for a signal, and takes everything
// down again in the order in which it says so below.

extern char** environ;

namespace keyload {
namespace {

constexpr int kExitBadConfig = 2;
constexpr size_t kPoolThreads = 8;
constexpr size_t kPoolQueue = 1024;
constexpr size_t kMostIdleSegments = 4096;
constexpr int kKeptFreeBytes = 64 << 20;
constexpr int kMappedAllocationBytes = 16 << 20;  // larger ones go back to the system when they are freed
constexpr uint64_t kMostHeaderCacheBytes = uint64_t{256} << 20;  // about two million tensors
// Heap for headers, and for requests, unless a setting says otherwise.
constexpr uint64_t kLeastTableMemory = uint64_t{64} << 20;
constexpr uint64_t kMostTableMemory = uint64_t{1} << 30;

int Complain(const absl::Status& status, int exit_code) {
  std::fprintf(stderr, "keyloadd: %s\n", std::string(status.message()).c_str());
  return exit_code;
}

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

std::vector<std::unique_ptr<Device>> MakeDevices(const Config& config, uint64_t capacity, size_t descriptors,
                                                 HostMemoryRoom& room) {
  std::vector<std::unique_ptr<Device>> devices;
  if (config.simulate_gpus) {
    for (uint32_t i = 0; i < config.simulate_gpus->count; ++i) {
      devices.push_back(MakeSimulatedGpu({.index = i,
                                          .capacity_bytes = config.simulate_gpus->capacity_bytes,
                                          .copy_bytes_per_second = config.simulate_gpus->copy_bytes_per_second,
                                          .room = &room}));
    }
  }
  devices.push_back(MakeHostDevice({.capacity_bytes = capacity,
                                    .reuse_bytes = config.reuse_memory_bytes.value_or(capacity / 4),
                                    .reuse_segments = std::min<size_t>(descriptors / 8, kMostIdleSegments),
                                    .huge_pages = config.huge_pages,
                                    .room = &room}));
  return devices;
}

uint64_t TableMemoryBytes(std::optional<uint64_t> setting) {
  return setting.value_or(std::clamp(HostMemoryLimit("") / 8, kLeastTableMemory, kMostTableMemory));
}

using Pools = std::vector<std::unique_ptr<Executor>>;

// The threads of one kind of call. One caller has half of them, and half of the queue: the rest is for others.
Executor* AddPool(Pools& pools, std::string name, size_t threads) {
  pools.push_back(std::make_unique<Executor>(Executor::Options{.name = std::move(name),
                                                               .threads = threads,
                                                               .queue_limit = kPoolQueue,
                                                               .caller_threads = threads / 2,
                                                               .caller_queue = kPoolQueue / 2}));
  return pools.back().get();
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
    return Complain(status, kExitBadConfig);
  }
  std::puts("configuration is valid");
  return 0;
}

// `read_config` gives the configuration as it is now.
int Run(const Config& config, Reload::Read read_config) {
  const Signals signals = BlockedSignals();
  const size_t descriptors = RaiseDescriptorLimit();
  ConfigureLog(config.log_format, config.log_level);
  TakeGrpcLog();
  StartLogThread();
  // Large tables come and go with every plan. With one arena the next plan finds the memory of the last one, pages and
  // all; by default every thread would keep its own. What is left over goes back to the system when the daemon rests.
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, kMappedAllocationBytes);
  mallopt(M_TRIM_THRESHOLD, kKeptFreeBytes);
  const HeapTrimmer trimmer;

  const absl::StatusOr<ModelRoots> resolved = ModelRoots::Create(config.model_roots);
  if (!resolved.ok()) return Complain(resolved.status(), kExitBadConfig);
  const absl::StatusOr<std::unique_ptr<CredentialFiles>> credentials = OpenCredentials(config);
  if (!credentials.ok()) return Complain(credentials.status(), kExitBadConfig);
  const AccessControl access((*credentials)->tokens(), config.socket_role);
  CurrentPeerRules peers(AllowedPeers(config));
  const size_t cores = std::max(std::thread::hardware_concurrency(), 1u);
  const size_t io_threads = config.io_threads > 0 ? config.io_threads : std::min<size_t>(cores, 8);

  Metrics metrics({.methods = RpcMethodNames(),
                   .build = {{"version", KEYLOAD_VERSION},
                             {"compiler", __VERSION__},
                             {"dtype_conversion", DTypeConversionAvailable() ? "true" : "false"}}});
  // Taken down in reverse: the server, what runs, the service, the models, the devices last.
  const uint64_t header_bytes = TableMemoryBytes(config.header_memory_bytes);
  const uint64_t request_bytes = TableMemoryBytes(config.request_memory_bytes);
  const HostMemoryShares shares = DivideHostMemory(HostMemoryLimit(""), ProcessMemory(), header_bytes + request_bytes,
                                                   config.scratch_bytes, config.host_memory_bytes);
  ByteBudget scratch(shares.scratch);
  std::optional<HostMemoryRoom> room;  // it and `held` leave each other what they have promised
  HoldBudget held(HoldMemoryBytes(config), [&room] {
    const uint64_t headroom = HostMemoryHeadroom("");
    return headroom - std::min(headroom, room->promised());
  });
  room.emplace(HostMemoryRoom::Options{
      .bounds = [] { return HostMemoryBounds(""); },
      .margin = [&scratch, &held, shares] { return shares.process + scratch.unused() + held.coming(); }});
  DeviceSet devices(MakeDevices(config, shares.capacity, descriptors, *room), DeviceNotes(config));
  CurrentRoots roots(*resolved);
  std::unique_ptr<KeptState> state;
  if (!config.state_dir.empty()) {
    absl::StatusOr<std::unique_ptr<KeptState>> opened = KeptState::Open(config.state_dir, ProtoStateCodec());
    if (!opened.ok()) return Complain(opened.status(), kExitFailed);
    state = *std::move(opened);
  }
  HeaderMemory header_memory(header_bytes);  // models hold headers
  ModelRegistry registry({.first_generation = state == nullptr ? 0 : state->first_number(), .frees_apart = true});
  DocumentStore documents({.max_total_bytes = request_bytes}, ParseManifest, ManifestParseBytes);
  // Every running load has its own share of the threads: one that waits for a slow device or file holds up no other.
  // What waits for a disk needs more of them than there are cores.
  const size_t io_share = std::max(io_threads, TransferResources().cold_workers);
  // Reads of lazy keys load as well.
  const size_t io_total = io_share * (config.concurrent_loads + 1 + kPoolThreads);
  auto io = std::make_unique<Executor>(Executor::Options{.name = "io", .threads = io_total, .queue_limit = io_total});
  auto loads = std::make_unique<LoadQueue>(
      LoadQueue::Options{.threads = config.concurrent_loads, .limit = config.load_queue, .devices = &devices});
  // What is quick never waits behind what may take long: each kind of call has threads of its own.
  Pools pools;
  Executor* const plans = AddPool(pools, "plan", kPoolThreads);
  auto measures = std::make_unique<Executor>(Executor::Options{.name = "measure", .threads = 1, .queue_limit = 16});
  // Threads that only help: who opens a checkpoint reads headers itself too, so one that hangs on a dead file system
  // stops no other.
  auto storage = std::make_unique<StorageThreads>(StorageThreads::Options());
  HeaderCache header_cache({.max_bytes = std::min(kMostHeaderCacheBytes, header_memory.limit() / 4)});
  auto header_readers = std::make_unique<Executor>(
      Executor::Options{.name = "header", .threads = io_threads, .queue_limit = 4 * io_threads});
  TemplateDirectories templates = config.template_dirs;
  templates.push_back(BuiltInTemplateDirectory());
  LoaderService service({.roots = &roots,
                         .documents = &documents,
                         .registry = &registry,
                         .held = &held,
                         .loads = loads.get(),
                         .queries = plans,
                         .headers = {.threads = header_readers.get(), .cache = &header_cache, .memory = &header_memory},
                         .storage = storage.get(),
                         .templates = std::move(templates),
                         .transfer = {.devices = &devices,
                                      .io = io.get(),
                                      .workers = io_threads,
                                      .scratch = &scratch,
                                      .make_reader =
                                          [&storage](const Shard& shard) {
                                            return WatchReads(MakeFileReader(shard.fd, shard.file), *storage,
                                                              shard.resolved);
                                          },
                                      .storage = storage.get()},
                         .state = state.get(),
                         .metrics = &metrics});
  metrics.SetSampler([&service, tls = (*credentials)->tls()] {
    Metrics::Sample sample = service.SampleMetrics();
    if (tls != nullptr) {
      sample.tls = {.expiry = tls->get()->not_after, .current = tls->current(), .reload_failures = tls->failures()};
    }
    const LostLogLines lost = CountLostLogLines();
    sample.lost_log_lines = lost.log;
    sample.lost_audit_lines = lost.audit;
    return sample;
  });
  // However this function ends, a scrape that hangs and is left behind samples nothing that is gone.
  const absl::Cleanup no_more_samples = [&metrics] { metrics.SetSampler(nullptr); };

  std::unique_ptr<MetricsServer> scrapes;
  if (!config.metrics_listen.empty()) {
    absl::StatusOr<std::unique_ptr<MetricsServer>> started = MetricsServer::Start(config.metrics_listen, metrics);
    if (!started.ok()) return Complain(started.status(), kExitFailed);
    scrapes = *std::move(started);
  }
  absl::StatusOr<std::unique_ptr<RpcServer>> server =
      RpcServer::Start({.listen = config.listen,
                        .health_listen = config.health_listen,
                        .reflection = config.reflection,
                        .socket_mode = config.socket_mode,
                        .peers = &peers,
                        .tls = (*credentials)->tls(),
                        .access = &access,
                        .rpc = {.service = &service,
                                .control = AddPool(pools, "control", 4),
                                .starts = AddPool(pools, "start", 4),
                                .plans = plans,
                                .keys = AddPool(pools, "keys", kPoolThreads),
                                .maps = AddPool(pools, "maps", 2),
                                .reads = AddPool(pools, "reads", kPoolThreads),
                                .unloads = AddPool(pools, "unload", kPoolThreads),
                                .measures = measures.get()},
                        .calls = {.total = config.max_calls, .per_peer = config.max_calls_per_peer},
                        .send_bytes = config.send_bytes,
                        .max_connections = config.max_connections,
                        .max_connections_per_peer = config.max_connections_per_peer});
  if (!server.ok()) return Complain(server.status(), kExitFailed);
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
  TakeDown({.server = **server, .service = service, .scrapes = scrapes, .state = state.get()}, signals.ending,
           reload.config().grace);
  server->reset();
  scrapes.reset();
  metrics.SetSampler(nullptr);  // a scrape that hangs may go on
  reloads.reset();
  pools.clear();
  measures.reset();
  loads.reset();
  // Their threads end when the mount answers, which may be never.
  if (const std::vector<StuckMount> stuck = storage->under_way(); !stuck.empty()) {
    state.reset();  // another daemon may have the directory now
    for (const StuckMount& mount : stuck) {
      Log(LogLevel::kWarning, "stop", {{"stuck_mount", mount.mount}, {"operations", mount.operations}});
    }
    EndNow(0);
  }
  storage.reset();
  header_readers.reset();
  io.reset();
  DisarmWatchdog();  // freeing large models takes its time
  Log(LogLevel::kInfo, "stop", {});
  FlushLog(kLogFlush);
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
