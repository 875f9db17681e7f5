#pragma once

#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "keyload/client.h"

namespace keyload::cli {

// Where the server is and how this command proves who it is, as given by flags or the environment.
struct ConnectionFlags {
  std::string server = "unix:/run/keyload/keyload.sock";
  std::string tls_ca;  // files, as the others; empty: not given
  std::string tls_cert;
  std::string tls_key;
  std::string token_file;
};

// `flags` outlives the parsing.
void AddConnectionFlags(CLI::App& app, ConnectionFlags& flags);

// Reads the files. UsageError names a flag whose file cannot be read or that lacks another one.
absl::StatusOr<ClientOptions> ReadConnection(const ConnectionFlags& flags);

}  // namespace keyload::cli
