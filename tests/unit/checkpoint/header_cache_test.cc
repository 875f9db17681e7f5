#include "server/checkpoint/header_cache.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "server/base/error.h"
#include "server/checkpoint/checkpoint_index.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

using ::testing::ElementsAre;

TestTensor Tensor(const std::string& name, uint64_t size = 4) {
  return {.name = name, .dtype = DType::kU8, .shape = {size}, .data = {}};
}

std::vector<std::string> Names(const CheckpointIndex& index) {
  std::vector<std::string> names;
  for (const StoredTensor& tensor : index.tensors()) names.emplace_back(tensor.name);
  return names;
}

// Sets the modification time of `path` to that of `like`.
void CopyModificationTime(const struct stat& like, const std::string& path) {
  const timespec times[2] = {like.st_atim, like.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

class HeaderCacheTest : public ::testing::Test {
 protected:
  using Opened = std::shared_ptr<const CheckpointIndex>;

  HeaderCacheTest() : roots_(ModelRoots::Create({dir_.path()}).value()) {}

  absl::StatusOr<Opened> TryOpen(const std::string& path) {
    return OpenCheckpoint(roots_, {.path = path, .weights = ""}, {}, {.cache = &cache_});
  }
  Opened Open(const std::string& path) {
    absl::StatusOr<Opened> opened = TryOpen(path);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *opened : nullptr;
  }
  Opened Open() { return Open(dir_.path()); }

  TempDir dir_;
  const ModelRoots roots_;
  // An hour ahead of the files, which by then are left alone for long.
  HeaderCache cache_{{.now = [] { return absl::Now() + absl::Hours(1); }}};
};

TEST_F(HeaderCacheTest, ASecondOpenSharesTheHeadersAndOpensTheFilesAnew) {
  WriteShardedCheckpoint(dir_.path(), {{Tensor("a"), Tensor("b")}, {Tensor("c")}});
  const Opened first = Open();
  const Opened second = Open();
  EXPECT_EQ(&first->headers(), &second->headers());
  EXPECT_EQ(second->index_file(), "model.safetensors.index.json");
  ASSERT_EQ(second->shards().size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(second->shards()[i].file, first->shards()[i].file);
    EXPECT_EQ(second->shards()[i].resolved, first->shards()[i].resolved);
    EXPECT_EQ(second->shards()[i].data_offset, first->shards()[i].data_offset);
    EXPECT_EQ(second->shards()[i].identity, first->shards()[i].identity);
    EXPECT_NE(second->shards()[i].fd->get(), first->shards()[i].fd->get());
  }
}

TEST_F(HeaderCacheTest, ASingleFileIsSharedToo) {
  WriteSafetensors(dir_.File("model.safetensors"), {Tensor("a")});
  const Opened first = Open();
  EXPECT_EQ(&first->headers(), &Open(dir_.File("model.safetensors"))->headers());
}

TEST_F(HeaderCacheTest, AFileRewrittenWithItsOldSizeAndModificationTimeIsReadAgain) {
  const std::string path = dir_.File("model.safetensors");
  WriteSafetensors(path, {Tensor("a")});
  Open();
  struct stat before;
  ASSERT_EQ(::stat(path.c_str(), &before), 0);
  WriteSafetensors(path, {Tensor("b")});
  struct stat after;
  do {  // until the file system's clock has gone on
    CopyModificationTime(before, path);
    ASSERT_EQ(::stat(path.c_str(), &after), 0);
  } while (after.st_ctim.tv_sec == before.st_ctim.tv_sec && after.st_ctim.tv_nsec == before.st_ctim.tv_nsec);
  ASSERT_EQ(before.st_size, after.st_size);
  ASSERT_EQ(before.st_ino, after.st_ino);
  EXPECT_THAT(Names(*Open()), ElementsAre("b"));
}

TEST_F(HeaderCacheTest, AFileWithAnotherModificationTimeIsReadAgain) {
  const std::string path = dir_.File("model.safetensors");
  WriteSafetensors(path, {Tensor("a")});
  const Opened first = Open();
  std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) - std::chrono::hours(5));
  EXPECT_NE(&first->headers(), &Open()->headers());
}

TEST_F(HeaderCacheTest, AFileThatTakesAnothersPlaceIsRead) {
  const std::string path = dir_.File("model.safetensors");
  WriteSafetensors(path, {Tensor("a")});
  Open();
  struct stat before;
  ASSERT_EQ(::stat(path.c_str(), &before), 0);
  WriteSafetensors(dir_.File("new"), {Tensor("b")});
  CopyModificationTime(before, dir_.File("new"));
  std::filesystem::rename(dir_.File("new"), path);
  EXPECT_THAT(Names(*Open()), ElementsAre("b"));
}

TEST_F(HeaderCacheTest, OnlyTheShardThatChangedIsReadAgain) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b"), Tensor("x")}, {Tensor("c")}});
  const Opened first = Open();
  WriteSafetensors(dir_.File(files[1]), {Tensor("b", 3), Tensor("y"), Tensor("x")});
  const Opened second = Open();
  EXPECT_THAT(Names(*second), ElementsAre("a", "b", "y", "x", "c"));
  EXPECT_THAT(second->unindexed_keys(), ElementsAre("y"));
  EXPECT_EQ(second->tensors()[4].shard, 2u);
  EXPECT_EQ(second->Find("c"), 4);
  const auto& before = first->headers().shards();
  const auto& after = second->headers().shards();
  EXPECT_EQ(before[0].names, after[0].names) << "read again";
  EXPECT_EQ(before[2].names, after[2].names) << "read again";
  EXPECT_EQ(&second->headers(), &Open()->headers());
}

