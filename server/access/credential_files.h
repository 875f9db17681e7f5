#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "server/access/reloading.h"
#include "server/access/tls_material.h"
#include "server/access/tokens.h"
#include "server/base/mutex.h"

namespace keyload {

// The certificate and the tokens of a daemon. A thread looks every second whether the files were replaced. Thread-safe.
class CredentialFiles {
 public:
  struct Options {
    TlsPaths tls;        // cert empty: no TLS
    std::string tokens;  // empty: no tokens
    std::chrono::milliseconds period = std::chrono::seconds(1);
  };
  // Blocks on the files. What ReadTls and Tokens::Parse say of files that are not valid at the start.
  static absl::StatusOr<std::unique_ptr<CredentialFiles>> Open(const Options& options);
  ~CredentialFiles();

  // Null where the daemon has none.
  const Reloading<TlsMaterial>* tls() const { return tls_.get(); }
  const Reloading<Tokens>* tokens() const { return tokens_.get(); }

 private:
  CredentialFiles() = default;
  void Watch(std::chrono::milliseconds period);

  std::unique_ptr<Reloading<TlsMaterial>> tls_;
  std::unique_ptr<Reloading<Tokens>> tokens_;
  Mutex mutex_;
  CondVar ended_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watch_;
};

}  // namespace keyload
