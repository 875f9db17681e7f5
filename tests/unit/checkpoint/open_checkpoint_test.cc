#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "server/base/error.h"
#include "server/checkpoint/checkpoint_index.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

using Opened = absl::StatusOr<std::shared_ptr<const CheckpointIndex>>;

TestTensor Tensor(const std::string& name, uint64_t size = 4) {
  return {.name = name, .dtype = DType::kU8, .shape = {size}, .data = {}};
}

class OpenCheckpointTest : public ::testing::Test {
 protected:
  OpenCheckpointTest() : roots_(ModelRoots::Create({dir_.path()}).value()) {}

  Opened Open(const std::string& path, const std::string& weights = "", bool allow_no_weights = false) const {
    return OpenCheckpoint(roots_, {.path = path, .weights = weights, .allow_no_weights = allow_no_weights}, {});
  }
  // Opens the directory and expects it to fail.
  absl::Status Refusal(const std::string& weights = "") const {
    Opened opened = Open(dir_.path(), weights);
    EXPECT_FALSE(opened.ok());
    return opened.status();
  }
  std::string First(const std::string& weights = "") const {
    Opened opened = Open(dir_.path(), weights);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? std::string((*opened)->tensors().at(0).name) : "";
  }

  TempDir dir_;
  const ModelRoots roots_;
};

TEST_F(OpenCheckpointTest, ASingleFile) {
  WriteSafetensors(dir_.File("model.safetensors"), {Tensor("a", 3), Tensor("b", 5)});
  Opened index = Open(dir_.File("model.safetensors"));
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ((*index)->resolved(), dir_.File("model.safetensors"));
  EXPECT_EQ((*index)->shards()[0].file, "model.safetensors");
  EXPECT_EQ((*index)->Find("b"), 1);
  EXPECT_EQ((*index)->Find("c"), -1);
  const StoredTensor& b = (*index)->tensors()[1];
  std::string data(b.bytes, '\0');
  EXPECT_EQ(::pread((*index)->shards()[0].fd->get(), data.data(), b.bytes, b.offset), 5);
  EXPECT_EQ(data, PatternBytes("b", 5));
}

TEST_F(OpenCheckpointTest, AShardedCheckpoint) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a"), Tensor("b")}, {Tensor("c")}});
  Opened index = Open(dir_.path());
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ((*index)->index_file(), "model.safetensors.index.json");
  EXPECT_EQ((*index)->shards().size(), 2u);
  EXPECT_EQ((*index)->tensors()[(*index)->Find("c")].shard, 1u);
  EXPECT_TRUE((*index)->index_only_keys().empty());
  EXPECT_TRUE((*index)->unindexed_keys().empty());
}

TEST_F(OpenCheckpointTest, AnIndexFileAsThePath) {
  WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("c")}});
  EXPECT_TRUE(Open(dir_.File("model.safetensors.index.json")).ok());
}

TEST_F(OpenCheckpointTest, KeysThatOnlyTheIndexOrOnlyAShardHasAreTold) {
  WriteSafetensors(dir_.File("s.safetensors"), {Tensor("a"), Tensor("extra")});
  WriteIndex(dir_.File("model.safetensors.index.json"),
             {{"z", "s.safetensors"}, {"a", "s.safetensors"}, {"b", "s.safetensors"}});
  Opened index = Open(dir_.path());
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_THAT((*index)->index_only_keys(), ElementsAre("b", "z"));
  EXPECT_THAT((*index)->unindexed_keys(), ElementsAre("extra"));
}

TEST_F(OpenCheckpointTest, AKeyInAnotherShardThanTheIndexSaysIsCorrupt) {
  WriteSafetensors(dir_.File("s1.safetensors"), {Tensor("a")});
  WriteSafetensors(dir_.File("s2.safetensors"), {Tensor("b")});
  WriteIndex(dir_.File("model.safetensors.index.json"), {{"a", "s2.safetensors"}, {"b", "s1.safetensors"}});
  const absl::Status status = Refusal();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointCorrupt);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("\"a\" should be in shard s2.safetensors, but is in s1.safetensors"));
}

