#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace keyload {

struct TlsPaths {
  std::string cert;       // PEM, the server's own certificate first, then those that lead to its authority
  std::string key;        // PEM, without a passphrase
  std::string client_ca;  // PEM; empty: clients need no certificate
};

// What a TLS server needs, read from files and known to fit together. A plain value.
struct TlsMaterial {
  std::string cert_chain;
  std::string private_key;
  std::string client_ca;  // empty: clients need no certificate
  absl::Time not_after;   // when the server's own certificate ends
};

// Blocks on the files. BAD_REQUEST names the file that does not parse, has no certificate or no usable key, or that
// OpenSSL would not serve (a key that is too short), and says when the key is not the certificate's. A certificate that
// has ended or has not begun is read all the same: clients refuse it.
absl::StatusOr<TlsMaterial> ReadTls(const TlsPaths& paths);

}  // namespace keyload
