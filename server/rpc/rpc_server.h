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
#include "server/rpc/connection_table.h"
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
    // A client that is waited for that long and takes less than ReadRate::kMinBytesPerMinute of a stream of keys or
    // tensors has it cancelled: the stream keeps its model, which could not be unloaded else. So has one that does not
    // take its answer, or stops in the middle of an upload. gRPC's keepalive tells nothing about a client that does not
    // read.
    std::chrono::milliseconds unread_limit = std::chrono::seconds(60);
    LiveCalls::Limits calls;                  // open ones, and of one peer
    uint64_t send_bytes = kDefaultSendBytes;  // of answers on their way; a quarter for one peer
    int max_streams = kMaxStreamsPerConnection;
    // Open connections of each listener, and of one peer of it: a user on a Unix socket, a host over TCP. Where the
    // process may have few descriptors there are fewer: see ConnectionLimits.
    size_t max_connections = kDefaultConnections;
    size_t max_connections_per_peer = kDefaultConnectionsPerPeer;
    std::chrono::milliseconds idle_limit = std::chrono::minutes(5);  // a connection without calls ends after that
    // A client is asked for a sign of life after `keepalive_time` without one, and given up after `keepalive_timeout`
    // more: both together bound how long a client that lost power keeps its loads.
    std::chrono::milliseconds keepalive_time = std::chrono::seconds(30);
    std::chrono::milliseconds keepalive_timeout = std::chrono::seconds(20);
  };
  // What one of `listeners` may have open while the process may have `descriptors`: half of these are for connections,
  // in equal shares, so that no listener can take what another needs, and one peer may have half a share.
  static ConnectionTable::Limits ConnectionLimits(const Options& options, size_t descriptors, size_t listeners);

  // Listens, and answers from then on. BAD_REQUEST names an address that is in use or cannot be bound, also by another
  // daemon.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const Options& options);
  // Ends what is open at once.
  ~RpcServer();

  // As bound, with the real port.
  const std::vector<std::string>& addresses() const { return addresses_; }
  std::string health_address() const {
    return health_entrance_ == nullptr ? "" : health_entrance_->listener->address();
  }

  // Health says NOT_SERVING, new loads are refused, streams without a load end. Returns at once.
  void BeginDrain();
  // Cancels what still runs.
  void CancelCalls() { calls_.CancelAll(); }
  size_t open_calls() const { return calls_.size(); }
  // Stops listening and takes the sockets away, for a process that ends without Shutdown: a peer that takes no bytes
  // can keep a call open for ever, and a thread that hangs in the kernel keeps the descriptors of its process open.
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
  // What answers the contract over connections with these credentials. It has buffers of its own, so that what others
  // send over the network costs no process of this machine its connection.
  absl::StatusOr<std::unique_ptr<grpc::Server>> BuildServing(std::shared_ptr<grpc::ServerCredentials> credentials,
                                                             Acceptor& acceptor);
  // For processes that the rules do not allow.
  absl::Status StartRefusing();
  // An address with the connections that it has.
  struct Entrance {
    ConnectionTable connections;  // the listener's thread's
    std::unique_ptr<Listener> listener;
  };
  // True if there is room for one more of `peer`; what is refused is told in the log.
  bool Admit(Entrance& entrance, const UniqueFd& connection, const std::string& peer);
  // Gives a connection of a Unix socket to the server that is to answer it.
  void SortUnixConnection(Entrance& entrance, UniqueFd connection);
  void TakeTcpConnection(Entrance& entrance, grpc::experimental::ExternalConnectionAcceptor& acceptor,
                         UniqueFd connection);
  // What holds for every server: connections that do not get on, clients that ping and clients that are gone.
  void SetLimits(grpc::ServerBuilder& builder, int max_streams) const;
  void SetServing(const std::string& service, bool serving);
  // Cancels streams that are not read, until the end.
  void WatchStreams(std::chrono::milliseconds unread_limit);

  const Options options_;  // as given; its rpc lacks what the server sets
  LiveCalls calls_;
  SendBudget send_;
  ShareSlots watchers_{kMaxWatchers};
  RpcContext rpc_;
  const AccessControl open_access_;
  const std::unique_ptr<grpc::Service> service_;
  RefusingService refusing_service_;
  grpc::CallbackGenericService nothing_else_;  // UNIMPLEMENTED; gRPC starts no server without a service
  LogLimiter refusals_;                        // lines about processes that are not allowed
  LogLimiter crowding_;                        // lines about connections above the limits
  std::vector<std::string> addresses_;
  std::shared_ptr<grpc::ServerCredentials> tls_;
  Acceptor from_unix_;
  Acceptor from_tcp_;
  Acceptor health_;
  Acceptor refused_;
  std::unique_ptr<grpc::Server> unix_server_;
  std::unique_ptr<grpc::Server> tcp_server_;
  std::unique_ptr<grpc::Server> health_server_;
  std::unique_ptr<grpc::Server> refusing_server_;
  // Their threads use what stands above.
  std::vector<std::unique_ptr<Entrance>> entrances_;
  std::unique_ptr<Entrance> health_entrance_;  // null: none

  Mutex mutex_;
  CondVar ended_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watch_;
};

}  // namespace keyload
