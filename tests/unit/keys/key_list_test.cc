#include "server/keys/key_list.h"

#include <gtest/gtest.h>

#include <string>

#include "server/base/error.h"

namespace keyload {
namespace {

TEST(KeyList, HoldsEveryNameOnceInOrder) {
  const auto list = KeyList::Parse("b\na\r\n\nb\naa", 10);
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->size(), 3u);
  EXPECT_EQ((*list)[0], "a");
  EXPECT_EQ((*list)[1], "aa");
  EXPECT_EQ((*list)[2], "b");
}

TEST(KeyList, ContainsItsNamesAndNoOthers) {
  std::string text;
  for (int i = 0; i < 1000; i += 2) text += std::to_string(i) + "\n";
  const auto list = KeyList::Parse(text, 1000);
  ASSERT_TRUE(list.ok()) << list.status();
  for (int i = -1; i < 1001; ++i) {
    EXPECT_EQ(list->Contains(std::to_string(i)), i >= 0 && i < 1000 && i % 2 == 0) << i;
  }
  EXPECT_FALSE(list->Contains(""));
}

TEST(KeyList, AnEmptyTextHasNoName) {
  EXPECT_EQ(KeyList::Parse("", 10)->size(), 0u);
  EXPECT_EQ(KeyList::Parse("\n\r\n", 10)->size(), 0u);
  EXPECT_FALSE(KeyList::Parse("", 10)->Contains("a"));
}

TEST(KeyList, AByteOrderMarkIsNoPartOfTheFirstName) {
  const auto list = KeyList::Parse("\xEF\xBB\xBFmodel.a\r\nmodel.b\r\n", 10);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->size(), 2u);
  EXPECT_TRUE(list->Contains("model.a"));
}

TEST(KeyList, SaysWhatATextIsThatIsNoList) {
  const std::pair<std::string, std::string> texts[] = {{std::string("\xff\xfem\0o\0", 6), "UTF-16"},
                                                       {"{\"weight_map\": {}}", "JSON"},
                                                       {"<html>", "HTML"},
                                                       {std::string("PK\x03\x04\0\0", 6), "zip"}};
  for (const auto& [text, said] : texts) {
    const absl::Status status = KeyList::Parse(text, 10).status();
    EXPECT_NE(std::string(status.message()).find(said), std::string::npos) << status;
    EXPECT_NE(std::string(status.message()).find("the key list is "), std::string::npos) << status;
  }
  EXPECT_TRUE(KeyList::Parse("GGUF.weight\n[0].bias\n", 10).ok());
}

TEST(KeyList, TakesFewBytesMoreThanItsNames) {
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "model.layers." + std::to_string(i) + ".weight\n";
  const auto list = KeyList::Parse(text, 1'000'000);
  EXPECT_LT(list->memory_bytes(), text.size() + 4 * 100'000 + 1000);
  EXPECT_LE(list->memory_bytes(), KeyList::ParseBytes(text));
}

}  // namespace
}  // namespace keyload
