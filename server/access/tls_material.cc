#include "server/access/tls_material.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>
#include <string_view>

#include "server/access/credential_file.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

template <auto kFree>
struct FreeWith {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, FreeWith<BIO_free>>;
using Certificate = std::unique_ptr<X509, FreeWith<X509_free>>;
using Context = std::unique_ptr<SSL_CTX, FreeWith<SSL_CTX_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, FreeWith<EVP_PKEY_free>>;

absl::Status BadFile(const std::string& path, std::string_view why) {
  return MakeError(Reason::kBadRequest, StrCat(path, ": ", why), {{"file", path}});
}

// The reason of this thread's oldest error, and forgets them.
std::string TakeError() {
  const char* const reason = ERR_reason_error_string(ERR_peek_error());
  ERR_clear_error();
  return reason == nullptr ? "OpenSSL says no reason" : reason;
}

Bio Memory(const std::string& pem) { return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()))); }

int NoPassphrase(char*, int, int, void*) { return 0; }

// The first certificate of `pem`, of which every one must parse.
absl::StatusOr<Certificate> ReadCertificates(const std::string& path, const std::string& pem) {
  const Bio bio = Memory(pem);
  Certificate first;
  while (true) {
    Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr));
    if (certificate == nullptr) break;
    if (first == nullptr) first = std::move(certificate);
  }
  const unsigned long error = ERR_peek_last_error();
  ERR_clear_error();
  if (first == nullptr) return BadFile(path, "holds no certificate in PEM form");
  const bool at_end = ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
  if (!at_end) return BadFile(path, "a certificate after the first does not parse");
  return first;
}

// Puts both where a server of OpenSSL has them: what its security level refuses, a short key for one, is found here and
// not at the first handshake.
absl::Status CheckUsable(const TlsPaths& paths, X509& certificate, EVP_PKEY& key) {
  const Context context(SSL_CTX_new(TLS_server_method()));
  if (context == nullptr) return MakeError(Reason::kInternal, "OpenSSL has no room for a context");
  ERR_clear_error();
  if (SSL_CTX_use_certificate(context.get(), &certificate) != 1) {
    return BadFile(paths.cert, StrCat("cannot be served: ", TakeError()));
  }
  if (SSL_CTX_use_PrivateKey(context.get(), &key) != 1 || SSL_CTX_check_private_key(context.get()) != 1) {
    ERR_clear_error();
    return BadFile(paths.key, StrCat("is not the key of the certificate in ", paths.cert));
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::Time> NotAfter(const std::string& path, const X509& certificate) {
  std::tm time = {};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(&certificate), &time) != 1)
    return BadFile(path, "says no valid end of its time");
  return absl::FromTM(time, absl::UTCTimeZone());
}

}  // namespace

absl::StatusOr<TlsMaterial> ReadTls(const TlsPaths& paths) {
  TlsMaterial tls;
  KEYLOAD_ASSIGN_OR_RETURN(tls.cert_chain, ReadCredentialFile(paths.cert));
  KEYLOAD_ASSIGN_OR_RETURN(tls.private_key, ReadCredentialFile(paths.key));
  KEYLOAD_ASSIGN_OR_RETURN(const Certificate certificate, ReadCertificates(paths.cert, tls.cert_chain));
  KEYLOAD_ASSIGN_OR_RETURN(tls.not_after, NotAfter(paths.cert, *certificate));
  const PrivateKey key(PEM_read_bio_PrivateKey(Memory(tls.private_key).get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  if (key == nullptr) return BadFile(paths.key, "holds no private key in PEM form, or one with a passphrase");
  KEYLOAD_RETURN_IF_ERROR(CheckUsable(paths, *certificate, *key));
  if (paths.client_ca.empty()) return tls;
  KEYLOAD_ASSIGN_OR_RETURN(tls.client_ca, ReadCredentialFile(paths.client_ca));
  KEYLOAD_RETURN_IF_ERROR(ReadCertificates(paths.client_ca, tls.client_ca).status());
  return tls;
}

}  // namespace keyload