TEST_F(OpenCheckpointTest, AKeyTwiceInTheIndexIsCorrupt) {
  WriteSafetensors(dir_.File("s.safetensors"), {Tensor("a")});
  for (const char* key : {"a", "only-in-index"}) {
    WriteIndex(dir_.File("model.safetensors.index.json"), {{key, "s.safetensors"}, {key, "s.safetensors"}});
    const absl::Status status = Refusal();
    EXPECT_EQ(ErrorReason(status), Reason::kCheckpointCorrupt);
    EXPECT_EQ(ErrorDetails(status)["key"], key);
  }
}

TEST_F(OpenCheckpointTest, ANameInTwoShardsThatTheIndexDoesNotNameNamesBoth) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a"), Tensor("x")}, {Tensor("b"), Tensor("x")}});
  WriteIndex(dir_.File("model.safetensors.index.json"), {{"a", files[0]}, {"b", files[1]}});
  const absl::Status status = Refusal();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointCorrupt);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("\"x\" is in shard model-00001-of-00002.safetensors and again in shard model-00002-of-00002"));
}

TEST_F(OpenCheckpointTest, ANameTwiceInOneShardWithoutOverlap) {
  WriteSafetensors(dir_.File("model.safetensors"), {Tensor("x"), Tensor("y"), Tensor("x")});
  const absl::Status status = Refusal();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointCorrupt);
  EXPECT_EQ(ErrorDetails(status)["key"], "x");
}

TEST_F(OpenCheckpointTest, AMissingShardNamesIndexAndShard) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b")}});
  std::filesystem::remove(dir_.File(files[1]));
  const absl::Status status = Refusal();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointNotFound);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("model.safetensors.index.json: 1 of 2 shards is absent: " + files[1]));
  EXPECT_EQ(ErrorDetails(status)["shard"], files[1]);
}

TEST_F(OpenCheckpointTest, ATruncatedShardIsNamed) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b", 100)}});
  std::filesystem::resize_file(dir_.File(files[1]), std::filesystem::file_size(dir_.File(files[1])) - 10);
  const absl::Status status = Refusal();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointTruncated);
  EXPECT_THAT(std::string(status.message()), HasSubstr("lacks the last 10"));
  EXPECT_EQ(ErrorDetails(status)["shard"], files[1]);
  EXPECT_EQ(ErrorDetails(status)["key"], "b");
}

TEST_F(OpenCheckpointTest, TheHuggingFaceCacheLayout) {
  const std::string blobs = dir_.MakeDir("hub/blobs"), snapshot = dir_.MakeDir("hub/snapshots/rev");
  WriteSafetensors(blobs + "/h1", {Tensor("a")});
  WriteIndex(blobs + "/h2", {{"a", "s.safetensors"}});
  ASSERT_EQ(::symlink("../../blobs/h1", (snapshot + "/s.safetensors").c_str()), 0);
  ASSERT_EQ(::symlink("../../blobs/h2", (snapshot + "/model.safetensors.index.json").c_str()), 0);
  for (const char* path : {"", "/model.safetensors.index.json", "/s.safetensors"}) {
    Opened index = Open(snapshot + path);
    ASSERT_TRUE(index.ok()) << index.status();
    EXPECT_EQ((*index)->shards()[0].file, "s.safetensors");
    EXPECT_EQ((*index)->shards()[0].resolved, blobs + "/h1");
  }
}

TEST_F(OpenCheckpointTest, AShardThatLinksOutsideTheRootsIsNotAllowed) {
  TempDir outside;
  WriteSafetensors(outside.File("secret"), {Tensor("a")});
  ASSERT_EQ(::symlink(outside.File("secret").c_str(), dir_.File("s.safetensors").c_str()), 0);
  WriteIndex(dir_.File("model.safetensors.index.json"), {{"a", "s.safetensors"}});
  const absl::Status status = Refusal();
  EXPECT_EQ(ErrorReason(status), Reason::kPathNotAllowed);
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret")));
}

