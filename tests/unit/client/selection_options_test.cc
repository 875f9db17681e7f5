#include "client/cli/selection_options.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/fake_server.h"
#include "tests/unit/client/temporary_folder.h"

namespace keyload::cli {
namespace {

using testing::ElementsAre;
using testing::SizeIs;

TEST(UploadKeyList, SendsALongListOnceAndNamesItByDigest) {
  FakeServer server;
  auto client = *Client::Connect({.address = server.address()});
  SelectionInput input;
  input.select.add_exclude("*.bias");
  input.key_list = "a\nb\n";
  auto select = UploadKeyList(*client, input, {});
  ASSERT_TRUE(select.ok()) << select.status();
  ASSERT_THAT(server.service().uploaded, SizeIs(1));
  EXPECT_EQ(server.service().uploaded[0].kind(), v1::UploadDocumentRequest::KIND_KEY_LIST);
  EXPECT_EQ(server.service().uploaded[0].data(), "a\nb\n");
  EXPECT_EQ(select->key_list_digest(), "sha256:fake");
  EXPECT_THAT(select->exclude(), ElementsAre("*.bias"));
}

TEST(UploadKeyList, SendsNothingForAShortList) {
  FakeServer server;
  auto client = *Client::Connect({.address = server.address()});
  TemporaryFolder folder;
  auto input = BuildSelection({.include = {}, .exclude = {}, .keys_file = folder.Write("keys", "a\nb\n")});
  ASSERT_TRUE(input.ok()) << input.status();
  auto select = UploadKeyList(*client, *input, {});
  ASSERT_TRUE(select.ok()) << select.status();
  EXPECT_THAT(select->keys(), ElementsAre("a", "b"));
  EXPECT_THAT(server.service().uploaded, SizeIs(0));
}

}  // namespace
}  // namespace keyload::cli
