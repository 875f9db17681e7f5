#include "server/access/reloading.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "server/access/credential_files.h"
#include "server/base/error.h"
#include "tests/support/checkpoint_builder.h"
#include "tests/unit/access/test_certificate.h"

namespace keyload {
namespace {

class ReloadingTest : public testing::Test {
 protected:
  ReloadingTest() { Write(first_.certificate, first_.key); }
  void Write(const std::string& certificate, const std::string& key) {
    WriteFile(paths_.cert, certificate);
    WriteFile(paths_.key, key);
  }
  // As two looks of the thread that watches.
  static void Settle(Reloading<TlsMaterial>& tls) {
    tls.Refresh();
    tls.Refresh();
  }
  std::unique_ptr<Reloading<TlsMaterial>> Open() {
    return *Reloading<TlsMaterial>::Open({paths_.cert, paths_.key}, [paths = paths_] { return ReadTls(paths); });
  }

  TempDir dir_;
  TlsPaths paths_ = {.cert = dir_.File("cert"), .key = dir_.File("key"), .client_ca = ""};
  const TestCertificate first_ = MakeTestCertificate(30);
  const TestCertificate second_ = MakeTestCertificate(60);
};

TEST_F(ReloadingTest, TakesOverWhatIsGood) {
  const auto tls = Open();
  Settle(*tls);
  EXPECT_EQ(tls->get()->cert_chain, first_.certificate);
  Write(second_.certificate, second_.key);
  Settle(*tls);
  EXPECT_EQ(tls->get()->cert_chain, second_.certificate);
  EXPECT_TRUE(tls->current());
  EXPECT_EQ(tls->failures(), 0u);
}

TEST_F(ReloadingTest, KeepsTheLastGoodPairUntilThereIsAnother) {
  const auto tls = Open();
  Write(second_.certificate, first_.key);
  Settle(*tls);
  Settle(*tls);
  EXPECT_EQ(tls->get()->cert_chain, first_.certificate);
  EXPECT_FALSE(tls->current());
  EXPECT_EQ(tls->failures(), 1u) << "of one change, however often it is looked at";
  Write(second_.certificate, second_.key);
  Settle(*tls);
  EXPECT_EQ(tls->get()->cert_chain, second_.certificate);
  EXPECT_TRUE(tls->current());
  EXPECT_EQ(tls->failures(), 1u);
}

TEST_F(ReloadingTest, KeepsThePairWhenTheFilesGo) {
  const auto tls = Open();
  std::filesystem::remove(paths_.key);
  Settle(*tls);
  EXPECT_EQ(tls->get()->cert_chain, first_.certificate);
  EXPECT_FALSE(tls->current());
}

TEST(Reloading, WhatCouldNotBeReadIsReadAgainWithoutAChange) {
  TempDir dir;
  WriteFile(dir.File("f"), "1");
  absl::StatusOr<int> next = 1;
  const auto value = *Reloading<int>::Open({dir.File("f")}, [&] { return next; });
  WriteFile(dir.File("f"), "22");
  next = absl::InternalError("no descriptor is free");
  for (int i = 0; i < 4; ++i) value->Refresh();
  EXPECT_EQ(*value->get(), 1);
  EXPECT_FALSE(value->current());
  EXPECT_EQ(value->failures(), 1u) << "the same trouble counts once";
  next = 2;
  value->Refresh();
  EXPECT_EQ(*value->get(), 2);
  EXPECT_TRUE(value->current());
}

TEST_F(ReloadingTest, DoesNotOpenOnWhatIsBad) {
  Write(second_.certificate, first_.key);
  const auto files = CredentialFiles::Open({.tls = paths_, .tokens = ""});
  EXPECT_EQ(ErrorReason(files.status()), Reason::kBadRequest);
}

TEST_F(ReloadingTest, WithoutFilesThereIsNothing) {
  const auto files = CredentialFiles::Open({});
  ASSERT_TRUE(files.ok());
  EXPECT_EQ((*files)->tls(), nullptr);
  EXPECT_EQ((*files)->tokens(), nullptr);
}

}  // namespace
}  // namespace keyload
