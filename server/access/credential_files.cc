#include "server/access/credential_files.h"

#include "server/access/credential_file.h"
#include "server/base/error.h"

namespace keyload {

absl::StatusOr<std::unique_ptr<CredentialFiles>> CredentialFiles::Open(const Options& options) {
  std::unique_ptr<CredentialFiles> files(new CredentialFiles());
  if (const TlsPaths& paths = options.tls; !paths.cert.empty()) {
    std::vector<std::string> names = {paths.cert, paths.key};
    if (!paths.client_ca.empty()) names.push_back(paths.client_ca);
    KEYLOAD_ASSIGN_OR_RETURN(
        files->tls_, Reloading<TlsMaterial>::Open(std::move(names), [paths = paths] { return ReadTls(paths); }));
  }
  if (!options.tokens.empty()) {
    KEYLOAD_ASSIGN_OR_RETURN(
        files->tokens_, Reloading<Tokens>::Open({options.tokens}, [path = options.tokens]() -> absl::StatusOr<Tokens> {
          KEYLOAD_ASSIGN_OR_RETURN(const std::string text, ReadCredentialFile(path));
          return Tokens::Parse(path, text);
        }));
  }
  if (files->tls_ != nullptr || files->tokens_ != nullptr) {
    files->watch_ = std::thread([f = files.get(), period = options.period] { f->Watch(period); });
  }
  return files;
}

CredentialFiles::~CredentialFiles() {
  {
    MutexLock lock(mutex_);
    ending_ = true;
    ended_.NotifyAll();
  }
  if (watch_.joinable()) watch_.join();
}

void CredentialFiles::Watch(std::chrono::milliseconds period) {
  while (true) {
    {
      MutexLock lock(mutex_);
      if (!ending_) ended_.WaitFor(mutex_, period);
      if (ending_) return;
    }
    if (tls_ != nullptr) tls_->Refresh();
    if (tokens_ != nullptr) tokens_->Refresh();
  }
}

}  // namespace keyload
