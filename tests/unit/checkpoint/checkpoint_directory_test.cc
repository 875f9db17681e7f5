#include "server/checkpoint/checkpoint_directory.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/header_cache.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int kShards = 6;

TestTensor Tensor(const std::string& name, uint64_t size = 4) {
  return {.name = name, .dtype = DType::kU8, .shape = {size}, .data = {}};
}

// A checkpoint whose tensors are as long as its version's number.
void WriteVersion(const std::string& directory, uint64_t version) {
  std::vector<std::vector<TestTensor>> shards;
  for (int i = 0; i < kShards; ++i) shards.push_back({Tensor("t" + std::to_string(i), version)});
  WriteShardedCheckpoint(directory, shards);
}

// The versions that the tensors of `index` are of.
std::set<uint64_t> VersionsIn(const CheckpointIndex& index) {
  std::set<uint64_t> versions;
  for (const StoredTensor& tensor : index.tensors()) versions.insert(tensor.bytes);
  return versions;
}

class CheckpointDirectoryTest : public ::testing::Test {
 protected:
  CheckpointDirectoryTest() : roots_(ModelRoots::Create({dir_.path()}).value()) {}

  using Opened = absl::StatusOr<std::shared_ptr<const CheckpointIndex>>;
  Opened Open(const std::string& path) { return OpenCheckpoint(roots_, {.path = path}, {}, {.cache = &cache_}); }

  // Opens `path` while `change` runs again and again on another thread. Every answer is of one version, or says that
  // the checkpoint changed.
  void OpenWhile(const std::string& path, const std::function<void()>& change) {
    std::atomic<bool> stop = false;
    std::jthread changer([&] {
      while (!stop) change();
    });
    int complete = 0;
    for (int i = 0; i < 300; ++i) {
      const Opened index = Open(path);
      if (index.ok()) {
        ++complete;
        EXPECT_EQ(VersionsIn(**index).size(), 1u);
      } else {
        EXPECT_EQ(ErrorReason(index.status()), Reason::kCheckpointChanged) << index.status();
      }
    }
    stop = true;
    complete_ = complete;
  }

  TempDir dir_;
  const ModelRoots roots_;
  HeaderCache cache_{{.now = [] { return absl::Now() + absl::Hours(1); }}};
  int complete_ = 0;
};

void Exchange(const std::string& a, const std::string& b) {
  ASSERT_EQ(::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE), 0);
}

TEST_F(CheckpointDirectoryTest, OpenReadsTheHeldDirectoryAfterItsPathLeadsElsewhere) {
  const std::string a = dir_.MakeDir("a"), b = dir_.MakeDir("b");
  WriteFile(a + "/f", "old");
  WriteFile(b + "/f", "newer");
  const CheckpointDirectory directory(roots_.Open(a).value());
  Exchange(a, b);
  const absl::StatusOr<OpenedPath> file = directory.Open(roots_, "f");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(fs::file_size("/proc/self/fd/" + std::to_string(file->fd.get())), 3u);
  EXPECT_EQ(file->resolved, b + "/f");
}

TEST_F(CheckpointDirectoryTest, OpenOfALinkThatLeavesTheRootsIsNotAllowed) {
  const std::string root = dir_.MakeDir("root"), outside = dir_.MakeDir("outside");
  WriteFile(outside + "/secret", "x");
  fs::create_symlink("../outside/secret", root + "/link");
  fs::create_symlink("../outside/nothing", root + "/dangling");
  fs::create_symlink("nothing", root + "/gone");
  const ModelRoots roots = ModelRoots::Create({root}).value();
  const CheckpointDirectory directory(roots.Open(root).value());
  EXPECT_EQ(ErrorReason(directory.Open(roots, "link").status()), Reason::kPathNotAllowed);
  EXPECT_EQ(ErrorReason(directory.Open(roots, "dangling").status()), Reason::kPathNotAllowed);
  EXPECT_EQ(ErrorReason(directory.Open(roots, "gone").status()), Reason::kCheckpointNotFound);
  EXPECT_EQ(ErrorReason(directory.Open(roots, "absent").status()), Reason::kCheckpointNotFound);
}

TEST_F(CheckpointDirectoryTest, OpenInADirectoryThatLeftTheRootsIsNotAllowed) {
  const std::string root = dir_.MakeDir("root/model"), outside = dir_.File("outside");
  WriteFile(root + "/f", "x");
  const ModelRoots roots = ModelRoots::Create({dir_.File("root")}).value();
  const CheckpointDirectory directory(roots.Open(root).value());
  fs::rename(root, outside);
  EXPECT_EQ(ErrorReason(directory.Open(roots, "f").status()), Reason::kPathNotAllowed);
}

