#include "server/access/tls_material.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "tests/support/checkpoint_builder.h"
#include "tests/unit/access/test_certificate.h"

namespace keyload {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class ReadTlsTest : public testing::Test {
 protected:
  ReadTlsTest() {
    WriteFile(paths_.cert, own_.certificate);
    WriteFile(paths_.key, own_.key);
    WriteFile(paths_.client_ca, other_.certificate);
  }
  std::string Refusal() {
    const absl::Status status = ReadTls(paths_).status();
    EXPECT_EQ(ErrorReason(status), Reason::kBadRequest);
    return std::string(status.message());
  }

  TempDir dir_;
  TlsPaths paths_ = {.cert = dir_.File("cert"), .key = dir_.File("key"), .client_ca = dir_.File("ca")};
  const TestCertificate own_ = MakeTestCertificate(30);
  const TestCertificate other_ = MakeTestCertificate(30);
};

TEST_F(ReadTlsTest, TakesWhatFitsTogether) {
  const absl::StatusOr<TlsMaterial> tls = ReadTls(paths_);
  ASSERT_TRUE(tls.ok()) << tls.status();
  EXPECT_EQ(tls->cert_chain, own_.certificate);
  EXPECT_EQ(tls->private_key, own_.key);
  EXPECT_EQ(tls->client_ca, other_.certificate);
  EXPECT_GT(tls->not_after, absl::Now() + absl::Hours(24 * 29));
  EXPECT_LT(tls->not_after, absl::Now() + absl::Hours(24 * 31));
}

TEST_F(ReadTlsTest, TakesAChainAndLooksAtItsFirst) {
  WriteFile(paths_.cert, StrCat(own_.certificate, other_.certificate));
  EXPECT_TRUE(ReadTls(paths_).ok()) << ReadTls(paths_).status();
  WriteFile(paths_.cert, StrCat(other_.certificate, own_.certificate));
  EXPECT_THAT(Refusal(), HasSubstr("is not the key of"));
}

TEST_F(ReadTlsTest, RefusesTheKeyOfAnotherCertificate) {
  WriteFile(paths_.key, other_.key);
  EXPECT_THAT(Refusal(),
              AllOf(HasSubstr(paths_.key), HasSubstr(StrCat("is not the key of the certificate in ", paths_.cert))));
}

TEST_F(ReadTlsTest, RefusesWhatDoesNotParseByItsName) {
  WriteFile(paths_.cert, "no certificate");
  EXPECT_THAT(Refusal(), HasSubstr(StrCat(paths_.cert, ": holds no certificate")));
  WriteFile(paths_.cert, own_.certificate.substr(0, own_.certificate.size() / 2));
  EXPECT_THAT(Refusal(), HasSubstr(paths_.cert));
  std::string damaged = other_.certificate;
  damaged[damaged.size() / 2] = '!';
  WriteFile(paths_.cert, StrCat(own_.certificate, damaged));
  EXPECT_THAT(Refusal(), HasSubstr("a certificate after the first does not parse"));
  WriteFile(paths_.cert, own_.certificate);
  WriteFile(paths_.key, "");
  EXPECT_THAT(Refusal(), HasSubstr(StrCat(paths_.key, ": holds no private key")));
  WriteFile(paths_.key, own_.key);
  WriteFile(paths_.client_ca, own_.key);
  EXPECT_THAT(Refusal(), HasSubstr(StrCat(paths_.client_ca, ": holds no certificate")));
}

TEST_F(ReadTlsTest, RefusesAFileThatIsAbsentTooLargeOrNoFile) {
  const std::string cert = paths_.cert;
  paths_.cert = dir_.File("absent");
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(paths_.cert), HasSubstr("No such file")));
  paths_.cert = dir_.File("large");
  WriteFile(paths_.cert, std::string((1 << 20) + 1, ' '));
  EXPECT_THAT(Refusal(), HasSubstr("is over 1048576 bytes"));
  paths_.cert = "/";
  EXPECT_THAT(Refusal(), HasSubstr("cannot read /"));
  paths_.cert = dir_.File("pipe");
  ASSERT_EQ(mkfifo(paths_.cert.c_str(), 0600), 0);
  EXPECT_THAT(Refusal(), HasSubstr(paths_.cert));
}

TEST_F(ReadTlsTest, RefusesWhatOpensslWouldNotServe) {
  const TestCertificate weak = MakeWeakCertificate();
  WriteFile(paths_.cert, weak.certificate);
  WriteFile(paths_.key, weak.key);
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(paths_.cert), HasSubstr("ee key too small")));
}

TEST_F(ReadTlsTest, TakesACertificateThatHasEnded) {
  const TestCertificate ended = MakeTestCertificate(-1);
  WriteFile(paths_.cert, ended.certificate);
  WriteFile(paths_.key, ended.key);
  const absl::StatusOr<TlsMaterial> tls = ReadTls(paths_);
  ASSERT_TRUE(tls.ok()) << tls.status();
  EXPECT_LT(tls->not_after, absl::Now());
}

}  // namespace
}  // namespace keyload
