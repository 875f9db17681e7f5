#include "server/rpc/rpc_server.h"

#include <dlfcn.h>
#include <grpc/grpc.h>
#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "keyload/v1/model_loader.grpc.pb.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/strings.h"
#include "server/rpc/call_metrics.h"
#include "server/rpc/grpc_log.h"
#include "server/rpc/guarded_service.h"
#include "server/rpc/tls_credentials.h"

namespace keyload {
namespace {

constexpr std::string_view kUnixPrefix = "unix:";
constexpr std::string_view kInUse = "the address is in use or not of this machine";
constexpr int kMinPingIntervalMs = 5'000;  // half of the shortest that clients are known to use

using ConnectionType = grpc::ServerBuilder::experimental_type::ExternalConnectionType;

absl::Status CannotListen(std::string_view address, std::string_view why) {
  return MakeError(Reason::kBadRequest, StrCat("cannot listen on ", address, ": ", why),
                   {{"address", std::string(address)}});
}

// The address as bound, with the port that the system chose.
std::string WithPort(std::string_view address, int port) {
  return StrCat(address.substr(0, address.rfind(':')), ":", port);
}

absl::Status NotAllowed() {
  return MakeError(Reason::kPeerNotAllowed, "this process runs as none of the users and groups that are served here");
}

// gRPC's library for it adds the service to every server that is built once it is there, so it is not linked.
absl::Status LoadReflection() {
  if (dlopen(KEYLOAD_REFLECTION_LIBRARY, RTLD_NOW) != nullptr) return absl::OkStatus();
  return MakeError(Reason::kBadRequest, StrCat("reflection is not to be had: ", dlerror()));
}

// Names that probes ask for; "liveness" stays true while the daemon drains.
constexpr std::string_view kLiveness = "liveness";
constexpr std::string_view kReadiness = "readiness";

}  // namespace

RpcServer::RpcServer(const Options& options)
    : rpc_{.service = options.rpc.service,
           .queries = options.rpc.queries,
           .reads = options.rpc.reads,
           .unloads = options.rpc.unloads,
           .calls = &calls_,
           .access = options.access == nullptr ? &open_access_ : options.access},
      open_access_(nullptr, Role::kAdmin),
      service_(MakeGuardedService(rpc_, *rpc_.access)),
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

void RpcServer::WatchStreams(std::chrono::milliseconds unread_limit) {
  MutexLock lock(mutex_);
  while (!ending_) {
    ended_.WaitFor(mutex_, unread_limit / 4);
    calls_.CancelUnread(std::chrono::steady_clock::now() - unread_limit);
  }
}

absl::Status RpcServer::Listen(const Options& options) {
  // One reference to gRPC is never given back: its last shutdown can wait 10 s for a poller of its own.
  TakeGrpcLog();
  grpc_init();
  for (const std::string& address : options.listen) {
    if (!address.starts_with(kUnixPrefix)) continue;
    KEYLOAD_ASSIGN_OR_RETURN(unix_listeners_.emplace_back(),
                             UnixListener::Bind(address.substr(kUnixPrefix.size()), options.socket_mode));
  }
  if (options.peers != nullptr && !unix_listeners_.empty()) KEYLOAD_RETURN_IF_ERROR(StartRefusing());
  if (!options.health_listen.empty()) KEYLOAD_RETURN_IF_ERROR(StartHealth(options.health_listen));
  KEYLOAD_RETURN_IF_ERROR(StartMain(options));
  for (const std::string_view name :
       {std::string_view(v1::ModelLoaderService::service_full_name()), kLiveness, kReadiness}) {
    SetServing(std::string(name), true);
  }
  for (const std::unique_ptr<UnixListener>& listener : unix_listeners_) {
    listener->Start([this, peers = options.peers](UniqueFd connection) { OnConnection(peers, std::move(connection)); });
  }
  return absl::OkStatus();
}

absl::Status RpcServer::StartRefusing() {
  grpc::EnableDefaultHealthCheckService(false);
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.RegisterCallbackGenericService(&refusing_service_);
  refused_ =
      builder.experimental().AddExternalConnectionAcceptor(ConnectionType::FROM_FD, grpc::InsecureServerCredentials());
  refusing_server_ = builder.BuildAndStart();
  return refusing_server_ == nullptr ? MakeError(Reason::kInternal, "gRPC did not start") : absl::OkStatus();
}

absl::Status RpcServer::StartHealth(const std::string& address) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.RegisterCallbackGenericService(&nothing_else_);
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  health_server_ = builder.BuildAndStart();
  if (port <= 0 || health_server_ == nullptr) return CannotListen(address, kInUse);
  health_address_ = WithPort(address, port);
  return absl::OkStatus();
}

absl::Status RpcServer::StartMain(const Options& options) {
  grpc::EnableDefaultHealthCheckService(true);
  if (options.reflection) KEYLOAD_RETURN_IF_ERROR(LoadReflection());
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.RegisterService(service_.get());
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(CountCalls(rpc_.service->metrics()));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  served_ =
      builder.experimental().AddExternalConnectionAcceptor(ConnectionType::FROM_FD, grpc::InsecureServerCredentials());
  tls_ = options.tls == nullptr ? grpc::InsecureServerCredentials() : MakeTlsCredentials(*options.tls);
  std::vector<int> ports(options.listen.size(), 0);
  for (size_t i = 0; i < ports.size(); ++i) {
    if (!options.listen[i].starts_with(kUnixPrefix)) builder.AddListeningPort(options.listen[i], tls_, &ports[i]);
  }
  server_ = builder.BuildAndStart();
  for (size_t i = 0; i < ports.size(); ++i) {
    const std::string& address = options.listen[i];
    const bool is_unix = address.starts_with(kUnixPrefix);
    if (!is_unix && ports[i] <= 0) return CannotListen(address, kInUse);
    addresses_.push_back(is_unix ? address : WithPort(address, ports[i]));
  }
  return server_ == nullptr ? MakeError(Reason::kInternal, "gRPC did not start") : absl::OkStatus();
}

void RpcServer::OnConnection(const CurrentPeerRules* peers, UniqueFd connection) {
  const absl::StatusOr<PeerProcess> peer = ReadPeer(connection.get());
  const bool allowed = peers == nullptr || (peer.ok() && peers->Allows(*peer));
  if (!allowed) {
    rpc_.service->metrics().ConnectionRefused();
    Log(LogLevel::kWarning, "connection refused",
        {{"pid", int64_t{peer.ok() ? peer->pid : 0}}, {"uid", uint64_t{peer.ok() ? peer->uid : 0}}});
  }
  grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
  parameters.fd = connection.Release();
  (allowed ? served_ : refused_)->HandleNewConnection(&parameters);
}

void RpcServer::SetServing(const std::string& service, bool serving) {
  for (grpc::Server* const server : {server_.get(), health_server_.get()}) {
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
  for (const std::unique_ptr<UnixListener>& listener : unix_listeners_) listener->Unlink();
}

void RpcServer::Shutdown(absl::Time deadline) {
  unix_listeners_.clear();
  for (grpc::Server* const server : {server_.get(), health_server_.get(), refusing_server_.get()}) {
    if (server == nullptr) continue;
    server->Shutdown(absl::ToChronoTime(std::max(deadline, absl::UnixEpoch())));
    server->Wait();
  }
}

}  // namespace keyload
