#include "server/rpc/strict_request.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <string>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

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

absl::Status MalformedRequest(std::string_view message) {
  return MakeError(Reason::kBadRequest, StrCat("the request is no valid ", message,
                                               ": its bytes are cut or broken, or a string is not UTF-8"));
}

absl::Status ParseRequest(grpc::ByteBuffer& bytes, Message& request) {
  const bool parsed = grpc::GenericDeserialize<grpc::ProtoBufferReader, Message>(&bytes, &request).ok();
  bytes.Clear();
  return parsed ? absl::OkStatus() : MalformedRequest(request.GetDescriptor()->full_name());
}

}  // namespace keyload
