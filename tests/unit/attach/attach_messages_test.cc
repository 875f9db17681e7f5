#include "attach/attach_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <variant>

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

template <typename Message>
Message Again(const Message& message) {
  const absl::StatusOr<std::string> packet = EncodeAttachMessage(message);
  EXPECT_TRUE(packet.ok()) << packet.status();
  const absl::StatusOr<AttachMessage> decoded = DecodeAttachMessage(*packet);
  EXPECT_TRUE(decoded.ok()) << decoded.status();
  return std::get<Message>(*decoded);
}

std::string Problem(std::string_view packet) {
  const absl::StatusOr<AttachMessage> decoded = DecodeAttachMessage(packet);
  return decoded.ok() ? "" : std::string(decoded.status().message());
}

std::string Bytes(std::initializer_list<int> values) {
  std::string bytes = "KLA1";
  for (const int value : values) bytes.push_back(static_cast<char>(value));
  return bytes;
}

TEST(AttachMessages, LieAsTheSpecificationSays) {
  EXPECT_EQ(*EncodeAttachMessage(AttachNext{.descriptor = 0x102}), Bytes({3, 0, 1, 0, 2, 1, 0, 0}));
  EXPECT_EQ(*EncodeAttachMessage(AttachGranted{.generation = 5, .descriptors = 9, .lease = "l"}),
            Bytes({2, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 'l'}));
  EXPECT_EQ(*EncodeAttachMessage(AttachDescriptors{.first = 1, .count = 2}),
            Bytes({4, 0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0}));
  EXPECT_EQ(*EncodeAttachMessage(AttachNote{.kind = AttachNoteKind::kDraining, .generation = 1}),
            Bytes({5, 0, 1, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(*EncodeAttachMessage(AttachRelease()), Bytes({6, 0, 1, 0}));
  EXPECT_EQ(*EncodeAttachMessage(MakeAttachError(absl::StatusCode::kNotFound, "R", "t")),
            Bytes({8, 0, 1, 0, 5, 0, 0, 0, 1, 0, 'R', 1, 0, 't'}));
  EXPECT_EQ(
      *EncodeAttachMessage(AttachRequest{.batch = 3, .materialize = true, .label = "w", .model = "m", .keys = {"k"}}),
      Bytes({9, 0, 1, 0, 3, 0, 1, 0, 1, 0, 'w', 1, 0, 'm', 0, 0, 0, 0, 1, 0, 1, 0, 'k'}));
  const std::string hello = *EncodeAttachMessage(AttachHello{.token = {0xaa}, .batch = 253, .label = "w"});
  EXPECT_EQ(hello, Bytes({1, 0, 1, 0, 0xaa}) + std::string(31, '\0') + std::string("\xfd\0\1\0w", 5));
}

TEST(AttachMessages, ComeOutAsTheyWentIn) {
  const auto hello = Again(AttachHello{.token = {1, 2, 3}, .batch = 1, .label = std::string(128, 'x')});
  EXPECT_EQ(hello.token[2], 3);
  EXPECT_EQ(hello.label.size(), 128u);
  const auto request = Again(AttachRequest{.batch = 253,
                                           .materialize = true,
                                           .label = "a label",
                                           .model = "llama",
                                           .include = {"a.*", ""},
                                           .exclude = {"b"},
                                           .keys = {"c", "d", "e"}});
  EXPECT_TRUE(request.materialize);
  EXPECT_EQ(request.model, "llama");
  EXPECT_THAT(request.include, ElementsAre("a.*", ""));
  EXPECT_THAT(request.exclude, ElementsAre("b"));
  EXPECT_THAT(request.keys, ElementsAre("c", "d", "e"));
  const auto error =
      Again(MakeAttachError(absl::StatusCode::kUnauthenticated, std::string(100, 'R'), std::string(9000, 't')));
  EXPECT_EQ(error.code, absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(error.reason.size(), kMostAttachReasonBytes);
  EXPECT_EQ(error.text.size(), kMostAttachTextBytes);
}

TEST(AttachMessages, CutOffAnywhereAreRefused) {
  const AttachMessage all[] = {AttachHello{.batch = 5, .label = "l"},
                               AttachRequest{.batch = 5, .model = "m", .include = {"i"}, .keys = {"k"}},
                               AttachGranted{.descriptors = 1, .lease = "l"},
                               AttachNext{.descriptor = 1},
                               AttachDescriptors{.first = 1, .count = 1},
                               AttachNote{},
                               AttachRelease(),
                               MakeAttachError(absl::StatusCode::kInternal, "R", "t")};
  for (const AttachMessage& message : all) {
    const std::string packet = *EncodeAttachMessage(message);
    for (size_t size = 0; size < packet.size(); ++size) EXPECT_NE(Problem(packet.substr(0, size)), "") << size;
    EXPECT_THAT(Problem(packet + "x"), HasSubstr("follow"));
  }
}

TEST(AttachMessages, OutsideOfTheirBoundsAreRefused) {
  EXPECT_THAT(Problem("KLA2" + Bytes({6, 0, 1, 0}).substr(4)), HasSubstr("KLA1"));
  EXPECT_THAT(Problem(Bytes({6, 0, 2, 0})), HasSubstr("version"));
  EXPECT_THAT(Problem(Bytes({7, 0, 1, 0})), HasSubstr("type"));
  EXPECT_THAT(Problem(Bytes({3, 0, 1, 0, 0, 0, 0, 0})), HasSubstr("descriptors"));
  EXPECT_THAT(Problem(Bytes({3, 0, 1, 0, 1, 4, 0, 0})), HasSubstr("descriptors"));              // 1,025
  EXPECT_THAT(Problem(Bytes({4, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0})), HasSubstr("descriptors"));  // the table again
  EXPECT_THAT(Problem(Bytes({4, 0, 1, 0, 1, 0, 0, 0, 254, 0, 0, 0})), HasSubstr("descriptors"));
  EXPECT_THAT(Problem(Bytes({4, 0, 1, 0, 255, 3, 0, 0, 2, 0, 0, 0})), HasSubstr("descriptors"));  // 1,023 and two
  EXPECT_THAT(Problem(Bytes({5, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})), HasSubstr("note"));
  EXPECT_THAT(Problem(Bytes({8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})), HasSubstr("code"));
  EXPECT_THAT(Problem(Bytes({8, 0, 1, 0, 17, 0, 0, 0, 0, 0, 0, 0})), HasSubstr("code"));
  EXPECT_THAT(Problem(Bytes({9, 0, 1, 0, 1, 0, 2, 0, 0, 0, 1, 0, 'm', 0, 0, 0, 0, 0, 0})), HasSubstr("flag"));
  EXPECT_THAT(Problem(Bytes({9, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})), HasSubstr("model"));
  EXPECT_THAT(Problem(Bytes({9, 0, 1, 0, 254, 0, 0, 0, 0, 0, 1, 0, 'm', 0, 0, 0, 0, 0, 0})), HasSubstr("batch"));
  // 65,535 names in a message that has room for one.
  EXPECT_THAT(Problem(Bytes({9, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 'm', 255, 255, 0, 0, 0, 0})), HasSubstr("list"));
  EXPECT_THAT(Problem(std::string(4097, 'K')), HasSubstr("4,096"));
}

TEST(AttachMessages, ThatNobodyCouldReadAreNotMade) {
  EXPECT_FALSE(EncodeAttachMessage(AttachHello{.batch = 0}).ok());
  EXPECT_FALSE(EncodeAttachMessage(AttachHello{.batch = 254}).ok());
  EXPECT_FALSE(EncodeAttachMessage(AttachHello{.batch = 1, .label = std::string(129, 'x')}).ok());
  EXPECT_FALSE(EncodeAttachMessage(AttachRequest{.batch = 1, .model = ""}).ok());
  EXPECT_FALSE(EncodeAttachMessage(AttachRequest{.batch = 1, .model = "m", .keys = {std::string(4096, 'k')}}).ok());
  EXPECT_FALSE(
      EncodeAttachMessage(AttachRequest{.batch = 1, .model = "m", .keys = std::vector<std::string>(100'000)}).ok());
}

}  // namespace
}  // namespace keyload
