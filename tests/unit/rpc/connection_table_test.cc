#include "server/rpc/connection_table.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <thread>
#include <vector>

#include "server/base/fd.h"

namespace keyload {
namespace {

using Admission = ConnectionTable::Admission;

UniqueFd Socket() { return UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

// As often as it takes the table to look again.
Admission AdmitInTheEnd(ConnectionTable& table, int fd, const std::string& peer,
                        const ConnectionTable::Limits& limits) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  Admission admission = table.Admit(fd, peer, limits);
  while (admission != Admission::kAdmitted && std::chrono::steady_clock::now() < end) {
    std::this_thread::yield();
    admission = table.Admit(fd, peer, limits);
  }
  return admission;
}

TEST(ConnectionTable, OneAboveTheLimitIsRefused) {
  ConnectionTable table;
  const UniqueFd first = Socket(), second = Socket(), third = Socket();
  const ConnectionTable::Limits limits = {.total = 2, .per_peer = 2};
  EXPECT_EQ(table.Admit(first.get(), "a", limits), Admission::kAdmitted);
  EXPECT_EQ(table.Admit(second.get(), "b", limits), Admission::kAdmitted);
  EXPECT_EQ(table.Admit(third.get(), "c", limits), Admission::kTooMany);
}

TEST(ConnectionTable, OnePeerAtItsLimitLeavesRoomForOthers) {
  ConnectionTable table;
  const UniqueFd first = Socket(), second = Socket(), third = Socket();
  const ConnectionTable::Limits limits = {.total = 3, .per_peer = 1};
  EXPECT_EQ(table.Admit(first.get(), "a", limits), Admission::kAdmitted);
  EXPECT_EQ(table.Admit(second.get(), "a", limits), Admission::kTooManyOfPeer);
  EXPECT_EQ(table.Admit(third.get(), "b", limits), Admission::kAdmitted);
}

TEST(ConnectionTable, AClosedConnectionMakesRoom) {
  ConnectionTable table;
  UniqueFd first = Socket();
  const UniqueFd second = Socket();
  const ConnectionTable::Limits limits = {.total = 1, .per_peer = 1};
  ASSERT_EQ(table.Admit(first.get(), "a", limits), Admission::kAdmitted);
  first = UniqueFd();
  EXPECT_EQ(AdmitInTheEnd(table, second.get(), "a", limits), Admission::kAdmitted);
  EXPECT_EQ(table.size(), 1u);
}

TEST(ConnectionTable, ANumberThatIsAnotherFileNowIsNoConnection) {
  ConnectionTable table;
  UniqueFd first = Socket();
  const UniqueFd second = Socket();
  const ConnectionTable::Limits limits = {.total = 1, .per_peer = 1};
  const int number = first.get();
  ASSERT_EQ(table.Admit(number, "a", limits), Admission::kAdmitted);
  const UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(dup2(file.get(), number), number);
  EXPECT_EQ(AdmitInTheEnd(table, second.get(), "b", limits), Admission::kAdmitted);
}

TEST(ConnectionTable, ANumberThatIsUsedAgainCountsOnce) {
  ConnectionTable table;
  const ConnectionTable::Limits limits = {.total = 2, .per_peer = 2};
  for (int i = 0; i < 10; ++i) {
    const UniqueFd connection = Socket();
    EXPECT_EQ(table.Admit(connection.get(), "a", limits), Admission::kAdmitted) << i;
  }
  EXPECT_EQ(table.size(), 1u);
}

}  // namespace
}  // namespace keyload
