#include "client/keyload/call_status.h"

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "keyload/client.h"

namespace keyload {
namespace {

using client_internal::FromGrpc;
using client_internal::FromLoadError;
using testing::ElementsAre;
using testing::Pair;

std::string Details(const google::rpc::ErrorInfo& info) {
  google::rpc::Status status;
  status.add_details()->PackFrom(info);
  return status.SerializeAsString();
}

TEST(CallStatus, TakesErrorInfoFromTheStatusDetails) {
  google::rpc::ErrorInfo wire;
  wire.set_reason("MODEL_NOT_FOUND");
  wire.set_domain("keyload");
  (*wire.mutable_metadata())["model"] = "m";
  absl::Status status = FromGrpc(grpc::Status(grpc::StatusCode::NOT_FOUND, "no model m", Details(wire)));
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(status.message()), "no model m");
  ErrorInfo info = GetErrorInfo(status);
  EXPECT_EQ(info.reason, "MODEL_NOT_FOUND");
  EXPECT_EQ(info.domain, "keyload");
  EXPECT_THAT(info.metadata, ElementsAre(Pair("model", "m")));
}

TEST(CallStatus, TakesTheRetryDelayFromTheStatusDetails) {
  google::rpc::ErrorInfo info;
  info.set_reason("LOAD_QUEUE_FULL");
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(7);
  retry.mutable_retry_delay()->set_nanos(500'000'000);
  google::rpc::Status details;
  details.add_details()->PackFrom(info);
  details.add_details()->PackFrom(retry);
  const absl::Status status =
      FromGrpc(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full", details.SerializeAsString()));
  EXPECT_EQ(GetRetryDelay(status), absl::Milliseconds(7500));
  EXPECT_EQ(GetErrorInfo(status).reason, "LOAD_QUEUE_FULL");
}

TEST(CallStatus, TakesTheRetryDelayOfALoadErrorFromItsMetadata) {
  v1::LoadError error;
  error.set_code(8);
  EXPECT_EQ(GetRetryDelay(FromLoadError(error)), std::nullopt);
  (*error.mutable_metadata())["retry_delay_seconds"] = "soon";
  EXPECT_EQ(GetRetryDelay(FromLoadError(error)), std::nullopt);
  (*error.mutable_metadata())["retry_delay_seconds"] = "12";
  EXPECT_EQ(GetRetryDelay(FromLoadError(error)), absl::Seconds(12));
}

TEST(CallStatus, HasNoReasonWithoutDetails) {
  absl::Status status = FromGrpc(grpc::Status(grpc::StatusCode::UNAVAILABLE, "connection refused"));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(GetErrorInfo(status).reason, "");
}

TEST(CallStatus, KeepsTheCodeWhenTheDetailsAreGarbage) {
  absl::Status status = FromGrpc(grpc::Status(grpc::StatusCode::DATA_LOSS, "broken", "\xff\xff\xff"));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(GetErrorInfo(status).reason, "");
}

TEST(CallStatus, GivesALoadErrorTheSameShape) {
  v1::LoadError error;
  error.set_code(7);
  error.set_reason("PATH_NOT_ALLOWED");
  error.set_message("/etc: outside");
  (*error.mutable_metadata())["path"] = "/etc";
  absl::Status status = FromLoadError(error);
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(GetErrorInfo(status).reason, "PATH_NOT_ALLOWED");
  EXPECT_THAT(GetErrorInfo(status).metadata, ElementsAre(Pair("path", "/etc")));
}

TEST(CallStatus, NeverTurnsALoadErrorIntoOk) {
  EXPECT_EQ(FromLoadError(v1::LoadError()).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace keyload
