#include "server/rpc/rpc_server.h"

#include <dlfcn.h>
#include <grpc/grpc.h>
#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/health_check_service_interface.h>
#include <sys/resource.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "keyload/v1/model_loader.grpc.pb.h"
#include "server/base/error.h"
#include "server/base/listen_address.h"
#include "server/base/log.h"
#include "server/base/strings.h"
#include "server/rpc/call_metrics.h"
#include "server/rpc/grpc_log.h"
#include "server/rpc/guarded_service.h"
#include "server/rpc/read_rate.h"
#include "server/rpc/tls_credentials.h"

namespace keyload {
namespace {

constexpr int kMinPingIntervalMs = 5'000;  // half of the shortest that clients are known to use
constexpr int kHandshakeMs = 10'000;
constexpr int kFewStreams = 16;       // where a connection has no business to have many
constexpr int kRefusedAgeMs = 2'000;  // enough to be told
constexpr int kMaxHealthBytes = 4096;

using ConnectionType = grpc::ServerBuilder::experimental_type::ExternalConnectionType;

absl::Status BuildInto(grpc::ServerBuilder& builder, std::unique_ptr<grpc::Server>& server) {
  server = builder.BuildAndStart();
  return server == nullptr ? MakeError(Reason::kInternal, "gRPC did not start") : absl::OkStatus();
}

// Beyond its bound gRPC ends the calls and connections of this server that hold most.
void BoundBuffers(grpc::ServerBuilder& builder) {
  grpc::ResourceQuota quota;
  quota.Resize(kReceiveBytes);
  builder.SetResourceQuota(quota);
}

void HandOver(grpc::experimental::ExternalConnectionAcceptor& acceptor, UniqueFd connection) {
  grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
  parameters.fd = connection.Release();
  acceptor.HandleNewConnection(&parameters);
}

absl::Status NotAllowed() {
  return MakeError(Reason::kPeerNotAllowed, "this process runs as none of the users and groups that are served here");
}

// gRPC's library for it adds the service to every server that is built once it is there, so it is not linked.
absl::Status LoadReflection() {
  if (dlopen(KEYLOAD_REFLECTION_LIBRARY, RTLD_NOW) != nullptr) return absl::OkStatus();
  return MakeError(Reason::kBadRequest, StrCat("reflection is not to be had: ", dlerror()));
}

std::vector<std::pair<std::string, uint64_t>> LimitValues(const RpcServer::Options& options) {
  return {{"connections", options.max_connections},
          {"connections_per_peer", options.max_connections_per_peer},
          {"calls", options.calls.total},
          {"calls_per_peer", options.calls.per_peer},
          {"watchers", kMaxWatchers},
          {"watched_models", kMaxWatchedModels},
          {"receive_bytes", kReceiveBytes},
          {"send_bytes", options.send_bytes},
          {"send_bytes_per_peer", SendBudget(options.send_bytes).per_peer_bytes()},
          {"stream_bytes_per_minute", ReadRate::kMinBytesPerMinute}};
}

// Names that probes ask for; "liveness" stays true while the daemon drains.
constexpr std::string_view kLiveness = "liveness";
constexpr std::string_view kReadiness = "readiness";

RpcContext OfServer(const RpcServer::Options& options, LiveCalls& calls, SendBudget& send, ShareSlots& watchers,
                    const AccessControl& open_access) {
  RpcContext rpc = options.rpc;
  rpc.calls = &calls;
  rpc.send = &send;
  rpc.watchers = &watchers;
  rpc.limits = LimitValues(options);
  rpc.access = options.access == nullptr ? &open_access : options.access;
  return rpc;
}

}  // namespace

RpcServer::RpcServer(const Options& options)
    : options_(options),
      calls_(options.calls),
      send_(options.send_bytes),
      rpc_(OfServer(options, calls_, send_, watchers_, open_access_)),
      open_access_(nullptr, Role::kAdmin),
      service_(MakeGuardedService(rpc_)),
      refusing_service_(NotAllowed()) {}

RpcServer::~RpcServer() {
  {
    MutexLock lock(mutex_);
    ending_ = true;
    ended_.NotifyAll();
  }
  if (watch_.joinable()) watch_.join();
  CancelCalls();
  Shutdown(absl::InfinitePast());
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const Options& options) {
  std::unique_ptr<RpcServer> server(new RpcServer(options));
  KEYLOAD_RETURN_IF_ERROR(server->Listen(options));
  server->watch_ = std::thread([s = server.get(), limit = options.unread_limit] { s->WatchStreams(limit); });
  return server;
}

void RpcServer::SetLimits(grpc::ServerBuilder& builder, int max_streams) const {
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(options_.keepalive_time.count()));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, static_cast<int>(options_.keepalive_timeout.count()));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // else two, and then nobody is asked any more
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, static_cast<int>(options_.idle_limit.count()));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, max_streams);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMs);
  // A compressed message is bounded before it unfolds, not after: one of 4 MiB can become 4 GiB. gRPC then refuses the
  // encodings by name, and what names none stays as it came.
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
}