TEST_F(HeaderCacheTest, AnotherIndexFileIsComparedWithTheKnownShards) {
  WriteSafetensors(dir_.File("s.safetensors"), {Tensor("a"), Tensor("b")});
  WriteIndex(dir_.File("model.safetensors.index.json"), {{"a", "s.safetensors"}, {"b", "s.safetensors"}});
  const Opened first = Open();
  WriteIndex(dir_.File("model.safetensors.index.json"), {{"a", "s.safetensors"}, {"gone", "s.safetensors"}});
  const Opened second = Open();
  EXPECT_THAT(second->index_only_keys(), ElementsAre("gone"));
  EXPECT_THAT(second->unindexed_keys(), ElementsAre("b"));
  EXPECT_EQ(first->headers().shards()[0].names, second->headers().shards()[0].names) << "read again";
}

TEST_F(HeaderCacheTest, AShardOpenedAloneUsesWhatIsKnownOfIt) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b"), Tensor("c")}});
  const Opened whole = Open();
  const Opened alone = Open(dir_.File(files[1]));
  EXPECT_THAT(Names(*alone), ElementsAre("b", "c"));
  EXPECT_EQ(alone->tensors()[1].shard, 0u);
  EXPECT_EQ(alone->headers().shards()[0].names, whole->headers().shards()[1].names);
}

TEST_F(HeaderCacheTest, AShardUnderTheNameOfAnIndexFileIsStillRefused) {
  WriteSafetensors(dir_.File("model.safetensors"), {Tensor("a")});
  Open();
  std::filesystem::create_hard_link(dir_.File("model.safetensors"), dir_.File("other.safetensors.index.json"));
  Open();  // the link changed the file's times
  EXPECT_EQ(ErrorReason(TryOpen(dir_.File("other.safetensors.index.json")).status()), Reason::kCheckpointCorrupt);
}

TEST_F(HeaderCacheTest, PathsAreCheckedAtEachOpen) {
  TempDir outside;
  for (const std::string& dir : {dir_.MakeDir("in"), outside.path()}) {
    WriteSafetensors(dir + "/model.safetensors", {Tensor("a")});
  }
  const std::string link = dir_.File("model.safetensors");
  std::filesystem::create_symlink(dir_.File("in/model.safetensors"), link);
  Open(link);
  std::filesystem::remove(link);
  std::filesystem::create_symlink(outside.File("model.safetensors"), link);
  EXPECT_EQ(ErrorReason(TryOpen(link).status()), Reason::kPathNotAllowed);
  std::filesystem::remove(link);
  EXPECT_EQ(ErrorReason(TryOpen(link).status()), Reason::kCheckpointNotFound);
}

TEST_F(HeaderCacheTest, AMissingShardOfAKnownCheckpointIsTold) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b")}});
  Open();
  std::filesystem::remove(dir_.File(files[1]));
  const absl::Status status = TryOpen(dir_.path()).status();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointNotFound);
  EXPECT_EQ(ErrorDetails(status)["shard"], files[1]);
}

TEST_F(HeaderCacheTest, FilesThatChangedAMomentAgoAreNotKept) {
  WriteSafetensors(dir_.File("model.safetensors"), {Tensor("a")});
  HeaderCache cache{HeaderCache::Options()};
  const auto open = [&] { return *OpenCheckpoint(roots_, {.path = dir_.path()}, {}, {.cache = &cache}); };
  const Opened first = open();
  EXPECT_NE(&first->headers(), &open()->headers());
  EXPECT_EQ(cache.bytes(), 0u);
}

TEST_F(HeaderCacheTest, TheHeadersUsedLongestAgoGoFirst) {
  std::vector<std::string> files;
  for (const std::string name : {"a", "b", "c"}) {
    files.push_back(dir_.File(name + ".safetensors"));
    WriteSafetensors(files.back(), {Tensor(name)});
  }
  Open(files[0]);
  const uint64_t one = cache_.bytes();
  HeaderCache cache{{.max_bytes = 2 * one + one / 2, .now = [] { return absl::Now() + absl::Hours(1); }}};
  const auto open = [&](int file) {
    Opened opened = *OpenCheckpoint(roots_, {.path = files[file]}, {}, {.cache = &cache});
    return std::shared_ptr<const CheckpointHeaders>(opened, &opened->headers());
  };
  const auto a = open(0);
  const auto b = open(1);
  EXPECT_EQ(open(0), a);
  const auto c = open(2);
  EXPECT_LE(cache.bytes(), 2 * one + one / 2);
  EXPECT_EQ(open(0), a);
  EXPECT_EQ(open(2), c);
  EXPECT_NE(open(1), b);
}

TEST_F(HeaderCacheTest, HeadersLargerThanTheWholeCacheAreNotKept) {
  WriteSafetensors(dir_.File("model.safetensors"), {Tensor("a")});
  HeaderCache cache{{.max_bytes = 10, .now = [] { return absl::Now() + absl::Hours(1); }}};
  EXPECT_TRUE(OpenCheckpoint(roots_, {.path = dir_.path()}, {}, {.cache = &cache}).ok());
  EXPECT_EQ(cache.bytes(), 0u);
}

TEST_F(HeaderCacheTest, EmptyDirectoriesAreNotKept) {
  const CheckpointSource source = {.path = dir_.path(), .weights = "", .allow_no_weights = true};
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE((*OpenCheckpoint(roots_, source, {}, {.cache = &cache_}))->tensors().empty());
  }
  EXPECT_EQ(cache_.bytes(), 0u);
}

}  // namespace
}  // namespace keyload
