#include "server/access/tokens.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_split.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr size_t kMaxTokens = 10'000;
constexpr size_t kMaxName = 64;

absl::Status BadLine(const std::string& path, size_t line, std::string_view why) {
  return MakeError(Reason::kBadRequest, StrCat(path, ":", line, ": ", why), {{"file", path}, {"line", StrCat(line)}});
}

bool IsName(std::string_view text) {
  return !text.empty() && text.size() <= kMaxName && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '.' || c == '_' ||
           c == '-';
  });
}

std::optional<Role> FindRole(std::string_view text) {
  if (text == "read") return Role::kRead;
  if (text == "load") return Role::kLoad;
  if (text == "admin") return Role::kAdmin;
  return std::nullopt;
}

template <typename Digest>
bool ParseDigest(std::string_view text, Digest& digest) {
  if (text.size() != 2 * digest.size() || text.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
    return false;
  }
  const std::string bytes = absl::HexStringToBytes(ToAbsl(text));
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return true;
}

using TokenDigest = std::array<unsigned char, 32>;

TokenDigest DigestOf(std::string_view token) {
  TokenDigest digest;
  unsigned int length = digest.size();
  EVP_Digest(token.data(), token.size(), digest.data(), &length, EVP_sha256(), nullptr);
  return digest;
}

}  // namespace

absl::StatusOr<Tokens> Tokens::Parse(const std::string& path, std::string_view text) {
  Tokens tokens;
  size_t number = 0;
  for (const absl::string_view line : absl::StrSplit(ToAbsl(text), '\n')) {
    ++number;
    const std::vector<std::string> fields = absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (fields.empty() || fields[0].starts_with('#')) continue;
    if (fields.size() != 3) return BadLine(path, number, "expected NAME ROLE SHA256");
    if (!IsName(fields[0])) {
      return BadLine(path, number, "the name must be 1 to 64 letters, digits, dots, underscores and hyphens");
    }
    const std::optional<Role> role = FindRole(fields[1]);
    if (!role) return BadLine(path, number, "the role must be read, load or admin");
    Token token = {.principal = {.name = fields[0], .role = *role}, .digest = {}};
    if (!ParseDigest(fields[2], token.digest)) {
      return BadLine(path, number, "the digest must be 64 hexadecimal digits, the SHA-256 of the token");
    }
    if (token.digest == DigestOf("")) return BadLine(path, number, "the digest is that of an empty token");
    if (tokens.tokens_.size() == kMaxTokens) return BadLine(path, number, StrCat("more than ", kMaxTokens, " tokens"));
    tokens.tokens_.push_back(std::move(token));
  }
  if (tokens.tokens_.empty()) return MakeError(Reason::kBadRequest, StrCat(path, ": has no token"), {{"file", path}});
  return tokens;
}

std::optional<Principal> Tokens::Find(std::string_view token) const {
  const Digest digest = DigestOf(token);
  const Token* found = nullptr;
  for (const Token& known : tokens_) {
    if (CRYPTO_memcmp(known.digest.data(), digest.data(), digest.size()) == 0) found = &known;
  }
  if (found == nullptr) return std::nullopt;
  return found->principal;
}

}  // namespace keyload
