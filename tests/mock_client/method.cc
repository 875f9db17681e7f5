#include "tests/mock_client/method.h"

#include "absl/strings/str_cat.h"
#include "keyload/v1/model_loader.pb.h"
#include "tests/mock_client/call_error.h"
#include "tests/mock_client/expectation.h"

namespace keyload::mock {

using google::protobuf::Descriptor;
using google::protobuf::Message;
using google::protobuf::MessageFactory;
using google::protobuf::MethodDescriptor;

const MethodDescriptor* FindMethod(const std::string& name) {
  return v1::LoadSpec::descriptor()->file()->service(0)->FindMethodByName(name);
}

std::string PathOf(const MethodDescriptor& method) {
  return absl::StrCat("/", method.service()->full_name(), "/", method.name());
}

std::unique_ptr<Message> NewMessage(const Descriptor* type) {
  return std::unique_ptr<Message>(MessageFactory::generated_factory()->GetPrototype(type)->New());
}

absl::StatusOr<nlohmann::json> MessageJson(const std::string& bytes, const Descriptor* type) {
  const std::unique_ptr<Message> message = NewMessage(type);
  if (!message->ParseFromString(bytes)) return absl::InternalError("a response that does not parse");
  return ToJson(*message);
}

absl::StatusOr<nlohmann::json> ResultJson(const RpcResult& result, const Descriptor* type) {
  if (!result.status.ok()) return nlohmann::json{{"error", ErrorJson(result.status)}};
  // Parsing what lies one after the other is merging.
  std::string all;
  for (const std::string& bytes : result.messages) all += bytes;
  absl::StatusOr<nlohmann::json> merged = MessageJson(all, type);
  if (!merged.ok()) return merged.status();
  return nlohmann::json{{"response", *std::move(merged)}};
}

}  // namespace keyload::mock
