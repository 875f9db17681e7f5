#include "server/rpc/tls_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

#include <string>
#include <vector>

namespace keyload {
namespace {

// gRPC 1.51's C++ credentials either hold one certificate for ever, or read files themselves and then serve nobody
// while the files do not fit together. Its C interface asks before every handshake instead, which is what this uses.
class TlsCredentials : public grpc::ServerCredentials {
 public:
  explicit TlsCredentials(const Reloading<TlsMaterial>& tls) : tls_(tls) {}
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) override {}

 private:
  // What one port was given last.
  struct Port {
    const Reloading<TlsMaterial>& tls;
    std::shared_ptr<const TlsMaterial> given;
  };

  int AddPortToServer(const std::string& address, grpc_server* server) override {
    Port& port = *ports_.emplace_back(std::make_unique<Port>(Port{.tls = tls_, .given = nullptr}));
    const auto request = tls_.get()->client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                                       : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
    grpc_server_credentials* const credentials = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(request, Fetch, &port));
    const int bound = grpc_server_add_http2_port(server, address.c_str(), credentials);
    grpc_server_credentials_release(credentials);
    return bound;
  }

  // gRPC calls it under a lock of the port.
  static grpc_ssl_certificate_config_reload_status Fetch(void* user_data, grpc_ssl_server_certificate_config** config) {
    Port& port = *static_cast<Port*>(user_data);
    std::shared_ptr<const TlsMaterial> now = port.tls.get();
    if (now == port.given) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair = {.private_key = now->private_key.c_str(),
                                             .cert_chain = now->cert_chain.c_str()};
    // gRPC 1.51 wants authorities also where it asks clients for no certificate.
    const std::string& authorities = now->client_ca.empty() ? now->cert_chain : now->client_ca;
    *config = grpc_ssl_server_certificate_config_create(authorities.c_str(), &pair, 1);
    port.given = std::move(now);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const Reloading<TlsMaterial>& tls_;
  std::vector<std::unique_ptr<Port>> ports_;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeTlsCredentials(const Reloading<TlsMaterial>& tls) {
  return std::make_shared<TlsCredentials>(tls);
}

}  // namespace keyload
