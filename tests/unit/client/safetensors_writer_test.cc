#include "client/cli/safetensors_writer.h"

#include "client/cli/exit_code.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/unit/client/temporary_folder.h"

namespace keyload::cli {
namespace {

v1::ReadTensorsResponse Piece(const std::string& key, std::vector<uint64_t> shape, uint64_t bytes,
                              const std::string& data) {
  v1::ReadTensorsResponse piece;
  piece.mutable_tensor()->set_key(key);
  piece.mutable_tensor()->set_dtype("U8");
  piece.mutable_tensor()->mutable_shape()->Add(shape.begin(), shape.end());
  piece.mutable_tensor()->set_bytes(bytes);
  piece.set_data(data);
  return piece;
}

v1::ReadTensorsResponse More(uint64_t offset, const std::string& data) {
  v1::ReadTensorsResponse piece;
  piece.set_offset(offset);
  piece.set_data(data);
  return piece;
}

class SafetensorsWriterTest : public testing::Test {
 protected:
  TemporaryFolder folder_;
  std::unique_ptr<SafetensorsWriter> writer_ = *SafetensorsWriter::Create(folder_.Path("out"));
};

TEST_F(SafetensorsWriterTest, WritesHeaderAndDataInTheOrderOfArrival) {
  ASSERT_TRUE(writer_->Add(Piece("z", {5}, 5, "hel")).ok());
  ASSERT_TRUE(writer_->Add(More(3, "lo")).ok());
  ASSERT_TRUE(writer_->Add(Piece("empty", {0, 4}, 0, "")).ok());
  ASSERT_TRUE(writer_->Add(Piece("a", {}, 1, "!")).ok());
  ASSERT_TRUE(writer_->Finish().ok());

  std::string file = folder_.Read("out");
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(file[i]);
  ASSERT_LE(8 + length, file.size());
  EXPECT_EQ(length % 8, 0u);
  EXPECT_EQ(file.substr(8 + length), "hello!");
  auto header = nlohmann::ordered_json::parse(file.substr(8, length));
  EXPECT_EQ(header.dump(), R"({"z":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},)"
                           R"("empty":{"dtype":"U8","shape":[0,4],"data_offsets":[5,5]},)"
                           R"("a":{"dtype":"U8","shape":[],"data_offsets":[5,6]}})");
  EXPECT_EQ(folder_.Files(), 1u);
}

TEST_F(SafetensorsWriterTest, NamesNothingBeforeItHasFinished) {
  ASSERT_TRUE(writer_->Add(Piece("a", {1}, 1, "!")).ok());
  writer_.reset();
  EXPECT_EQ(folder_.Files(), 0u);
}

TEST_F(SafetensorsWriterTest, RefusesATensorThatEndsEarly) {
  ASSERT_TRUE(writer_->Add(Piece("a", {4}, 4, "abc")).ok());
  EXPECT_EQ(writer_->Finish().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(writer_->Add(Piece("b", {1}, 1, "x")).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(folder_.Files(), 0u);
}

TEST_F(SafetensorsWriterTest, RefusesMoreThanTheTensorHas) {
  EXPECT_EQ(writer_->Add(Piece("a", {2}, 2, "abc")).code(), absl::StatusCode::kDataLoss);
}

TEST_F(SafetensorsWriterTest, RefusesPiecesOutOfOrder) {
  ASSERT_TRUE(writer_->Add(Piece("a", {4}, 4, "ab")).ok());
  EXPECT_EQ(writer_->Add(More(3, "d")).code(), absl::StatusCode::kDataLoss);
}

TEST_F(SafetensorsWriterTest, RefusesDataWithoutATensorAndANameThatComesTwice) {
  EXPECT_EQ(writer_->Add(More(0, "x")).code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(writer_->Add(Piece("a", {1}, 1, "x")).ok());
  EXPECT_EQ(writer_->Add(Piece("a", {1}, 1, "x")).code(), absl::StatusCode::kDataLoss);
}

TEST(SafetensorsWriterCreate, AFolderThatIsNotThereIsBadUsage) {
  EXPECT_EQ(ExitCodeFor(SafetensorsWriter::Create("no-such-folder/out").status()), kExitUsage);
}

}  // namespace
}  // namespace keyload::cli
