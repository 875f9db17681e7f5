#include "server/rpc/grpc_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/base/error.h"
#include "server/base/retry.h"
#include "server/base/utf8.h"

namespace keyload {
namespace {

google::rpc::Status Details(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  return details;
}

google::rpc::ErrorInfo Info(const grpc::Status& status) {
  google::rpc::ErrorInfo info;
  const google::rpc::Status details = Details(status);
  EXPECT_EQ(details.details_size(), 1);
  EXPECT_TRUE(details.details_size() == 1 && details.details(0).UnpackTo(&info));
  return info;
}

// What a trailer costs: messages are percent-encoded, details base64.
size_t WireBytes(const grpc::Status& status) {
  size_t bytes = (status.error_details().size() + 2) / 3 * 4;
  for (const char c : status.error_message()) bytes += c >= 0x20 && c <= 0x7e && c != '%' ? 1 : 3;
  return bytes;
}

size_t AllBytes(const grpc::Status& status) { return status.error_message().size() + status.error_details().size(); }

TEST(GrpcStatus, OkIsOk) { EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok()); }

TEST(GrpcStatus, CarriesOneErrorInfo) {
  const grpc::Status status =
      ToGrpcStatus(MakeError(Reason::kCheckpointCorrupt, "a.safetensors: hole at 8", {{"file", "a.safetensors"}}));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(status.error_message(), "a.safetensors: hole at 8");
  EXPECT_EQ(Details(status).code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(Details(status).message(), "a.safetensors: hole at 8");
  const google::rpc::ErrorInfo info = Info(status);
  EXPECT_EQ(info.reason(), "CHECKPOINT_CORRUPT");
  EXPECT_EQ(info.domain(), "keyload");
  ASSERT_EQ(info.metadata_size(), 1);
  EXPECT_EQ(info.metadata().at("file"), "a.safetensors");
}

TEST(GrpcStatus, AStatusMadeElsewhereIsInternal) {
  EXPECT_EQ(Info(ToGrpcStatus(absl::CancelledError("gone"))).reason(), "INTERNAL");
}

TEST(GrpcStatus, ALongMessageIsCutAndMarked) {
  const grpc::Status status = ToGrpcStatus(MakeError(Reason::kBadRequest, std::string(100'000, 'x')));
  EXPECT_LT(AllBytes(status), 4096);
  EXPECT_TRUE(status.error_message().ends_with("..."));
}

TEST(GrpcStatus, LongMessageAndMetadataStayBelow4KiB) {
  const std::string big(100'000, 'x');
  const grpc::Status status =
      ToGrpcStatus(MakeError(Reason::kBadRequest, big, {{"file", big}, {"key", big}, {"shard", big}, {"what", big}}));
  EXPECT_LT(AllBytes(status), 4096);
  EXPECT_TRUE(Info(status).metadata().at("file").ends_with("..."));
}

TEST(GrpcStatus, ManySmallEntriesStayBelow4KiB) {
  ErrorMetadata metadata;
  for (int i = 0; i < 10'000; ++i) metadata[absl::StrCat("k", i)] = "v";
  EXPECT_LT(AllBytes(ToGrpcStatus(MakeError(Reason::kBadRequest, std::string(100'000, 'x'), metadata))), 4096);
}

TEST(GrpcStatus, TheTrailersStayBelow8KiBWhateverTheMessage) {
  const std::string big(100'000, '\xff');
  EXPECT_LT(
      WireBytes(ToGrpcStatus(MakeError(Reason::kBadRequest, big, {{"a", big}, {"b", big}, {"c", big}, {"d", big}}))),
      8192);
}

template <typename Detail>
std::vector<Detail> All(const grpc::Status& status) {
  std::vector<Detail> found;
  Detail detail;
  const google::rpc::Status details = Details(status);
  for (const google::protobuf::Any& any : details.details()) {
    if (any.UnpackTo(&detail)) found.push_back(detail);
  }
  return found;
}

TEST(GrpcStatus, AFullQueueCarriesRetryInfo) {
  const grpc::Status status = ToGrpcStatus(TooManyWaiting(absl::Milliseconds(2100)));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const auto retry = All<google::rpc::RetryInfo>(status);
  ASSERT_EQ(retry.size(), 1);
  EXPECT_EQ(retry[0].retry_delay().seconds(), 3) << "rounded up";
  ASSERT_EQ(All<google::rpc::ErrorInfo>(status).size(), 1);
  EXPECT_EQ(All<google::rpc::ErrorInfo>(status)[0].metadata().at("retry_delay_seconds"), "3");
  EXPECT_EQ(ToLoadError(TooManyWaiting(absl::Seconds(3))).metadata().at("retry_delay_seconds"), "3");
}

TEST(GrpcStatus, ADrainingServerCarriesRetryInfo) {
  EXPECT_EQ(All<google::rpc::RetryInfo>(ToGrpcStatus(Draining())).size(), 1);
}

TEST(GrpcStatus, OutOfMemoryCarriesTheDeviceAndItsBytes) {
  const grpc::Status status = ToGrpcStatus(
      MakeError(Reason::kDeviceOutOfMemory, "no memory",
                {{"device", "cuda:3"}, {"requested_bytes", "300"}, {"free_bytes", "200"}, {"capacity_bytes", "1000"}}));
  const auto quota = All<google::rpc::QuotaFailure>(status);
  ASSERT_EQ(quota.size(), 1);
  ASSERT_EQ(quota[0].violations_size(), 1);
  EXPECT_EQ(quota[0].violations(0).subject(), "cuda:3");
  EXPECT_EQ(quota[0].violations(0).description(), "300 bytes asked for, 200 of 1000 bytes free");
  EXPECT_EQ(All<google::rpc::ErrorInfo>(status).size(), 1);
  EXPECT_TRUE(All<google::rpc::RetryInfo>(status).empty()) << "nobody knows when memory is given back";
}

TEST(GrpcStatus, AllDetailsTogetherStayBelow4KiB) {
  const std::string big(100'000, '9');
  const grpc::Status status = ToGrpcStatus(MakeError(Reason::kDeviceOutOfMemory, big,
                                                     {{"device", big},
                                                      {"requested_bytes", big},
                                                      {"free_bytes", big},
                                                      {"capacity_bytes", big},
                                                      {"retry_delay_seconds", "9223372036854775807"}}));
  EXPECT_EQ(Details(status).details_size(), 3);
  EXPECT_LT(AllBytes(status), 4096);
  EXPECT_LT(WireBytes(status), 8192);
}

TEST(GrpcStatus, CutsBetweenCharacters) {
  // Three bytes a character, behind 0, 1 and 2 bytes: two of the three limits fall into a character.
  for (const std::string_view head : {"", "a", "ab"}) {
    std::string message(head);
    while (message.size() < 10'000) message += "\u20ac";
    std::string cut = ToGrpcStatus(MakeError(Reason::kBadRequest, message)).error_message();
    ASSERT_TRUE(cut.ends_with("...")) << head;
    cut.resize(cut.size() - 3);
    EXPECT_EQ((cut.size() - head.size()) % 3, 0) << head;
  }
}

TEST(GrpcStatus, ALoadErrorIsCutAsWell) {
  const std::string big(100'000, 'x');
  const v1::LoadError error = ToLoadError(MakeError(Reason::kIoError, big, {{"file", big}}));
  EXPECT_EQ(error.code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(error.reason(), "IO_ERROR");
  EXPECT_EQ(error.metadata().size(), 1);
  EXPECT_LT(error.ByteSizeLong(), 4096);
}

TEST(ToUtf8, KeepsWhatIsUtf8) {
  const std::string text = "a\u00e9\u20ac\U0001f600\U0010ffff";
  EXPECT_EQ(ToUtf8(text), text);
}

struct Invalid {
  const char* name;
  std::string text;
  std::string fixed;
};
void PrintTo(const Invalid& tested, std::ostream* out) { *out << tested.name; }
class InvalidUtf8 : public testing::TestWithParam<Invalid> {};

TEST_P(InvalidUtf8, IsReplaced) { EXPECT_EQ(ToUtf8(GetParam().text), GetParam().fixed); }

INSTANTIATE_TEST_SUITE_P(All, InvalidUtf8,
                         testing::Values(Invalid{"LoneByte",
                                                 "a\xff"
                                                 "b",
                                                 "a\ufffd"
                                                 "b"},
                                         Invalid{"LoneContinuation", "\x80", "\ufffd"},
                                         Invalid{"CutSequence", "a\xe2\x82", "a\ufffd\ufffd"},
                                         Invalid{"Overlong", "\xc0\xaf", "\ufffd\ufffd"},
                                         Invalid{"OverlongThree", "\xe0\x80\xaf", "\ufffd\ufffd\ufffd"},
                                         Invalid{"Surrogate", "\xed\xa0\x80", "\ufffd\ufffd\ufffd"},
                                         Invalid{"OverTheLast", "\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"}),
                         [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace keyload
