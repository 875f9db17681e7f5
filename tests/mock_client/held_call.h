#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "server/base/mutex.h"
#include "tests/mock_client/rpc_caller.h"

namespace keyload::mock {

// A call that goes on beside the steps of a scenario: a thread of its own takes what comes. Thread-safe.
class HeldCall {
 public:
  struct Options {
    std::string method;                  // "/package.Service/Method"
    std::optional<std::string> request;  // serialized; absent: nothing is sent
    bool stays_open = false;             // the client's side, after the request
    absl::Duration timeout;              // of the whole call
    // The deadline is only told to the daemon, and the client itself waits on: a client that gives up at its deadline
    // looks like one that cancels.
    bool daemon_keeps_time = false;
  };
  HeldCall(const std::shared_ptr<grpc::Channel>& channel, const Options& options);
  // Cancels the call and waits for its end.
  ~HeldCall();

  struct Received {
    RpcResult result;               // the status only once the call has ended
    std::optional<absl::Time> end;  // absent while it goes on
  };
  Received received() const;

 private:
  void Run(const std::shared_ptr<grpc::Channel>& channel, const Options& options);

  grpc::ClientContext context_;
  mutable Mutex mutex_;
  Received received_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace keyload::mock
