#include "client/cli/connection_options.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/cli/exit_code.h"
#include "client/cli/input_file.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

absl::StatusOr<std::string> ReadIfGiven(const std::string& path) {
  if (path.empty()) return std::string();
  return ReadInputFile(path);
}

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  KEYLOAD_ASSIGN_OR_RETURN(std::string text, ReadIfGiven(path));
  std::string token(absl::StripAsciiWhitespace(text));
  if (token.empty() && !path.empty()) return UsageError(absl::StrCat("--token-file: ", path, " is empty"));
  return token;
}

}  // namespace

void AddConnectionFlags(CLI::App& app, ConnectionFlags& flags) {
  app.add_option("--server", flags.server, "The server")
      ->type_name("unix:PATH|HOST:PORT")
      ->envname("KEYLOAD_SERVER")
      ->capture_default_str();
  const auto add_file = [&app](const char* flag, const char* variable, std::string& path, const char* help) {
    app.add_option(flag, path, help)->type_name("FILE")->envname(variable);
  };
  add_file("--tls-ca", "KEYLOAD_TLS_CA", flags.tls_ca, "Reach HOST:PORT over TLS, trusting these authorities (PEM)");
  add_file("--tls-cert", "KEYLOAD_TLS_CERT", flags.tls_cert, "The certificate of this client (PEM)");
  add_file("--tls-key", "KEYLOAD_TLS_KEY", flags.tls_key, "Its private key (PEM)");
  add_file("--token-file", "KEYLOAD_TOKEN_FILE", flags.token_file, "The token of this client");
}

absl::StatusOr<ClientOptions> ReadConnection(const ConnectionFlags& flags) {
  if (flags.tls_cert.empty() != flags.tls_key.empty()) {
    return UsageError("--tls-cert and --tls-key go together");
  }
  if (flags.tls_ca.empty() && !flags.tls_cert.empty()) {
    return UsageError("--tls-ca is missing: a certificate is shown over TLS only");
  }
  ClientOptions options = {.address = flags.server, .tls = std::nullopt, .token = ""};
  KEYLOAD_ASSIGN_OR_RETURN(options.token, ReadToken(flags.token_file));
  if (flags.tls_ca.empty()) return options;
  TlsOptions& tls = options.tls.emplace();
  KEYLOAD_ASSIGN_OR_RETURN(tls.ca, ReadIfGiven(flags.tls_ca));
  KEYLOAD_ASSIGN_OR_RETURN(tls.cert, ReadIfGiven(flags.tls_cert));
  KEYLOAD_ASSIGN_OR_RETURN(tls.key, ReadIfGiven(flags.tls_key));
  return options;
}

}  // namespace keyload::cli
