#include "server/rpc/rpc_server.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server_builder.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string_view>

#include "server/base/error.h"
#include "server/base/lock_file.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr std::string_view kUnixPrefix = "unix:";
constexpr int kMinPingIntervalMs = 10'000;

absl::Status CannotListen(std::string_view address, std::string_view why) {
  return MakeError(Reason::kBadRequest, StrCat("cannot listen on ", address, ": ", why),
                   {{"address", std::string(address)}});
}

// gRPC unlinks a socket that is there, even one that a live server listens on: the lock tells them apart.
absl::StatusOr<UniqueFd> LockSocket(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!std::filesystem::exists(parent, error)) {
    std::filesystem::create_directories(parent, error);
    if (error) return CannotListen(path, StrCat(parent.string(), ": ", error.message()));
    std::filesystem::permissions(parent, std::filesystem::perms(0750), error);
  }
  absl::StatusOr<UniqueFd> lock = LockFile(path + ".lock", "another keyloadd listens there");
  if (!lock.ok()) return CannotListen(path, ToStd(lock.status().message()));
  return lock;
}

}  // namespace

RpcServer::RpcServer(const RpcContext& rpc)
    : rpc_{.service = rpc.service,
           .queries = rpc.queries,
           .reads = rpc.reads,
           .unloads = rpc.unloads,
           .calls = &calls_},
      service_(rpc_) {}

RpcServer::~RpcServer() {
  {
    MutexLock lock(mutex_);
    ending_ = true;
    ended_.NotifyAll();
  }
  if (watch_.joinable()) watch_.join();
  if (server_ == nullptr) return;
  CancelCalls();
  Shutdown(absl::InfinitePast());
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const Options& options) {
  std::unique_ptr<RpcServer> server(new RpcServer(options.rpc));
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
  const std::vector<std::string>& addresses = options.listen;
  // One reference to gRPC is never given back: its last shutdown can wait 10 s for a poller of its own.
  grpc_init();
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.RegisterService(&service_);
  std::vector<int> ports(addresses.size(), -1);
  for (size_t i = 0; i < addresses.size(); ++i) {
    if (addresses[i].starts_with(kUnixPrefix)) {
      KEYLOAD_ASSIGN_OR_RETURN(UniqueFd lock, LockSocket(addresses[i].substr(kUnixPrefix.size())));
      locks_.push_back(std::move(lock));
    }
    builder.AddListeningPort(addresses[i], grpc::InsecureServerCredentials(), &ports[i]);
  }
  server_ = builder.BuildAndStart();
  for (size_t i = 0; i < addresses.size(); ++i) {
    const bool is_unix = addresses[i].starts_with(kUnixPrefix);
    if (ports[i] <= 0)
      return CannotListen(addresses[i],
                          is_unix ? "the socket cannot be bound" : "the address is in use or not of this machine");
    if (is_unix) {
      chmod(addresses[i].substr(kUnixPrefix.size()).c_str(), 0660);
      addresses_.push_back(addresses[i]);
    } else {
      addresses_.push_back(StrCat(addresses[i].substr(0, addresses[i].rfind(':')), ":", ports[i]));
    }
  }
  if (server_ == nullptr) return CannotListen(StrCat(addresses.size(), " addresses"), "gRPC did not start");
  server_->GetHealthCheckService()->SetServingStatus(std::string(v1::ModelLoaderService::service_full_name()), true);
  return absl::OkStatus();
}

void RpcServer::BeginDrain() {
  server_->GetHealthCheckService()->SetServingStatus(false);
  rpc_.service->Drain();
  calls_.DrainAll();
}

void RpcServer::Abandon() {
  for (const std::string& address : addresses_) {
    if (address.starts_with(kUnixPrefix)) unlink(address.substr(kUnixPrefix.size()).c_str());
  }
}

void RpcServer::Shutdown(absl::Time deadline) {
  server_->Shutdown(absl::ToChronoTime(std::max(deadline, absl::UnixEpoch())));
  server_->Wait();
}

}  // namespace keyload