TEST_F(CheckpointDirectoryTest, CheckEntrySeesReplacedRemovedAndWrittenFiles) {
  WriteFile(dir_.File("f"), "x");
  const CheckpointDirectory directory(roots_.Open(dir_.path()).value());
  const OpenedPath file = directory.Open(roots_, "f").value();
  const FileIdentity identity = IdentifyFile(file.fd.get(), "f").value();
  EXPECT_TRUE(directory.CheckEntry("f", identity).ok());
  WriteFile(dir_.File("g"), "x");
  fs::rename(dir_.File("g"), dir_.File("f"));
  const absl::Status replaced = directory.CheckEntry("f", identity);
  EXPECT_EQ(ErrorReason(replaced), Reason::kCheckpointChanged);
  EXPECT_THAT(std::string(replaced.message()), HasSubstr(dir_.File("f") + ": the file was replaced"));
  fs::remove(dir_.File("f"));
  EXPECT_THAT(std::string(directory.CheckEntry("f", identity).message()), HasSubstr("removed"));
}

TEST_F(CheckpointDirectoryTest, CheckEntriesSeesALinkThatLeadsToAnotherFile) {
  WriteVersion(dir_.MakeDir("blobs"), 4);
  WriteVersion(dir_.MakeDir("snapshot"), 5);
  const std::string shard = "model-00002-of-00006.safetensors";
  fs::remove(dir_.File("snapshot") + "/" + shard);
  fs::create_symlink("../blobs/" + shard, dir_.File("snapshot") + "/" + shard);
  const Opened index = Open(dir_.File("snapshot"));
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_TRUE((*index)->CheckEntries().ok());
  fs::remove(dir_.File("snapshot") + "/" + shard);
  fs::create_symlink("../blobs/model-00001-of-00006.safetensors", dir_.File("snapshot") + "/" + shard);
  const absl::Status changed = (*index)->CheckEntries();
  EXPECT_EQ(ErrorReason(changed), Reason::kCheckpointChanged);
  EXPECT_EQ(ErrorDetails(changed)["file"], shard);
}

TEST_F(CheckpointDirectoryTest, DirectoriesThatAreExchangedAreOldOrNew) {
  const std::string a = dir_.MakeDir("a"), b = dir_.MakeDir("b");
  WriteVersion(a, 4);
  WriteVersion(b, 7);
  OpenWhile(a, [&] { Exchange(a, b); });
  EXPECT_EQ(complete_, 300);
}

TEST_F(CheckpointDirectoryTest, ALinkThatIsMovedLeadsToOldOrNew) {
  WriteVersion(dir_.MakeDir("a"), 4);
  WriteVersion(dir_.MakeDir("b"), 7);
  fs::create_symlink("a", dir_.File("current"));
  int turn = 0;
  OpenWhile(dir_.File("current"), [&] {
    fs::remove(dir_.File("next"));
    fs::create_symlink(++turn % 2 == 0 ? "a" : "b", dir_.File("next"));
    fs::rename(dir_.File("next"), dir_.File("current"));
  });
  EXPECT_EQ(complete_, 300);
}

// Which shards are of the new version after `exchanges` of them, one after the other and round and round.
uint32_t NewShardsAfter(uint64_t exchanges) {
  uint32_t shards = 0;
  for (uint64_t i = 0; i < kShards; ++i) {
    if ((exchanges / kShards + (i < exchanges % kShards)) % 2 == 1) shards |= 1U << i;
  }
  return shards;
}

// A thread that is held up between two exchanges leaves a directory of both versions behind, which nothing can tell
// from a checkpoint. But what is opened must have been in the directory at one time.
TEST_F(CheckpointDirectoryTest, FilesThatAreReplacedOneByOneAreThoseOfOneMomentOrChanged) {
  const std::string a = dir_.MakeDir("a"), b = dir_.MakeDir("b");
  WriteVersion(a, 4);
  WriteVersion(b, 7);
  std::atomic<uint64_t> begun = 0, done = 0;
  std::atomic<bool> stop = false;
  std::jthread changer([&] {
    while (!stop) {
      const std::string name = "model-0000" + std::to_string(begun++ % kShards + 1) + "-of-00006.safetensors";
      Exchange(a + "/" + name, b + "/" + name);
      ++done;
    }
  });
  for (int i = 0; i < 300; ++i) {
    const uint64_t before = done;
    const Opened index = Open(a);
    const uint64_t after = begun;
    if (!index.ok()) {
      EXPECT_EQ(ErrorReason(index.status()), Reason::kCheckpointChanged) << index.status();
      continue;
    }
    uint32_t opened = 0;
    for (const StoredTensor& tensor : (*index)->tensors()) opened |= tensor.bytes == 7 ? 1U << tensor.shard : 0;
    bool was_there = false;
    for (uint64_t exchanges = before; exchanges <= after; ++exchanges) was_there |= NewShardsAfter(exchanges) == opened;
    EXPECT_TRUE(was_there) << opened << " between " << before << " and " << after;
  }
  stop = true;
}

TEST_F(CheckpointDirectoryTest, AFileUnderTwoNamesIsCorrupt) {
  WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b")}});
  fs::remove(dir_.File("model-00002-of-00002.safetensors"));
  fs::create_hard_link(dir_.File("model-00001-of-00002.safetensors"), dir_.File("model-00002-of-00002.safetensors"));
  const absl::Status status = Open(dir_.path()).status();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointCorrupt);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("model-00002-of-00002.safetensors is the same file as shard model-00001-of-00002.safetensors"));
}

}  // namespace
}  // namespace keyload
