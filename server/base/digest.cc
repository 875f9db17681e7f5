#include "server/base/digest.h"

#include <openssl/evp.h>

#include <array>

#include "absl/strings/escaping.h"
#include "server/base/strings.h"

namespace keyload {

std::string Sha256Digest(std::string_view bytes) {
  std::array<unsigned char, 32> digest;
  unsigned int length = digest.size();
  EVP_Digest(bytes.data(), bytes.size(), digest.data(), &length, EVP_sha256(), nullptr);
  return StrCat("sha256:", absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), length}));
}

}  // namespace keyload
