#include "attach/attach_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "attach/attach_format.h"

namespace keyload {
namespace {

class AttachSocket : public testing::Test {
 protected:
  AttachSocket() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    first_ = UniqueFd(ends[0]);
    second_ = UniqueFd(ends[1]);
  }
  int Send(size_t descriptors) {
    return SendAttachPacket(first_.get(), "packet", std::vector<int>(descriptors, STDERR_FILENO));
  }
  int Receive(size_t most) { return ReceiveAttachPacket(second_.get(), most, packet_); }

  UniqueFd first_;
  UniqueFd second_;
  AttachPacket packet_;
};

TEST_F(AttachSocket, NeverWaits) {
  EXPECT_EQ(Receive(1), EAGAIN);
  int sent = 0;
  while ((sent = Send(0)) == 0) {
  }
  EXPECT_EQ(sent, EAGAIN);
}

TEST_F(AttachSocket, CarriesAsManyDescriptorsAsTheKernelAllows) {
  EXPECT_EQ(Send(kMostAttachBatch), 0);
  EXPECT_EQ(Send(kMostAttachBatch + 1), EINVAL);
  ASSERT_EQ(Receive(kMostAttachBatch), 0);
  EXPECT_EQ(packet_.bytes, "packet");
  ASSERT_EQ(packet_.descriptors.size(), kMostAttachBatch);
  EXPECT_FALSE(packet_.lost_descriptors);
  for (const UniqueFd& descriptor : packet_.descriptors) EXPECT_EQ(fcntl(descriptor.get(), F_GETFD), FD_CLOEXEC);
}

TEST_F(AttachSocket, SaysThatDescriptorsWereLost) {
  for (const size_t most : {0u, 1u, 2u, 4u}) {
    ASSERT_EQ(Send(5), 0);
    ASSERT_EQ(Receive(most), 0);
    EXPECT_EQ(packet_.descriptors.size(), most);
    EXPECT_TRUE(packet_.lost_descriptors);
  }
}

TEST_F(AttachSocket, SaysThatAPacketWasTooLong) {
  ASSERT_EQ(SendAttachPacket(first_.get(), std::string(kAttachPacketBytes, 'x'), {}), 0);
  ASSERT_EQ(SendAttachPacket(first_.get(), std::string(kAttachPacketBytes + 1, 'x'), {}), 0);
  ASSERT_EQ(Receive(0), 0);
  EXPECT_FALSE(packet_.too_long);
  ASSERT_EQ(Receive(0), 0);
  EXPECT_TRUE(packet_.too_long);
}

TEST_F(AttachSocket, HandsOutWhatCameBeforeTheEnd) {
  ASSERT_EQ(SendAttachPacket(second_.get(), "unread", {}), 0);  // makes the end a reset
  ASSERT_EQ(Send(1), 0);
  first_ = UniqueFd();
  ASSERT_EQ(Receive(1), 0);
  EXPECT_EQ(packet_.bytes, "packet");
  EXPECT_EQ(packet_.descriptors.size(), 1u);
  ASSERT_EQ(Receive(1), 0);
  EXPECT_TRUE(packet_.bytes.empty());
  EXPECT_EQ(SendAttachPacket(second_.get(), "x", {}), EPIPE);
}

TEST(ConnectAttachSocket, SaysWhyItCannot) {
  const auto code = [](const std::string& path) { return ConnectAttachSocket(path, absl::Seconds(1)).status().code(); };
  EXPECT_EQ(code(""), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(std::string(108, 'x')), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("/nowhere/attach.sock"), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace keyload
