#pragma once

#include <grpcpp/server.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/fd.h"
#include "server/base/mutex.h"
#include "server/rpc/limits.h"
#include "server/rpc/live_calls.h"
#include "server/rpc/model_loader_service.h"

namespace keyload {

// The gRPC server: sockets, health, and the way down. Confine to the thread that owns it.
class RpcServer {
 public:
  struct Options {
    std::vector<std::string> listen;  // "unix:/absolute/path" or "HOST:PORT"; port 0 is chosen by the system
    RpcContext rpc;                   // calls is set by the server
    // A client that takes nothing of a stream of keys or tensors for that long has it cancelled: the stream keeps its
    // model, which could not be unloaded else. gRPC's keepalive tells nothing about a client that does not read.
    std::chrono::milliseconds unread_limit = std::chrono::seconds(60);
    int max_streams = kMaxStreamsPerConnection;
  };
  // Listens, and answers from then on. BAD_REQUEST names an address that is in use or cannot be bound; a second daemon
  // on a Unix socket is told by the lock beside it, PATH.lock.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const Options& options);
  // Ends what is open at once.
  ~RpcServer();

  // As bound, with the real port.
  const std::vector<std::string>& addresses() const { return addresses_; }

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
  explicit RpcServer(const RpcContext& rpc);
  absl::Status Listen(const Options& options);
  // Cancels streams that are not read, until the end.
  void WatchStreams(std::chrono::milliseconds unread_limit);

  LiveCalls calls_;
  RpcContext rpc_;
  ModelLoaderServiceImpl service_;
  std::vector<UniqueFd> locks_;
  std::vector<std::string> addresses_;
  std::unique_ptr<grpc::Server> server_;

  Mutex mutex_;
  CondVar ended_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watch_;
};

}  // namespace keyload
