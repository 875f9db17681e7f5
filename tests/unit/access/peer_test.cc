#include "server/access/peer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/fd.h"

namespace keyload {
namespace {

TEST(ReadPeer, IsThisProcessAtTheOtherEndOfAPair) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd first(ends[0]);
  const UniqueFd second(ends[1]);
  const absl::StatusOr<PeerProcess> peer = ReadPeer(first.get());
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(peer->uid, geteuid());
  std::vector<gid_t> groups(static_cast<size_t>(getgroups(0, nullptr)));
  groups.resize(static_cast<size_t>(getgroups(static_cast<int>(groups.size()), groups.data())));
  groups.insert(groups.begin(), getegid());
  EXPECT_THAT(peer->gids, testing::ElementsAreArray(groups));
}

TEST(ReadPeer, SaysThatSomethingIsNoSocket) { EXPECT_FALSE(ReadPeer(STDIN_FILENO).ok() && ReadPeer(-1).ok()); }

TEST(PeerRules, LetInByUserOrByAnyGroup) {
  const PeerProcess peer = {.pid = 1, .uid = 1000, .gids = {1000, 27, 10001}};
  EXPECT_TRUE(PeerRules{}.Allows(peer));
  EXPECT_TRUE((PeerRules{.uids = {0, 1000}, .gids = {}}).Allows(peer));
  EXPECT_TRUE((PeerRules{.uids = {0}, .gids = {10001}}).Allows(peer));
  EXPECT_FALSE((PeerRules{.uids = {0}, .gids = {0}}).Allows(peer));
  EXPECT_FALSE((PeerRules{.uids = {27}, .gids = {}}).Allows(peer));
  EXPECT_FALSE((PeerRules{.uids = {}, .gids = {1001}}).Allows(peer));
}

}  // namespace
}  // namespace keyload