ConnectionTable::Limits RpcServer::ConnectionLimits(const Options& options, size_t descriptors, size_t listeners) {
  const size_t share = descriptors / 2 / std::max<size_t>(listeners, 1);
  return {.total = std::min(options.max_connections, share),
          .per_peer = std::min(options.max_connections_per_peer, std::max<size_t>(share / 2, 1))};
}

void RpcServer::WatchStreams(std::chrono::milliseconds unread_limit) {
  MutexLock lock(mutex_);
  while (!ending_) {
    ended_.WaitFor(mutex_, unread_limit / 4);
    calls_.CancelUnread(unread_limit);
  }
}

absl::Status RpcServer::Listen(const Options& options) {
  // One reference to gRPC is never given back: its last shutdown can wait 10 s for a poller of its own.
  TakeGrpcLog();
  grpc_init();
  KEYLOAD_RETURN_IF_ERROR(Bind(options));
  if (options.peers != nullptr) KEYLOAD_RETURN_IF_ERROR(StartRefusing());
  if (health_entrance_ != nullptr) KEYLOAD_RETURN_IF_ERROR(StartHealth());
  KEYLOAD_RETURN_IF_ERROR(StartMain(options));
  for (const std::string_view name :
       {std::string_view(v1::ModelLoaderService::service_full_name()), kLiveness, kReadiness}) {
    SetServing(std::string(name), true);
  }
  for (const std::unique_ptr<Entrance>& entrance : entrances_) {
    Listener& listener = *entrance->listener;
    addresses_.push_back(listener.address());
    if (listener.address().starts_with(kUnixPrefix)) {
      listener.Start(
          [this, &entrance = *entrance](UniqueFd connection) { SortUnixConnection(entrance, std::move(connection)); });
    } else {
      listener.Start([this, &entrance = *entrance](UniqueFd connection) {
        TakeTcpConnection(entrance, *from_tcp_, std::move(connection));
      });
    }
  }
  if (health_entrance_ != nullptr) {
    health_entrance_->listener->Start(
        [this](UniqueFd connection) { TakeTcpConnection(*health_entrance_, *health_, std::move(connection)); });
  }
  return absl::OkStatus();
}

absl::Status RpcServer::Bind(const Options& options) {
  for (const std::string& address : options.listen) {
    entrances_.push_back(std::make_unique<Entrance>());
    KEYLOAD_ASSIGN_OR_RETURN(entrances_.back()->listener,
                             address.starts_with(kUnixPrefix)
                                 ? Listener::BindUnix(address.substr(kUnixPrefix.size()), options.socket_mode)
                                 : Listener::BindTcp(address));
  }
  if (options.health_listen.empty()) return absl::OkStatus();
  health_entrance_ = std::make_unique<Entrance>();
  KEYLOAD_ASSIGN_OR_RETURN(health_entrance_->listener, Listener::BindTcp(options.health_listen));
  return absl::OkStatus();
}

absl::Status RpcServer::StartRefusing() {
  grpc::EnableDefaultHealthCheckService(false);
  grpc::ServerBuilder builder;
  SetLimits(builder, kFewStreams);
  BoundBuffers(builder);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, kRefusedAgeMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, kRefusedAgeMs);
  builder.RegisterCallbackGenericService(&refusing_service_);
  refused_ =
      builder.experimental().AddExternalConnectionAcceptor(ConnectionType::FROM_FD, grpc::InsecureServerCredentials());
  return BuildInto(builder, refusing_server_);
}

absl::Status RpcServer::StartHealth() {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  SetLimits(builder, kFewStreams);
  builder.SetMaxReceiveMessageSize(kMaxHealthBytes);
  builder.RegisterCallbackGenericService(&nothing_else_);
  health_ =
      builder.experimental().AddExternalConnectionAcceptor(ConnectionType::FROM_FD, grpc::InsecureServerCredentials());
  return BuildInto(builder, health_server_);
}

