#include "server/attach/sealed_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>

#include "attach/attach_socket.h"
#include "tests/unit/attach/child_process.h"

namespace keyload {
namespace {

constexpr size_t kBytes = 3 * 4096;
constexpr uid_t kNobody = 65534;
constexpr char kFill = 'w';
using Protection = SealedMemory::Protection;

UniqueFd FilledMemfd() {
  UniqueFd memfd(memfd_create("sealed-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const std::string bytes(kBytes, kFill);
  EXPECT_EQ(write(memfd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  return memfd;
}

std::string BytesOf(int descriptor) {
  std::string bytes(kBytes, '?');
  EXPECT_EQ(pread(descriptor, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  return bytes;
}

std::string ProcPath(int descriptor) { return "/proc/self/fd/" + std::to_string(descriptor); }

// What a process tries with a descriptor that it was given, as `user`; it ends with 0 where all of it was refused.
int TryToHarm(int given, uid_t user) {
  ChildRequires(user == 0 || (setgid(user) == 0 && setuid(user) == 0), "setuid");
  const auto refused = [](bool done, const char* what) { ChildRequires(!done, what); };
  const auto try_all = [&](int descriptor) {
    refused(pwrite(descriptor, "x", 1, 0) == 1, "write");
    refused(ftruncate(descriptor, 4096) == 0, "truncate");
    refused(ftruncate(descriptor, 2 * kBytes) == 0, "grow");
    refused(fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0, "punch");
    refused(fallocate(descriptor, FALLOC_FL_ZERO_RANGE, 0, 4096) == 0, "zero");
    refused(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0) != MAP_FAILED, "map for writing");
    refused(fcntl(descriptor, F_ADD_SEALS, F_SEAL_WRITE) == 0, "add seals");
    void* const map = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, descriptor, 0);
    ChildRequires(map != MAP_FAILED, "map for reading");
    refused(mprotect(map, 4096, PROT_READ | PROT_WRITE) == 0, "mprotect");
    refused(madvise(map, 4096, MADV_REMOVE) == 0, "madvise");
    munmap(map, 4096);
  };
  try_all(given);
  // Its owner and root may, nobody else.
  ChildRequires(fchmod(given, 0777) == (user == 0 ? 0 : -1), "fchmod");
  ChildRequires(fchown(given, kNobody, kNobody) == (user == 0 ? 0 : -1), "fchown");
  for (const int flags : {O_RDWR, O_WRONLY, O_RDWR | O_TRUNC}) {
    const UniqueFd again(open(ProcPath(given).c_str(), flags | O_CLOEXEC));
    if (again && (flags & O_ACCMODE) == O_RDWR) try_all(again.get());
    if (again) refused(pwrite(again.get(), "x", 1, 0) == 1, "write through /proc");
  }
  fchmod(given, 0);
  fcntl(given, F_SETLEASE, F_RDLCK);
  return 0;
}

class NoClientCanHarm : public testing::TestWithParam<std::tuple<Protection, uid_t>> {
 protected:
  void SetUp() override {
    if (getuid() != 0) GTEST_SKIP() << "needs root, to be another user";
  }
};

TEST_P(NoClientCanHarm, WhatItGot) {
  const auto [protection, user] = GetParam();
  absl::StatusOr<SealedMemory> memory = SealedMemory::Seal(FilledMemfd(), protection);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const std::shared_ptr<const UniqueFd> shared = memory->shared();
  ChildProcess harmful([&, user = user] { return TryToHarm(shared->get(), user); });
  EXPECT_EQ(harmful.Wait(), 0);
  EXPECT_EQ(BytesOf(shared->get()), std::string(kBytes, kFill));
  // And the next client still gets it.
  ChildProcess next([&] {
    ChildRequires(setgid(kNobody) == 0 && setuid(kNobody) == 0, "setuid");
    void* const map = mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, shared->get(), 0);
    ChildRequires(map != MAP_FAILED, "map");
    return std::memcmp(map, std::string(kBytes, kFill).data(), kBytes) == 0 ? 0 : 2;
  });
  EXPECT_EQ(next.Wait(), 0);
}

INSTANTIATE_TEST_SUITE_P(Users, NoClientCanHarm,
                         testing::Combine(testing::Values(Protection::kFinal, Protection::kFromOutside),
                                          testing::Values(uid_t{0}, kNobody)));

TEST(SealedMemory, SaysByItsSealsWhatItPromises) {
  const auto seals = [](Protection protection) {
    return fcntl(SealedMemory::Seal(FilledMemfd(), protection)->shared()->get(), F_GET_SEALS);
  };
  constexpr int kAlways = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW;
  EXPECT_EQ(seals(Protection::kFinal), kAlways | F_SEAL_WRITE);
  EXPECT_EQ(seals(Protection::kFromOutside), kAlways | F_SEAL_FUTURE_WRITE);
}

TEST(SealedMemory, IsNotFinalWhileItIsMappedForWriting) {
  UniqueFd memfd = FilledMemfd();
  void* const map = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0);
  ASSERT_NE(map, MAP_FAILED);
  const absl::StatusOr<SealedMemory> memory = SealedMemory::Seal(std::move(memfd), Protection::kFinal);
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(memory.status().message().find("mapped for writing"), absl::string_view::npos) << memory.status();
  munmap(map, kBytes);
}

TEST(SealedMemory, ProtectedFromOutsideCanBeFilledThroughAnOldMap) {
  UniqueFd memfd = FilledMemfd();
  char* const map = static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0));
  ASSERT_NE(map, MAP_FAILED);
  const absl::StatusOr<SealedMemory> memory = SealedMemory::Seal(std::move(memfd), Protection::kFromOutside);
  ASSERT_TRUE(memory.ok()) << memory.status();
  map[4096] = '!';
  EXPECT_EQ(BytesOf(memory->shared()->get())[4096], '!');
  munmap(map, kBytes);
}

TEST(SealedMemory, WithoutSealingIsRefused) {
  UniqueFd memfd(memfd_create("unsealable", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(memfd.get(), kBytes), 0);
  EXPECT_EQ(SealedMemory::Seal(std::move(memfd), Protection::kFinal).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// The probe, asked with a holder and once it is gone.
class Holders : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<SealedMemory> memory = SealedMemory::Seal(FilledMemfd(), Protection::kFinal);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_.emplace(*std::move(memory));
  }
  std::optional<SealedMemory> memory_;
};

TEST_F(Holders, AreNoneAtFirst) {
  EXPECT_TRUE(memory_->IsHeld());  // it may still be handed out
  memory_->Withdraw();
  EXPECT_FALSE(memory_->IsHeld());
}

TEST_F(Holders, AreDescriptorsInOtherProcesses) {
  int go[2];
  ASSERT_EQ(pipe2(go, O_CLOEXEC), 0);
  const UniqueFd reading(go[0]);
  UniqueFd writing(go[1]);
  ChildProcess holder([&] {
    close(writing.Release());
    char byte = 0;
    return read(reading.get(), &byte, 1) == 0 ? 0 : 1;
  });
  memory_->Withdraw();
  EXPECT_TRUE(memory_->IsHeld());
  writing = UniqueFd();
  EXPECT_EQ(holder.Wait(), 0);
  EXPECT_FALSE(memory_->IsHeld());
}

TEST_F(Holders, AreMaps) {
  void* const map = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, memory_->shared()->get(), 0);
  ASSERT_NE(map, MAP_FAILED);
  memory_->Withdraw();
  EXPECT_TRUE(memory_->IsHeld());
  munmap(map, 4096);
  EXPECT_FALSE(memory_->IsHeld());
}

TEST_F(Holders, AreDescriptorsOnTheirWay) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd first(ends[0]);
  UniqueFd second(ends[1]);
  const int descriptor = memory_->shared()->get();
  ASSERT_EQ(SendAttachPacket(first.get(), "x", std::span(&descriptor, 1)), 0);
  memory_->Withdraw();
  EXPECT_TRUE(memory_->IsHeld());
  second = UniqueFd();
  EXPECT_FALSE(memory_->IsHeld());
}

TEST_F(Holders, ThatTookTheFileOverCountAsHolders) {
  if (getuid() != 0) GTEST_SKIP() << "needs root, to be another user";
  // A daemon without CAP_LEASE, whose file a root client has given to somebody else.
  ASSERT_EQ(fchown(memory_->shared()->get(), 12345, 12345), 0);
  memory_->Withdraw();
  ChildProcess daemon([&] {
    ChildRequires(setgid(kNobody) == 0 && setuid(kNobody) == 0, "setuid");
    return memory_->IsHeld() ? 0 : 1;
  });
  EXPECT_EQ(daemon.Wait(), 0);
}

// What a client has put into a pipe, and closed its descriptors and maps.
class HoldersByAPipe : public Holders {
 protected:
  void SetUp() override {
    Holders::SetUp();
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    reading_ = UniqueFd(ends[0]);
    writing_ = UniqueFd(ends[1]);
  }
  void ExpectUnseenAndIntact() {
    memory_->Withdraw();
    EXPECT_FALSE(memory_->IsHeld());  // so it says nothing about whether memory may be used again
    memory_.reset();
    std::string bytes(4096, '?');
    EXPECT_EQ(read(reading_.get(), bytes.data(), bytes.size()), 4096);
    EXPECT_EQ(bytes, std::string(4096, kFill));
  }
  UniqueFd reading_;
  UniqueFd writing_;
};

TEST_F(HoldersByAPipe, OfSplicedPagesAreNotSeen) {
  loff_t offset = 0;
  ASSERT_EQ(splice(memory_->shared()->get(), &offset, writing_.get(), nullptr, 4096, 0), 4096);
  ExpectUnseenAndIntact();
}

TEST_F(HoldersByAPipe, OfMappedPagesAreNotSeen) {
  void* const map = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, memory_->shared()->get(), 0);
  ASSERT_NE(map, MAP_FAILED);
  const iovec page = {.iov_base = map, .iov_len = 4096};
  ASSERT_EQ(vmsplice(writing_.get(), &page, 1, 0), 4096);
  munmap(map, 4096);
  ExpectUnseenAndIntact();
}

}  // namespace
}  // namespace keyload
