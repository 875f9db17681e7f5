#include "server/access/tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/digest.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::Optional;

std::string HashOf(std::string_view token) { return Sha256Digest(token).substr(sizeof("sha256:") - 1); }

std::string Refusal(std::string_view text) {
  const absl::Status status = Tokens::Parse("/etc/tokens", text).status();
  EXPECT_EQ(ErrorReason(status), Reason::kBadRequest) << text;
  return std::string(status.message());
}

TEST(Tokens, FindsWhoATokenBelongsTo) {
  const auto tokens = Tokens::Parse("f", StrCat("# who may\n\nci\tload  ", HashOf("one"), "\r\ndash read ",
                                                HashOf("two"), "\nci admin ", HashOf("three")));
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(tokens->size(), 3);
  EXPECT_THAT(tokens->Find("one"), Optional(Principal{.name = "ci", .role = Role::kLoad}));
  EXPECT_THAT(tokens->Find("two"), Optional(Principal{.name = "dash", .role = Role::kRead}));
  EXPECT_THAT(tokens->Find("three"), Optional(Principal{.name = "ci", .role = Role::kAdmin}));
}

TEST(Tokens, FindsNobodyForAnotherToken) {
  const auto tokens = Tokens::Parse("f", StrCat("ci load ", HashOf("one")));
  for (const std::string& token : {std::string("two"), std::string(), std::string("one "), HashOf("one")}) {
    EXPECT_FALSE(tokens->Find(token).has_value()) << token;
  }
}

TEST(Tokens, DigestsMayBeUpperCase) {
  std::string upper = HashOf("one");
  for (char& c : upper) c = static_cast<char>(std::toupper(c));
  EXPECT_TRUE(Tokens::Parse("f", StrCat("ci load ", upper))->Find("one").has_value());
}

TEST(Tokens, RefusesAWrongLineByItsNumberAndKeepsTheDigestToItself) {
  const std::string digest = HashOf("one");
  EXPECT_THAT(Refusal(StrCat("\nci ", digest)), HasSubstr("/etc/tokens:2: expected NAME ROLE SHA256"));
  EXPECT_THAT(Refusal(StrCat("ci root ", digest)), HasSubstr("the role must be read, load or admin"));
  EXPECT_THAT(Refusal(StrCat("c/i load ", digest)), HasSubstr("the name must be"));
  EXPECT_THAT(Refusal(StrCat(std::string(65, 'n'), " load ", digest)), HasSubstr("the name must be"));
  EXPECT_THAT(Refusal(StrCat("ci load ", digest.substr(1))),
              AllOf(HasSubstr("64 hexadecimal digits"), Not(HasSubstr(digest.substr(1)))));
  EXPECT_THAT(Refusal(StrCat("ci load g", digest.substr(1))), HasSubstr("64 hexadecimal digits"));
  EXPECT_THAT(Refusal(StrCat("ci load ", digest, " more")), HasSubstr("expected NAME ROLE SHA256"));
}

TEST(Tokens, RefusesTheDigestOfNothing) {
  EXPECT_THAT(Refusal(StrCat("ci load ", HashOf("one"), "\nci load ", HashOf(""))),
              HasSubstr("/etc/tokens:2: the digest is that of an empty token"));
}

TEST(Tokens, RefusesAFileWithoutAToken) {
  for (const char* const text : {"", "\n", "# nobody\n\n"})
    EXPECT_THAT(Refusal(text), HasSubstr("has no token")) << text;
}

TEST(Tokens, BoundsTheirNumber) {
  std::string text;
  for (int i = 0; i < 10'000; ++i) StrAppend(&text, "n load ", HashOf("x"), "\n");
  EXPECT_TRUE(Tokens::Parse("f", text).ok());
  EXPECT_THAT(Refusal(StrCat(text, "n load ", HashOf("x"))), HasSubstr("more than 10000 tokens"));
}

}  // namespace
}  // namespace keyload
