#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "server/access/reloading.h"
#include "server/access/tls_material.h"

namespace keyload {

// TLS with whatever `tls` holds when a connection is made; with a client_ca, clients must show a certificate of one of
// its authorities. `tls`, and the credentials themselves, outlive the server that they are given to.
std::shared_ptr<grpc::ServerCredentials> MakeTlsCredentials(const Reloading<TlsMaterial>& tls);

}  // namespace keyload