absl::Status RpcServer::StartMain(const Options& options) {
  grpc::EnableDefaultHealthCheckService(true);
  if (options.reflection) KEYLOAD_RETURN_IF_ERROR(LoadReflection());
  tls_ = options.tls == nullptr ? grpc::InsecureServerCredentials() : MakeTlsCredentials(*options.tls);
  KEYLOAD_ASSIGN_OR_RETURN(unix_server_, BuildServing(grpc::InsecureServerCredentials(), from_unix_));
  KEYLOAD_ASSIGN_OR_RETURN(tcp_server_, BuildServing(tls_, from_tcp_));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<grpc::Server>> RpcServer::BuildServing(
    std::shared_ptr<grpc::ServerCredentials> credentials, Acceptor& acceptor) {
  grpc::ServerBuilder builder;
  SetLimits(builder, options_.max_streams);
  BoundBuffers(builder);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.RegisterService(service_.get());
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(CountCalls(rpc_.service->metrics()));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  acceptor = builder.experimental().AddExternalConnectionAcceptor(ConnectionType::FROM_FD, std::move(credentials));
  std::unique_ptr<grpc::Server> server;
  KEYLOAD_RETURN_IF_ERROR(BuildInto(builder, server));
  return server;
}

bool RpcServer::Admit(Entrance& entrance, const UniqueFd& connection, const std::string& peer) {
  rlimit descriptors = {};
  if (getrlimit(RLIMIT_NOFILE, &descriptors) != 0) descriptors.rlim_cur = 1024;
  const size_t listeners = entrances_.size() + (health_entrance_ == nullptr ? 0 : 1);
  const ConnectionTable::Limits limits = ConnectionLimits(options_, descriptors.rlim_cur, listeners);
  const ConnectionTable::Admission admission = entrance.connections.Admit(connection.get(), peer, limits);
  if (admission == ConnectionTable::Admission::kAdmitted) return true;
  const bool of_peer = admission == ConnectionTable::Admission::kTooManyOfPeer;
  crowding_.Log(LogLevel::kWarning, "connections refused",
                {{"address", entrance.listener->address()},
                 {"peer", peer},
                 {"error", std::string(of_peer ? "the peer has too many connections" : "too many connections")},
                 {"limit", uint64_t{of_peer ? limits.per_peer : limits.total}}});
  return false;
}

void RpcServer::TakeTcpConnection(Entrance& entrance, grpc::experimental::ExternalConnectionAcceptor& acceptor,
                                  UniqueFd connection) {
  if (Admit(entrance, connection, ReadPeerHost(connection.get()))) HandOver(acceptor, std::move(connection));
}

void RpcServer::SortUnixConnection(Entrance& entrance, UniqueFd connection) {
  const absl::StatusOr<PeerProcess> peer = ReadPeer(connection.get());
  const bool allowed = options_.peers == nullptr || (peer.ok() && options_.peers->Allows(*peer));
  // Those that are not served share what one peer may have.
  const std::string name = allowed ? StrCat("uid ", peer.ok() ? StrCat(peer->uid) : "unknown") : "not allowed";
  if (!Admit(entrance, connection, name)) return;
  if (allowed) return HandOver(*from_unix_, std::move(connection));
  rpc_.service->metrics().ConnectionRefused();
  std::vector<LogField> who = {{"error", std::string(peer.status().message())}};
  if (peer.ok()) who = {{"pid", int64_t{peer->pid}}, {"uid", uint64_t{peer->uid}}};
  refusals_.Log(LogLevel::kWarning, "connection refused", std::move(who));
  HandOver(*refused_, std::move(connection));
}

void RpcServer::SetServing(const std::string& service, bool serving) {
  for (grpc::Server* const server : {unix_server_.get(), tcp_server_.get(), health_server_.get()}) {
    if (server != nullptr) server->GetHealthCheckService()->SetServingStatus(service, serving);
  }
}

void RpcServer::BeginDrain() {
  for (const std::string_view name :
       {std::string_view(), std::string_view(v1::ModelLoaderService::service_full_name()), kReadiness}) {
    SetServing(std::string(name), false);
  }
  rpc_.service->Drain();
  calls_.DrainAll();
}

void RpcServer::Abandon() {
  entrances_.clear();
  health_entrance_ = nullptr;
}

void RpcServer::Shutdown(absl::Time deadline) {
  Abandon();
  for (grpc::Server* const server :
       {unix_server_.get(), tcp_server_.get(), health_server_.get(), refusing_server_.get()}) {
    if (server == nullptr) continue;
    server->Shutdown(absl::ToChronoTime(std::max(deadline, absl::UnixEpoch())));
    server->Wait();
  }
}

}  // namespace keyload
