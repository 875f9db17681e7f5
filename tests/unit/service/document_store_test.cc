#include "server/service/document_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/digest.h"
#include "server/base/error.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

DocumentStore Store(uint64_t document_bytes, uint64_t total_bytes) {
  return DocumentStore({.max_document_bytes = document_bytes, .max_total_bytes = total_bytes}, ParseLines);
}

constexpr uint64_t kRoomy = 1 << 20;

// What one key list of four bytes takes.
uint64_t OneList() { return KeyList::ParseBytes("aaaa"); }

std::vector<std::string> Names(const KeyList& keys) {
  std::vector<std::string> names;
  for (size_t i = 0; i < keys.size(); ++i) names.emplace_back(keys[i]);
  return names;
}

TEST(DocumentStore, TheDigestIsTheSha256OfTheBytes) {
  DocumentStore store = Store(100, kRoomy);
  EXPECT_EQ(store.AddKeyList("abc")->digest, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(DocumentStore, SaysWhetherADocumentWasKnown) {
  DocumentStore store = Store(100, kRoomy);
  EXPECT_FALSE(store.AddManifest("a\nb")->known);
  EXPECT_TRUE(store.AddManifest("a\nb")->known);
}

TEST(DocumentStore, AManifestIsParsedOnce) {
  int parsed = 0;
  DocumentStore store({}, [&](std::string_view bytes) {
    ++parsed;
    return ParseLines(bytes);
  });
  ASSERT_TRUE(store.AddManifest("a").ok());
  ASSERT_TRUE(store.AddManifest("a").ok());
  EXPECT_EQ(parsed, 1);
}

TEST(DocumentStore, FindsWhatWasAdded) {
  DocumentStore store = Store(100, kRoomy);
  const std::string digest = store.AddManifest("a\nb")->digest;
  const auto manifest = store.FindManifest(digest);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ((*manifest)->tensors.size(), 2);
}

TEST(DocumentStore, AKeyListHasOneKeyALine) {
  DocumentStore store = Store(100, kRoomy);
  const auto keys = store.FindKeyList(store.AddKeyList("a.b\r\n\nc\n")->digest);
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_THAT(Names(**keys), testing::ElementsAre("a.b", "c"));
}

TEST(DocumentStore, TheLeastRecentlyUsedGoesFirst) {
  DocumentStore store = Store(4, 2 * OneList());
  const std::string first = store.AddKeyList("aaaa")->digest;
  const std::string second = store.AddKeyList("bbbb")->digest;
  ASSERT_TRUE(store.FindKeyList(first).ok());
  ASSERT_TRUE(store.AddKeyList("cccc").ok());
  EXPECT_TRUE(store.FindKeyList(first).ok());
  EXPECT_EQ(ErrorReason(store.FindKeyList(second).status()), Reason::kDocumentNotFound);
}

TEST(DocumentStore, AddingAKnownDocumentCountsAsUse) {
  DocumentStore store = Store(4, 2 * OneList());
  const std::string first = store.AddKeyList("aaaa")->digest;
  ASSERT_TRUE(store.AddKeyList("bbbb").ok());
  ASSERT_TRUE(store.AddKeyList("aaaa").ok());
  ASSERT_TRUE(store.AddKeyList("cccc").ok());
  EXPECT_TRUE(store.FindKeyList(first).ok());
}

TEST(DocumentStore, ADocumentInUseKeepsItsMemory) {
  DocumentStore store = Store(4, OneList());
  auto held = store.FindKeyList(store.AddKeyList("aaaa")->digest);
  const absl::Status refused = store.AddKeyList("bbbb").status();
  EXPECT_EQ(ErrorReason(refused), Reason::kMemoryExhausted);
  EXPECT_EQ(ErrorDetails(refused)["limit_bytes"], std::to_string(OneList()));
  EXPECT_THAT(Names(**held), testing::ElementsAre("aaaa"));
  held->reset();
  EXPECT_TRUE(store.AddKeyList("bbbb").ok());
}

TEST(DocumentStore, ADocumentMayOutliveTheStore) {
  std::shared_ptr<const KeyList> held;
  {
    DocumentStore store = Store(4, kRoomy);
    held = *store.FindKeyList(store.AddKeyList("aaaa")->digest);
  }
  EXPECT_TRUE(held->Contains("aaaa"));
}

TEST(DocumentStore, AKeyListIsChargedWhatItTakesInMemory) {
  DocumentStore store({}, ParseLines);
  std::string text;
  for (int i = 0; i < 1'000'000; ++i) text += std::to_string(i) + "\n";
  ASSERT_TRUE(store.AddKeyList(text).ok());
  EXPECT_GT(store.used_bytes(), text.size());
  EXPECT_LT(store.used_bytes(), 2 * text.size()) << "and not many times the size of what was sent";
}

TEST(DocumentStore, AManifestIsChargedWhileItIsParsed) {
  uint64_t used_while_parsing = 0;
  DocumentStore* parsing = nullptr;
  DocumentStore store(
      {},
      [&](std::string_view bytes) {
        used_while_parsing = parsing->used_bytes();
        return ParseLines(bytes);
      },
      [](std::string_view) { return 1'000'000; });
  parsing = &store;
  ASSERT_TRUE(store.AddManifest("a").ok());
  EXPECT_EQ(used_while_parsing, 1'000'000);
  EXPECT_LT(store.used_bytes(), 2000);
  EXPECT_GT(store.used_bytes(), 0);
}

TEST(DocumentStore, AnUploadIsChargedWhileItComesAndFreedWhenItIsGone) {
  DocumentStore store({.max_total_bytes = 1 << 20}, ParseLines);
  {
    const auto first = store.BeginUpload("a");
    ASSERT_TRUE((*first)->Append(std::string(300'000, 'a')).ok());
    EXPECT_GE(store.used_bytes(), 300'000);
    const auto second = store.BeginUpload("a");
    const absl::Status refused = (*second)->Append(std::string(800'000, 'b'));
    EXPECT_EQ(ErrorReason(refused), Reason::kMemoryExhausted);
    EXPECT_EQ((*first)->bytes().size(), 300'000);
  }
  EXPECT_EQ(store.used_bytes(), 0);
}

TEST(DocumentStore, DocumentsThatNobodyUsesMakeRoomForAnUpload) {
  DocumentStore store({.max_total_bytes = 1 << 20}, ParseLines);
  const std::string digest = store.AddKeyList(std::string(4096, 'k') + "\n" + std::string(4000, 'k'))->digest;
  const auto upload = store.BeginUpload("a");
  ASSERT_TRUE((*upload)->Append(std::string((1 << 20) - 4096, 'a')).ok());
  EXPECT_EQ(ErrorReason(store.FindKeyList(digest).status()), Reason::kDocumentNotFound);
}

TEST(DocumentStore, RefusesADocumentOverTheLimit) {
  DocumentStore store = Store(4, kRoomy);
  EXPECT_TRUE(store.AddKeyList("aaaa").ok());
  EXPECT_EQ(ErrorReason(store.AddKeyList("aaaaa").status()), Reason::kDocumentTooLarge);
}

TEST(DocumentStore, AKeyListIsNoManifest) {
  DocumentStore store = Store(100, kRoomy);
  EXPECT_EQ(ErrorReason(store.FindManifest(store.AddKeyList("a")->digest).status()), Reason::kBadRequest);
}

TEST(DocumentStore, AManifestIsNoKeyList) {
  DocumentStore store = Store(100, kRoomy);
  EXPECT_EQ(ErrorReason(store.FindKeyList(store.AddManifest("a")->digest).status()), Reason::kBadRequest);
}

TEST(DocumentStore, TheSameBytesMayBeBoth) {
  DocumentStore store = Store(100, kRoomy);
  const std::string digest = store.AddManifest("a")->digest;
  EXPECT_EQ(store.AddKeyList("a")->digest, digest);
  EXPECT_TRUE(store.FindManifest(digest).ok());
  EXPECT_TRUE(store.FindKeyList(digest).ok());
}

TEST(DocumentStore, ABrokenManifestIsNotKept) {
  DocumentStore store = Store(100, kRoomy);
  EXPECT_EQ(ErrorReason(store.AddManifest("!").status()), Reason::kManifestInvalid);
  EXPECT_EQ(ErrorReason(store.FindManifest(Sha256Digest("!")).status()), Reason::kDocumentNotFound);
}

TEST(DocumentStore, AKeyWithANulIsRefused) {
  DocumentStore store = Store(100, kRoomy);
  EXPECT_EQ(ErrorReason(store.AddKeyList(std::string_view("a\0b", 3)).status()), Reason::kBadRequest);
}

TEST(DocumentStore, AKeyThatIsNotUtf8IsRefusedAndItsLineNamed) {
  DocumentStore store = Store(100, kRoomy);
  const absl::Status status = store.AddKeyList("a\nb\xff\n").status();
  EXPECT_EQ(ErrorReason(status), Reason::kBadRequest);
  EXPECT_EQ(ErrorDetails(status)["line"], "2");
  EXPECT_TRUE(store.AddKeyList("schl\xc3\xbcssel").ok());
}

TEST(DocumentStore, AKeyOver4096BytesIsRefused) {
  DocumentStore store = Store(1 << 20, 1 << 20);
  EXPECT_TRUE(store.AddKeyList(std::string(4096, 'k')).ok());
  EXPECT_EQ(ErrorReason(store.AddKeyList(std::string(4097, 'k')).status()), Reason::kBadRequest);
}

TEST(DocumentStore, TheKeysOfAListAreBounded) {
  DocumentStore store({.max_list_keys = 2}, ParseLines);
  EXPECT_TRUE(store.AddKeyList("a\nb\n").ok());
  EXPECT_EQ(ErrorReason(store.AddKeyList("a\nb\nc").status()), Reason::kDocumentTooLarge);
}

TEST(DocumentStore, UploadsAtATimeAreBounded) {
  DocumentStore store({.max_uploads = 2}, ParseLines);
  const auto first = store.BeginUpload("a");
  {
    const auto second = store.BeginUpload("b");
    EXPECT_TRUE(first.ok() && second.ok());
    const absl::Status third = store.BeginUpload("c").status();
    EXPECT_EQ(ErrorReason(third), Reason::kLoadQueueFull);
    EXPECT_EQ(ErrorDetails(third).count("retry_delay_seconds"), 1);
  }
  EXPECT_EQ(ErrorReason(store.BeginUpload("a").status()), Reason::kLoadQueueFull) << "half is one caller's";
  EXPECT_TRUE(store.BeginUpload("b").ok());
}

TEST(DocumentStore, AnUnknownDigestIsNamedButCut) {
  DocumentStore store = Store(100, kRoomy);
  const absl::Status status = store.FindManifest("sha256:" + std::string(10'000, 'f')).status();
  EXPECT_EQ(ErrorReason(status), Reason::kDocumentNotFound);
  EXPECT_LT(status.message().size(), 200);
}

}  // namespace
}  // namespace keyload