TEST_F(OpenCheckpointTest, StandardOrderPrefersTheSingleFileThenTheIndex) {
  WriteSafetensors(dir_.File("other.safetensors"), {Tensor("other")});
  EXPECT_EQ(First(), "other");
  WriteIndex(dir_.File("odd.safetensors.index.json"), {{"other", "other.safetensors"}});
  EXPECT_EQ((*Open(dir_.path()))->index_file(), "odd.safetensors.index.json");
  WriteIndex(dir_.File("model.safetensors.index.json"), {{"other", "other.safetensors"}});
  EXPECT_EQ((*Open(dir_.path()))->index_file(), "model.safetensors.index.json");
  WriteSafetensors(dir_.File("model.safetensors"), {Tensor("single")});
  EXPECT_EQ(First(), "single");
}

TEST_F(OpenCheckpointTest, SeveralSetsAreAmbiguousUntilOneIsNamed) {
  WriteSafetensors(dir_.File("a.safetensors"), {Tensor("a")});
  WriteSafetensors(dir_.File("b.safetensors"), {Tensor("b")});
  const absl::Status status = Refusal();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointAmbiguous);
  EXPECT_THAT(std::string(status.message()), HasSubstr("a.safetensors, b.safetensors"));
  EXPECT_EQ(First("b.safetensors"), "b");
}

TEST_F(OpenCheckpointTest, AVariantIsNoSetBesideThePlainOne) {
  WriteSafetensors(dir_.File("unet.safetensors"), {Tensor("plain")});
  WriteSafetensors(dir_.File("unet.fp16.safetensors"), {Tensor("half")});
  EXPECT_EQ(First(), "plain");
  EXPECT_EQ(First("fp16"), "half");
  WriteSafetensors(dir_.File("unet2.safetensors"), {Tensor("other")});
  EXPECT_EQ(ErrorReason(Refusal()), Reason::kCheckpointAmbiguous);
}

TEST_F(OpenCheckpointTest, FilesOfAShardedSetAreNoneWithoutTheirIndex) {
  WriteSafetensors(dir_.File("best-of-1.safetensors"), {{.name = "a", .shape = {1}}});
  EXPECT_TRUE(Open(dir_.path()).ok());
  std::filesystem::rename(dir_.File("best-of-1.safetensors"), dir_.File("model-00001-of-00001.safetensors"));
  EXPECT_TRUE(Open(dir_.path()).ok()) << "one of one is all of it";
  std::filesystem::rename(dir_.File("model-00001-of-00001.safetensors"), dir_.File("model-00001-of-00011.safetensors"));
  const absl::Status status = Open(dir_.path()).status();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("(model-00001-of-00011.safetensors) and no index file"));
  EXPECT_TRUE(Open(dir_.path(), "model-00001-of-00011.safetensors").ok());
}
TEST_F(OpenCheckpointTest, DirectoriesWithWeightsAreNamed) {
  for (const char* name : {"vae", "unet", "scheduler"}) std::filesystem::create_directory(dir_.File(name));
  EXPECT_EQ(ErrorReason(Refusal()), Reason::kCheckpointNotFound);
  for (const char* name : {"vae", "unet"}) {
    WriteSafetensors(dir_.File(std::string(name) + "/x.safetensors"), {Tensor("x")});
  }
  const absl::Status status = Refusal();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointAmbiguous);
  EXPECT_THAT(std::string(status.message()), HasSubstr("in its directories (unet, vae)"));
}

