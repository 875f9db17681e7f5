#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/role.h"

namespace keyload {

// Who calls, and what that may do.
struct Principal {
  std::string name;  // for the log
  Role role = Role::kNone;

  bool operator==(const Principal&) const = default;
};

// The bearer tokens of a daemon, of which it knows the SHA-256 only. A plain value.
class Tokens {
 public:
  // `text` has one token a line, NAME ROLE SHA256, separated by blanks: NAME is 1 to 64 of A-Z a-z 0-9 . _ -, ROLE
  // read, load or admin, SHA256 the 64 hexadecimal digits of the token's digest. Empty lines and those that begin with
  // # are passed over. A name may stand on several lines, so that a token can be replaced without a gap. BAD_REQUEST
  // names `path` and the line, never the digest: also for the digest of an empty token, and for a file without a token,
  // which is rather one that is being written than one that means nobody. 10,000 tokens at most.
  static absl::StatusOr<Tokens> Parse(const std::string& path, std::string_view text);

  // Takes the same time whether a token is known and which one it is.
  std::optional<Principal> Find(std::string_view token) const;
  size_t size() const { return tokens_.size(); }

 private:
  using Digest = std::array<unsigned char, 32>;
  struct Token {
    Principal principal;
    Digest digest;
  };
  std::vector<Token> tokens_;
};

}  // namespace keyload
