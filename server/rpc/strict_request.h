#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/heap_account.h"
#include "server/rpc/request_ptr.h"

namespace keyload {

// The contract says that what a server does not support is refused by name and never ignored. protobuf keeps fields
// that it does not know aside and says nothing, so every request is walked for them.

// FIELD_NOT_SUPPORTED with the number of the first unknown field and the message that it stands in, at any depth.
absl::Status CheckKnownFields(const google::protobuf::Message& request);

// Parses `bytes`, which are empty afterwards, into `request`; returns the charge for the memory that it takes, for what
// it is converted to and for tables of its names, at most half of the account. MEMORY_EXHAUSTED before anything is
// taken. BAD_REQUEST: bytes that are no such message, or have a string that is not UTF-8.
absl::StatusOr<HeapCharge> ParseRequestInto(grpc::ByteBuffer& bytes, const std::shared_ptr<HeapAccount>& account,
                                            google::protobuf::Message& request);

// The same as a request that holds its charge.
template <typename Request>
absl::StatusOr<RequestPtr<Request>> ParseRequest(grpc::ByteBuffer& bytes, const std::shared_ptr<HeapAccount>& account) {
  auto request = std::make_shared<Request>();
  absl::StatusOr<HeapCharge> charge = ParseRequestInto(bytes, account, *request);
  if (!charge.ok()) return charge.status();
  return WithCharge<Request>(std::move(request), *std::move(charge));
}

}  // namespace keyload
