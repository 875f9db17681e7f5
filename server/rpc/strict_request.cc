#include "server/rpc/strict_request.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/support/slice.h>

#include <string>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/rpc/parsed_bytes.h"

namespace keyload {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr std::string_view kTheRequest = "the request";
constexpr uint64_t kTablesOfRequest = 4;  // the message, two of what it is converted to, and tables of its names

absl::Status UnknownField(const Descriptor& message, int number) {
  return MakeError(Reason::kFieldNotSupported,
                   StrCat("field ", number, " of ", message.full_name(),
                          " is not known to this server; use a newer server, or leave it out"),
                   {{"number", StrCat(number)}, {"message", message.full_name()}});
}

}  // namespace

absl::Status CheckKnownFields(const Message& request) {
  const Reflection& reflection = *request.GetReflection();
  const Descriptor& descriptor = *request.GetDescriptor();
  const google::protobuf::UnknownFieldSet& unknown = reflection.GetUnknownFields(request);
  if (!unknown.empty()) return UnknownField(descriptor, unknown.field(0).number());
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor* const field = descriptor.field(i);
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE || field->is_map()) continue;  // entries are scalars
    if (!field->is_repeated()) {
      if (!reflection.HasField(request, field)) continue;
      KEYLOAD_RETURN_IF_ERROR(CheckKnownFields(reflection.GetMessage(request, field)));
      continue;
    }
    for (int n = reflection.FieldSize(request, field); n > 0; --n) {
      KEYLOAD_RETURN_IF_ERROR(CheckKnownFields(reflection.GetRepeatedMessage(request, field, n - 1)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<HeapCharge> ParseRequestInto(grpc::ByteBuffer& bytes, const std::shared_ptr<HeapAccount>& account,
                                            Message& request) {
  grpc::Slice wire;
  const bool whole = bytes.DumpToSingleSlice(&wire).ok();
  bytes.Clear();
  const std::string_view text(reinterpret_cast<const char*>(wire.begin()), wire.size());
  HeapCharge charge(account);
  const uint64_t needed = kTablesOfRequest * ParsedBytes(text, *request.GetDescriptor());
  KEYLOAD_RETURN_IF_ERROR(account->CheckForOne(needed, kTheRequest));
  KEYLOAD_RETURN_IF_ERROR(charge.Resize(needed, kTheRequest));
  if (whole && request.ParseFromArray(text.data(), static_cast<int>(text.size()))) return charge;
  return MakeError(Reason::kBadRequest, StrCat("the request is no valid ", request.GetDescriptor()->full_name(),
                                               ": its bytes are cut or broken, or a string is not UTF-8"));
}

}  // namespace keyload
