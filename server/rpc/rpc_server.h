#pragma once

#include <grpcpp/impl/service_type.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/access/access_control.h"
#include "server/access/peer.h"
#include "server/access/reloading.h"
#include "server/access/tls_material.h"
#include "server/base/fd.h"
#include "server/base/log_limiter.h"
#include "server/base/mutex.h"
#include "server/rpc/limits.h"
#include "server/rpc/listener.h"
#include "server/rpc/live_calls.h"
#include "server/rpc/refusing_service.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// The gRPC server: sockets, health, and the way down. Confine to the thread that owns it.
class RpcServer {
 public:
  struct Options {
    std::vector<std::string> listen;  // "unix:/absolute/path" or "HOST:PORT"; port 0 is chosen by the system
    std::string health_listen;        // "HOST:PORT" that answers health probes only, without TLS; empty: none
    bool reflection = false;
    uint32_t socket_mode = 0660;
    // These outlive the server. Null: every process is served that can reach a socket, TCP has no TLS, and every caller
    // is an admin.
    const CurrentPeerRules* peers = nullptr;
    const Reloading<TlsMaterial>* tls = nullptr;
    const AccessControl* access = nullptr;
    RpcContext rpc;  // calls is set by the server
    // A client that takes nothing of a stream of keys or tensors for that long has it cancelled: the stream keeps its
    // model, which could not be unloaded else. gRPC's keepalive tells nothing about a client that does not read.
    std::chrono::milliseconds unread_limit = std::chrono::seconds(60);
    int max_streams = kMaxStreamsPerConnection;
  };
  // Listens, and answers from then on. BAD_REQUEST names an address that is in use or cannot be bound, also by another
  // daemon.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const Options& options);
  // Ends what is open at once.
  ~RpcServer();

  // As bound, with the real port.
  const std::vector<std::string>& addresses() const { return addresses_; }
  std::string health_address() const { return health_listener_ == nullptr ? "" : health_listener_->address(); }

  // Health says NOT_SERVING, new loads are refused, streams without a load end. Returns at once.
  void BeginDrain();
  // Cancels what still runs.
  void CancelCalls() { calls_.CancelAll(); }
  size_t open_calls() const { return calls_.size(); }
  // Takes the sockets away, for a process that ends without Shutdown: a peer that takes no bytes can keep a call open
  // for ever.
  void Abandon();
  // Stops listening and waits for open calls at most until `deadline`.
  void Shutdown(absl::Time deadline);

 private:
  explicit RpcServer(const Options& options);
  using Acceptor = std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor>;

  absl::Status Listen(const Options& options);
  absl::Status Bind(const Options& options);
  absl::Status StartMain(const Options& options);
  absl::Status StartHealth();
  // For processes that the rules do not allow.
  absl::Status StartRefusing();
  // Gives a connection of a Unix socket to who is to answer it.
  void Sort(const CurrentPeerRules* peers, UniqueFd connection);
  void SetServing(const std::string& service, bool serving);
  // Cancels streams that are not read, until the end.
  void WatchStreams(std::chrono::milliseconds unread_limit);

  LiveCalls calls_;
  RpcContext rpc_;
  const AccessControl open_access_;
  const std::unique_ptr<grpc::Service> service_;
  RefusingService refusing_service_;
  grpc::CallbackGenericService nothing_else_;  // UNIMPLEMENTED; gRPC starts no server without a service
  LogLimiter refusals_;
  std::vector<std::string> addresses_;
  std::shared_ptr<grpc::ServerCredentials> tls_;
  Acceptor from_unix_;
  Acceptor from_tcp_;
  Acceptor health_;
  Acceptor refused_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<grpc::Server> health_server_;
  std::unique_ptr<grpc::Server> refusing_server_;
  // Their threads use what stands above.
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::unique_ptr<Listener> health_listener_;  // null: none

  Mutex mutex_;
  CondVar ended_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watch_;
};

}  // namespace keyload
