#include "server/checkpoint/header_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <simdjson.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <new>
#include <string>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/header_cache.h"
#include "server/checkpoint/json_reader.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

TEST(HeaderCharge, AddBeyondHalfOfTheMemoryIsRefusedForOneCheckpoint) {
  HeaderMemory memory(100);
  HeaderCharge charge(&memory);
  EXPECT_TRUE(charge.Add(50, "f").ok());
  const absl::Status refused = charge.Add(1, "f");
  EXPECT_EQ(ErrorReason(refused), Reason::kMemoryExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--header-memory"));
  EXPECT_EQ(ErrorDetails(refused)["limit_bytes"], "50");
  EXPECT_EQ(ErrorDetails(refused)["requested_bytes"], "1");
  EXPECT_EQ(memory.used(), 50u);
}

TEST(HeaderCharge, AddBeyondTheMemoryIsRefusedForAllTogether) {
  HeaderMemory memory(100);
  HeaderCharge first(&memory), second(&memory), third(&memory);
  EXPECT_TRUE(first.Add(40, "f").ok());
  EXPECT_TRUE(second.Add(40, "f").ok());
  EXPECT_EQ(ErrorReason(third.Add(40, "f")), Reason::kMemoryExhausted);
  EXPECT_TRUE(third.Add(20, "f").ok());
}

TEST(HeaderCharge, AddOfAnyNumberDoesNotOverflow) {
  HeaderMemory memory(std::numeric_limits<uint64_t>::max());
  HeaderCharge charge(&memory);
  EXPECT_TRUE(charge.Add(uint64_t{1} << 62, "f").ok());
  EXPECT_EQ(ErrorReason(charge.Add(uint64_t{1} << 62, "f")), Reason::kMemoryExhausted);
}

TEST(HeaderCharge, DestructionGivesEverythingBack) {
  HeaderMemory memory(1000);
  {
    HeaderCharge charge(&memory);
    TemporaryCharge temporary(&charge);
    EXPECT_TRUE(charge.Add(100, "f").ok());
    EXPECT_TRUE(temporary.Add(200, "f").ok());
    EXPECT_EQ(memory.used(), 300u);
  }
  EXPECT_EQ(memory.used(), 0u);
}

TEST(HeaderCharge, SettleCountsWhatIsKept) {
  HeaderMemory memory(1000);
  HeaderCharge charge(&memory);
  EXPECT_TRUE(charge.Add(400, "f").ok());
  charge.Settle(70);
  EXPECT_EQ(memory.used(), 70u);
}

TEST(CatchingNoHeap, BadAllocBecomesMemoryExhausted) {
  const absl::Status status = CatchingNoHeap("f", []() -> absl::Status { throw std::bad_alloc(); });
  EXPECT_EQ(ErrorReason(status), Reason::kMemoryExhausted);
  EXPECT_EQ(ErrorDetails(status)["file"], "f");
}

TEST(MostJsonTokens, IsNoLessThanWhatTheParserNotes) {
  EXPECT_GE(MostJsonTokens("[1,1,1]"), 7u);
  EXPECT_GE(MostJsonTokens(R"({"a":{"b":[true, null]}})"), 13u);
  EXPECT_GE(MostJsonTokens(R"(""""""")"), 3u);
  EXPECT_GE(MostJsonTokens(R"("a"b"a"b)"), 4u);
  EXPECT_GE(MostJsonTokens("1 1 1 1"), 4u);
  EXPECT_LT(MostJsonTokens("   " + std::string(1000, 'x')), 10u);
}

// What the first pass of simdjson notes of `json`, which is padded; no string in it may have control characters.
uint32_t NotedByTheParser(const JsonBuffer& json) {
  std::unique_ptr<simdjson::internal::dom_parser_implementation> parser;
  const simdjson::error_code made =
      simdjson::get_active_implementation()->create_dom_parser_implementation(json.capacity(), 64, parser);
  EXPECT_EQ(made, simdjson::SUCCESS);
  // Most of these documents are refused, after they were noted.
  [[maybe_unused]] const simdjson::error_code refused =
      parser->stage1(reinterpret_cast<const uint8_t*>(json.data()), json.size(), simdjson::stage1_mode::regular);
  return parser->n_structural_indexes;
}

TEST(MostJsonTokens, IsNoLessThanWhatTheParserNotesOfAnyByte) {
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    std::string json(1000, c);
    for (int i = 0; i < 500; ++i) json += {c, c, '1'};
    EXPECT_GE(MostJsonTokens(json), NotedByTheParser(JsonBuffer(json))) << byte;
  }
  EXPECT_GE(MostJsonTokens(std::string(1000, '\x0c')), 1000u);
  EXPECT_GE(MostJsonTokens(std::string(1000, '\x1a')), 1000u);
}

class HeaderMemoryTest : public ::testing::Test {
 protected:
  HeaderMemoryTest() : roots_(ModelRoots::Create({dir_.path()}).value()) {}

  absl::StatusOr<std::shared_ptr<const CheckpointIndex>> Open(const std::string& path, HeaderMemory& memory,
                                                              HeaderCache* cache = nullptr) {
    return OpenCheckpoint(roots_, {.path = path}, {}, {.cache = cache, .memory = &memory});
  }

  const TempDir dir_;
  const ModelRoots roots_;
};

TEST_F(HeaderMemoryTest, AnOpenCheckpointIsCountedAsLongAsItsHeadersAreHeld) {
  WriteSparseCheckpoint(dir_.path(), 5, 100, 8);
  HeaderMemory memory(64 * kMiB);
  auto index = Open(dir_.path(), memory);
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(memory.used(), (*index)->headers().bytes());
  index = absl::CancelledError();
  EXPECT_EQ(memory.used(), 0u);
}

TEST_F(HeaderMemoryTest, AFailedOpenGivesEverythingBack) {
  WriteSparseCheckpoint(dir_.path(), 5, 100, 8);
  std::filesystem::remove(dir_.File("model-00005-of-00005.safetensors"));
  HeaderMemory memory(64 * kMiB);
  EXPECT_EQ(ErrorReason(Open(dir_.path(), memory).status()), Reason::kCheckpointNotFound);
  EXPECT_EQ(memory.used(), 0u);
}

TEST_F(HeaderMemoryTest, AHeaderThatTakesTooMuchIsRefusedBeforeItIsRead) {
  WriteRaw(dir_.File("model.safetensors"), "{}" + std::string(8 * kMiB, ' '), "");
  HeaderMemory memory(12 * kMiB);
  const absl::Status status = Open(dir_.path(), memory).status();
  EXPECT_EQ(ErrorReason(status), Reason::kMemoryExhausted) << status;
  EXPECT_EQ(ErrorDetails(status)["file"], dir_.File("model.safetensors"));
  EXPECT_EQ(memory.used(), 0u);
}

TEST_F(HeaderMemoryTest, AHeaderOfTokensAloneIsCountedWithWhatTheParserNotes) {
  std::string json = "[1";
  while (json.size() < 2 * kMiB) json += ",1";
  WriteRaw(dir_.File("model.safetensors"), json, "");
  HeaderMemory enough(40 * kMiB), little(16 * kMiB);  // half of it for one: 20 MiB and 8 MiB, where it takes 12
  EXPECT_EQ(ErrorReason(Open(dir_.path(), enough).status()), Reason::kCheckpointCorrupt);
  EXPECT_EQ(ErrorReason(Open(dir_.path(), little).status()), Reason::kMemoryExhausted);
}

TEST_F(HeaderMemoryTest, StringsWithEscapesThatThereIsNoRoomForAreNoCorruptFile) {
  const std::string padding(256 << 10, ' ');
  const std::string dtype = dir_.MakeDir("dtype"), metadata = dir_.MakeDir("metadata"), index = dir_.MakeDir("index");
  WriteRaw(dtype + "/model.safetensors",
           R"({"a":{"dtype":"\u0046\u0033\u0032","shape":[],"data_offsets":[0,4]}})" + padding, "1234");
  WriteRaw(metadata + "/model.safetensors", R"({"__metadata__":{"a":"\u0046"}})" + padding, "");
  std::ofstream(index + "/model.safetensors.index.json") << R"({"weight_map":{"a":"\u0078.safetensors"}})" << padding;
  WriteSafetensors(index + "/x.safetensors", {{.name = "a", .shape = {}}});
  for (const std::string& directory : {dtype, metadata, index}) {
    size_t refused = 0;
    absl::Status status;
    for (uint64_t limit = kMiB; limit < 8 * kMiB; limit += 64 << 10) {
      HeaderMemory memory(limit);
      status = Open(directory, memory).status();
      if (status.ok()) continue;
      EXPECT_EQ(ErrorReason(status), Reason::kMemoryExhausted) << status;
      EXPECT_THAT(ErrorDetails(status)["file"], HasSubstr(directory));
      ++refused;
    }
    EXPECT_GT(refused, 0u);
    EXPECT_TRUE(status.ok()) << status;
  }
}

TEST_F(HeaderMemoryTest, ManyShardsTogetherAreRefusedWhenTheyTakeTooMuch) {
  WriteSparseCheckpoint(dir_.path(), 50, 400, 1);  // some 2.5 MiB when all are read
  HeaderMemory memory(2 * kMiB);
  EXPECT_EQ(ErrorReason(Open(dir_.path(), memory).status()), Reason::kMemoryExhausted);
  EXPECT_EQ(memory.used(), 0u);
}

TEST_F(HeaderMemoryTest, AnIndexFileIsCountedToo) {
  std::vector<std::pair<std::string, std::string>> map;
  for (int i = 0; i < 20000; ++i) map.emplace_back("a.long.name.of.a.key." + std::to_string(i), "x.safetensors");
  WriteIndex(dir_.File("model.safetensors.index.json"), map);
  WriteSafetensors(dir_.File("x.safetensors"), {});
  HeaderMemory enough(64 * kMiB), little(4 * kMiB);
  EXPECT_TRUE(Open(dir_.path(), enough).ok());
  EXPECT_EQ(ErrorReason(Open(dir_.path(), little).status()), Reason::kMemoryExhausted);
}

TEST_F(HeaderMemoryTest, RememberedHeadersMakeRoomAndHeldOnesDoNot) {
  const std::string held = dir_.MakeDir("held"), idle = dir_.MakeDir("idle");
  for (const std::string& directory : {held, idle}) WriteSparseCheckpoint(directory, 1, 2000, 1);
  HeaderMemory large(1024 * kMiB);
  const uint64_t one = (*Open(held, large))->headers().bytes();
  HeaderMemory memory(100 * one);
  HeaderCache cache({.max_bytes = 100 * one, .now = [] { return absl::Now() + absl::Hours(1); }});
  const auto kept = Open(held, memory, &cache);
  ASSERT_TRUE(kept.ok()) << kept.status();
  ASSERT_TRUE(Open(idle, memory, &cache).ok());
  EXPECT_EQ(memory.used(), 2 * one);
  EXPECT_TRUE(cache.MakeRoom(one));
  EXPECT_EQ(memory.used(), one);
  EXPECT_FALSE(cache.MakeRoom(one));
  EXPECT_EQ(memory.used(), one);
}

TEST_F(HeaderMemoryTest, AnOpenThatFindsTooLittleDropsRememberedHeaders) {
  HeaderMemory memory(64 * kMiB);
  HeaderCache cache({.now = [] { return absl::Now() + absl::Hours(1); }});
  for (int i = 0; i < 20; ++i) {
    const std::string directory = dir_.MakeDir(std::to_string(i));
    WriteSparseCheckpoint(directory, 1, 2000, 1);
    ASSERT_TRUE(Open(directory, memory, &cache).ok());
  }
  const std::string wanted = dir_.MakeDir("wanted");
  WriteSparseCheckpoint(wanted, 1, 2000, 1);
  const uint64_t remembered = memory.used();
  HeaderCharge first(&memory), second(&memory);
  ASSERT_TRUE(first.Add(32 * kMiB, "f").ok());
  ASSERT_TRUE(second.Add(32 * kMiB - remembered, "f").ok());  // nothing is left
  EXPECT_EQ(ErrorReason(Open(wanted, memory).status()), Reason::kMemoryExhausted);
  EXPECT_TRUE(Open(wanted, memory, &cache).ok());
  EXPECT_LE(memory.used(), memory.limit());
}

}  // namespace
}  // namespace keyload
