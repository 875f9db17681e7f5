// The client library in processes of their own, which is what it is for.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "keyload/attach.h"
#include "tests/unit/attach/attach_fixture.h"
#include "tests/unit/attach/child_process.h"

namespace keyload {
namespace {

using testing::ElementsAre;

constexpr uid_t kNobody = 65534;

class AttachProcesses : public AttachFixture {
 protected:
  // In a child.
  AttachedModel AttachOrEnd(const AttachOptions& options = {}) {
    absl::StatusOr<AttachedModel> model = Attach(address(), AttachSelection{.model = "m"}, options);
    ChildRequires(model.ok(), std::string(model.status().message()).c_str());
    return *std::move(model);
  }
  static void CheckAll(const AttachedModel& model) {
    for (size_t i = 0; i < model.size(); ++i) {
      const AttachedTensor tensor = model[i];
      for (size_t j = 0; j < tensor.bytes.size(); ++j) {
        ChildRequires(tensor.As<uint8_t>()[j] == FakeAttachModel::ByteAt(tensor.order, j), "another byte");
      }
    }
  }
  static void LimitTo64() {
    ChildRequires(close_range(STDERR_FILENO + 1, ~0u, 0) == 0, "close_range");  // what it has from the server's process
    const rlimit few = {.rlim_cur = 64, .rlim_max = 64};
    ChildRequires(setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit");
  }
  static size_t OpenDescriptors() {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
  }
};

TEST_F(AttachProcesses, OfAnotherUserAttach) {
  if (getuid() != 0) GTEST_SKIP() << "needs root, to be another user";
  Start();
  ChildProcess client([&] {
    ChildRequires(setgid(kNobody) == 0 && setuid(kNobody) == 0, "setuid");
    CheckAll(AttachOrEnd());
    return 0;
  });
  const pid_t pid = client.pid();
  EXPECT_EQ(client.Wait(), 0);
  EXPECT_EQ(source_->last_peer().process.uid, kNobody);
  EXPECT_EQ(source_->last_peer().process.pid, pid);
}

TEST_F(AttachProcesses, ThatMayOpen64DescriptorsGetAllOf700) {
  Start({.segments = 700, .tensors = 1400},
        {.descriptors = 1 << 16, .acknowledge = kPatient});  // so that 253 are sent, and most of them lost
  ChildProcess client([&] {
    LimitTo64();
    CheckAll(AttachOrEnd({.batch = 253}));
    return 0;
  });
  EXPECT_EQ(client.Wait(), 0);
}

TEST_F(AttachProcesses, WithoutADescriptorAreTold) {
  Start({.segments = 3});
  ChildProcess client([&] {
    std::vector<int> all;
    LimitTo64();
    for (int next = dup(0); next >= 0; next = dup(0)) all.push_back(next);
    close(all.back());  // the connection's
    const auto model = Attach(address(), AttachSelection{.model = "m"});
    ChildRequires(absl::IsResourceExhausted(model.status()), "another status");
    return 0;
  });
  EXPECT_EQ(client.Wait(), 0);
}

TEST_F(AttachProcesses, KeepTheLeaseUntilTheLastOfThemEnds) {
  Start();
  int go[2];
  ASSERT_EQ(pipe2(go, O_CLOEXEC), 0);
  const UniqueFd reading(go[0]);
  UniqueFd writing(go[1]);
  ChildProcess parent([&] {
    close(writing.Release());
    AttachedModel model = AttachOrEnd();
    if (fork() == 0) {  // outlives its parent
      char byte = 0;
      ChildRequires(read(reading.get(), &byte, 1) == 0, "read");
      CheckAll(model);
      model.Release();  // only closes its copy
      _exit(0);
    }
    return 0;
  });
  EXPECT_EQ(parent.Wait(), 0);
  source_->WaitForAttached(1);
  EXPECT_EQ(server_->Count().leases, 1u);
  writing = UniqueFd();
  EXPECT_THAT(source_->WaitForEnds(1), ElementsAre(AttachEnd::kClosed));
}

TEST_F(AttachProcesses, KilledAtAnyMomentLeaveNoLease) {
  Start({.segments = 100, .tensors = 200});
  const size_t descriptors = OpenDescriptors();
  std::minstd_rand random(17);
  constexpr int kClients = 200;
  constexpr size_t kAtOnce = 8;
  std::vector<ChildProcess> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&] {
      while (true) CheckAll(AttachOrEnd({.batch = 7}));
      return 0;
    });
    if (clients.size() < kAtOnce) continue;
    source_->WaitForAttached(source_->attached() + 1);  // they get on
    clients.erase(clients.begin() + static_cast<std::ptrdiff_t>(random() % clients.size()));
  }
  clients.clear();
  while (server_->Count().connections > 0) {
  }
  EXPECT_EQ(source_->open_leases(), 0u);
  EXPECT_EQ(server_->Count().leases, 0u);
  EXPECT_EQ(server_->Count().descriptors_in_flight, 0u);
  EXPECT_EQ(OpenDescriptors(), descriptors);
  for (uint32_t i = 0; i < 100; ++i) {
    model_->segment(i).Withdraw();
    ASSERT_FALSE(model_->segment(i).IsHeld()) << i;
  }
}

TEST_F(AttachProcesses, Of1000AttachesLeaveTheServerAsItWas) {
  Start({.segments = 20});
  size_t descriptors = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto model = Attach(address(), AttachSelection{.model = "m"});
    ASSERT_TRUE(model.ok()) << model.status();
    if (i == 0) descriptors = OpenDescriptors();
  }
  source_->WaitForEnds(1000);
  while (server_->Count().connections > 0) {
  }
  EXPECT_LE(OpenDescriptors(), descriptors);
}

}  // namespace
}  // namespace keyload
