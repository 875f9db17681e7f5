#include "server/base/error.h"
#include "tests/support/source_dir.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <fstream>
#include <set>
#include <sstream>

namespace keyload {
namespace {

TEST(Error, CarriesReasonCodeMessageAndMetadata) {
  const absl::Status status = MakeError(Reason::kPathNotAllowed, "no", {{"path", "/etc"}});
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(status.message(), "no");
  EXPECT_EQ(ErrorReason(status), Reason::kPathNotAllowed);
  EXPECT_EQ(ErrorDetails(status), (ErrorMetadata{{"path", "/etc"}}));
}

TEST(Error, AnnotateKeepsWhatWasThereAndAddsContext) {
  const absl::Status status =
      Annotate(MakeError(Reason::kIoError, "read failed", {{"offset", "8"}}), "shard 3", {{"file", "a.safetensors"}});
  EXPECT_EQ(status.message(), "shard 3: read failed");
  EXPECT_EQ(ErrorReason(status), Reason::kIoError);
  EXPECT_EQ(ErrorDetails(status), (ErrorMetadata{{"file", "a.safetensors"}, {"offset", "8"}}));
  EXPECT_TRUE(Annotate(absl::OkStatus(), "anything").ok());
}

TEST(Error, AStatusMadeElsewhereIsInternal) {
  EXPECT_EQ(ErrorReason(absl::AbortedError("x")), Reason::kInternal);
  EXPECT_TRUE(ErrorDetails(absl::AbortedError("x")).empty());
}

TEST(Error, ErrnoThatWouldBeTheSameAgainIsNotRetried) {
  for (const int error : {ELOOP, ENAMETOOLONG}) {
    EXPECT_EQ(ErrorReason(ErrnoToStatus(error, "open", "/m")), Reason::kCheckpointNotFound) << error;
  }
  for (const int error : {EIO, EBADMSG, EUCLEAN, ENODATA, EILSEQ}) {
    EXPECT_EQ(ErrnoToStatus(error, "pread", "/m").code(), absl::StatusCode::kDataLoss) << error;
  }
}

TEST(Error, ErrnoChoosesTheReason) {
  EXPECT_EQ(ErrorReason(ErrnoToStatus(ENOENT, "open", "/m")), Reason::kCheckpointNotFound);
  EXPECT_EQ(ErrorReason(ErrnoToStatus(EACCES, "open", "/m")), Reason::kPathNotReadable);
  EXPECT_EQ(ErrorReason(ErrnoToStatus(ESTALE, "pread", "/m")), Reason::kIoError);
}

// The reasons and codes of docs/errors.md are those of the code: a table row is | `REASON` | CODE | ... |.
TEST(Error, EveryReasonIsDocumentedWithItsCode) {
  std::ifstream file(SourceDir() + "/docs/errors.md");
  ASSERT_TRUE(file.good());
  std::stringstream text;
  text << file.rdbuf();
  std::set<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(kLastReason); ++i) {
    const auto reason = static_cast<Reason>(i);
    names.insert(ReasonName(reason));
    const std::string row =
        "| `" + std::string(ReasonName(reason)) + "` | " + absl::StatusCodeToString(ReasonCode(reason)) + " |";
    EXPECT_NE(text.str().find(row), std::string::npos) << row;
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(kLastReason) + 1);
}

}  // namespace
}  // namespace keyload
