#include "client/keyload/channel.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpc/grpc.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "grpcpp/support/client_interceptor.h"

namespace keyload::client_internal {
namespace {

constexpr int kMaxReceiveBytes = 64 << 20;
constexpr int kMaxMetadataBytes = 64 << 10;  // long status messages arrive whole instead of breaking the connection
constexpr int kKeepaliveMs = 30'000;
constexpr int kReconnectMs = 100;

// gRPC's own call credentials refuse to work without TLS, also on a Unix socket.
class SendToken : public grpc::experimental::Interceptor {
 public:
  explicit SendToken(const std::string& authorization) : authorization_(authorization) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* batch) override {
    if (batch->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      batch->GetSendInitialMetadata()->emplace("authorization", authorization_);
    }
    batch->Proceed();
  }

 private:
  const std::string& authorization_;
};

class SendTokenFactory : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit SendTokenFactory(const std::string& token) : authorization_(absl::StrCat("Bearer ", token)) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(grpc::experimental::ClientRpcInfo* /*info*/) override {
    return new SendToken(authorization_);
  }

 private:
  const std::string authorization_;
};

// "127.1.2.3:7077", and not "127.example:7077".
bool IsLoopbackV4(absl::string_view address) {
  return absl::StartsWith(address, "127.") &&
         address.substr(0, address.rfind(':')).find_first_not_of("0123456789.") == absl::string_view::npos;
}

bool StaysOnThisMachine(const std::string& address) {
  return absl::StartsWith(address, "unix:") || absl::StartsWith(address, "localhost:") ||
         absl::StartsWith(address, "[::1]:") || IsLoopbackV4(address);
}

absl::Status Check(const ClientOptions& options) {
  if (options.address.empty()) return absl::InvalidArgumentError("the server address is empty");
  if (options.tls && options.tls->cert.empty() != options.tls->key.empty()) {
    return absl::InvalidArgumentError("a client's certificate and its key go together");
  }
  for (const unsigned char c : options.token) {
    if (c <= ' ' || c >= 0x7f)
      return absl::InvalidArgumentError("the token holds blanks or characters that are not ASCII");
  }
  if (!options.token.empty() && !options.tls && !StaysOnThisMachine(options.address)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the token would go to ", options.address, " unencrypted: TLS is needed"));
  }
  return absl::OkStatus();
}

std::shared_ptr<grpc::ChannelCredentials> Credentials(const ClientOptions& options) {
  if (!options.tls || absl::StartsWith(options.address, "unix:")) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials(
      {.pem_root_certs = options.tls->ca, .pem_private_key = options.tls->key, .pem_cert_chain = options.tls->cert});
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const ClientOptions& options) {
  // Keeps gRPC up until the process ends: its last shutdown can wait 10 s for a poller of its own.
  static const bool held = (grpc_init(), true);
  static_cast<void>(held);
  if (absl::Status status = Check(options); !status.ok()) return status;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  arguments.SetInt("grpc.max_metadata_size", kMaxMetadataBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMs);
  // Clients of one process would otherwise share a connection, and one that is broken off would delay the others.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // The proxy of the environment, which is for the web, would see the token, also one that is for this machine.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (!options.token.empty()) interceptors.push_back(std::make_unique<SendTokenFactory>(options.token));
  return grpc::experimental::CreateCustomChannelWithInterceptors(options.address, Credentials(options), arguments,
                                                                 std::move(interceptors));
}

}  // namespace keyload::client_internal
