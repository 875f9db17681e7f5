#include "server/access/access_control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/digest.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

class AccessControlTest : public testing::Test {
 protected:
  AccessControlTest() {
    const std::string text = StrCat("dash read ", Sha256Digest("r").substr(7));
    tokens_ = *Reloading<Tokens>::Open({"unused"}, [text] { return Tokens::Parse("f", text); });
  }
  Reason Refusal(const AccessControl& access, const CallCredentials& credentials) {
    const absl::StatusOr<Principal> principal = access.Identify(credentials);
    EXPECT_FALSE(principal.ok()) << principal->name;
    return ErrorReason(principal.status());
  }

  std::unique_ptr<Reloading<Tokens>> tokens_;
};

TEST_F(AccessControlTest, WithoutTokensWhoeverGetsThereIsAnAdmin) {
  const AccessControl access(nullptr, Role::kLoad);
  EXPECT_EQ(*access.Identify({}), (Principal{.name = "", .role = Role::kAdmin}));
  EXPECT_EQ(*access.Identify({.certificate = "orchestrator"}),
            (Principal{.name = "certificate:orchestrator", .role = Role::kAdmin}));
  EXPECT_EQ(*access.Identify({.on_unix_socket = true}), (Principal{.name = "socket", .role = Role::kLoad}));
  EXPECT_EQ(access.Identify({.authorization = {"Bearer nobody asked"}})->role, Role::kAdmin);
}

TEST_F(AccessControlTest, WithTokensTcpTakesOne) {
  const AccessControl access(tokens_.get(), Role::kAdmin);
  EXPECT_EQ(Refusal(access, {}), Reason::kTokenMissing);
  EXPECT_EQ(Refusal(access, {.certificate = "orchestrator"}), Reason::kTokenMissing);
  EXPECT_EQ(*access.Identify({.authorization = {"Bearer r"}}), (Principal{.name = "token:dash", .role = Role::kRead}));
  EXPECT_TRUE(access.Identify({.authorization = {"bearer r"}}).ok());
}

TEST_F(AccessControlTest, AWrongTokenIsRefusedAlsoOnASocketThatTakesNone) {
  const AccessControl access(tokens_.get(), Role::kAdmin);
  EXPECT_EQ(access.Identify({.on_unix_socket = true})->role, Role::kAdmin);
  EXPECT_EQ(access.Identify({.on_unix_socket = true, .authorization = {"Bearer r"}})->role, Role::kRead);
  for (const bool on_unix_socket : {true, false}) {
    for (const std::string_view value : {"Bearer x", "Bearer ", "Bearer", "", "Basic r", "r", "Bearer  r"}) {
      EXPECT_EQ(Refusal(access, {.on_unix_socket = on_unix_socket, .authorization = {value}}), Reason::kTokenInvalid)
          << value;
    }
    EXPECT_EQ(Refusal(access, {.on_unix_socket = on_unix_socket, .authorization = {"Bearer r", "Bearer r"}}),
              Reason::kTokenInvalid);
  }
}

TEST_F(AccessControlTest, AnEmptyTokenIsNone) {
  const AccessControl access(tokens_.get(), Role::kAdmin);
  const absl::Status refused = access.Identify({.authorization = {"Bearer "}}).status();
  EXPECT_EQ(ErrorReason(refused), Reason::kTokenInvalid);
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("must be one \"Bearer TOKEN\""));
}

TEST_F(AccessControlTest, ASocketMayGiveNoRole) {
  EXPECT_EQ(Refusal(AccessControl(nullptr, Role::kNone), {.on_unix_socket = true}), Reason::kTokenMissing);
  EXPECT_EQ(
      AccessControl(tokens_.get(), Role::kNone).Identify({.on_unix_socket = true, .authorization = {"Bearer r"}})->name,
      "token:dash");
}

TEST(CheckRole, EachRoleMayWhatThoseBeforeItMay) {
  const Role roles[] = {Role::kRead, Role::kLoad, Role::kAdmin};
  for (const Role has : roles) {
    for (const Role needed : roles) {
      EXPECT_EQ(CheckRole({.name = "n", .role = has}, needed, "M").ok(), has >= needed);
    }
  }
  const absl::Status refused = CheckRole({.name = "token:dash", .role = Role::kRead}, Role::kLoad, "LoadModel");
  EXPECT_EQ(ErrorReason(refused), Reason::kRoleInsufficient);
  EXPECT_EQ(refused.message(), "LoadModel takes the role load, token:dash has read");
  EXPECT_EQ(ErrorDetails(refused).at("needed"), "load");
}

}  // namespace
}  // namespace keyload