TEST_F(OpenCheckpointTest, VariantsInTheOrderOfTheirNames) {
  WriteSafetensors(dir_.File("model.safetensors"), {Tensor("full")});
  WriteSafetensors(dir_.File("s.safetensors"), {Tensor("shard")});
  WriteIndex(dir_.File("model.fp16.safetensors.index.json"), {{"shard", "s.safetensors"}});
  EXPECT_EQ((*Open(dir_.path(), "fp16"))->index_file(), "model.fp16.safetensors.index.json");
  WriteIndex(dir_.File("model.safetensors.index.fp16.json"), {{"shard", "s.safetensors"}});
  EXPECT_EQ((*Open(dir_.path(), "fp16"))->index_file(), "model.safetensors.index.fp16.json");
  WriteSafetensors(dir_.File("model.fp16.safetensors"), {Tensor("half")});
  EXPECT_EQ(First("fp16"), "half");
  EXPECT_EQ(ErrorReason(Refusal("fp8")), Reason::kCheckpointNotFound);
}

TEST_F(OpenCheckpointTest, WeightsIsAPlainName) {
  for (const char* weights : {"../x.safetensors", "a/b", ".."}) {
    EXPECT_EQ(ErrorReason(Refusal(weights)), Reason::kBadRequest) << weights;
  }
}

TEST_F(OpenCheckpointTest, WeightsOfAFileIsABadRequest) {
  WriteSafetensors(dir_.File("model.safetensors"), {Tensor("a")});
  EXPECT_EQ(ErrorReason(Open(dir_.File("model.safetensors"), "fp16").status()), Reason::kBadRequest);
}

TEST_F(OpenCheckpointTest, OnlyPickleWeightsIsAnotherFormat) {
  WriteFile(dir_.File("training_args.bin"), "x");
  EXPECT_EQ(ErrorReason(Refusal()), Reason::kCheckpointNotFound);
  WriteFile(dir_.File("pytorch_model.bin"), "x");
  const absl::Status status = Refusal();
  EXPECT_EQ(ErrorReason(status), Reason::kFormatNotSupported);
  EXPECT_THAT(std::string(status.message()), HasSubstr("pytorch_model.bin"));
  EXPECT_EQ(ErrorReason(Open(dir_.File("pytorch_model.bin")).status()), Reason::kFormatNotSupported);
}

TEST_F(OpenCheckpointTest, AnEmptyDirectoryIsNotFoundUnlessAllowed) {
  EXPECT_EQ(ErrorReason(Refusal()), Reason::kCheckpointNotFound);
  Opened index = Open(dir_.path(), "", true);
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_TRUE((*index)->tensors().empty());
  EXPECT_EQ((*index)->resolved(), dir_.path());
}

TEST_F(OpenCheckpointTest, CancellationIsSeen) {
  WriteSafetensors(dir_.File("model.safetensors"), {Tensor("a")});
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ErrorReason(OpenCheckpoint(roots_, {.path = dir_.path(), .weights = "", .allow_no_weights = false},
                                       {.stop = stop.get_token()})
                            .status()),
            Reason::kLoadCancelled);
}

TEST_F(OpenCheckpointTest, AShardIsUnchangedUntilItsFileIsTouched) {
  WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b")}});
  Opened index = Open(dir_.path());
  ASSERT_TRUE(index.ok()) << index.status();
  const Shard& shard = (*index)->shards()[1];
  EXPECT_TRUE(CheckUnchanged(shard, "while it was read").ok());
  std::filesystem::permissions(dir_.File(shard.file), std::filesystem::perms(0600));
  const absl::Status changed = CheckUnchanged(shard, "while it was read", {{"model", "m"}});
  EXPECT_EQ(ErrorReason(changed), Reason::kCheckpointChanged);
  EXPECT_EQ(changed.message(), shard.file + ": the file changed while it was read");
  EXPECT_EQ(ErrorDetails(changed), (ErrorMetadata{{"file", shard.file}, {"model", "m"}}));
  EXPECT_TRUE(CheckUnchanged((*index)->shards()[0], "while it was read").ok());
}

TEST_F(OpenCheckpointTest, SparseTerabytesReadOnlyHeaders) {
  WriteSparseCheckpoint(dir_.path(), 4, 500, uint64_t{1} << 30);
  Opened index = Open(dir_.path());
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ((*index)->tensors().size(), 2000u);
}

}  // namespace
}  // namespace keyload
