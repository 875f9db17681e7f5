#include "client/cli/json_message.h"

#include <cstdint>
#include <limits>
#include <string_view>

#include "absl/strings/numbers.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/util/json_util.h"
#include "simdjson.h"

namespace keyload::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using simdjson::dom::element;

// The functions below return false where the text is not of the plain kind, or does not fit.
bool FillMessage(const element& json, Message& message);

template <typename Integer>
bool ReadInteger(const element& json, Integer& value) {
  std::string_view digits;
  if (json.get(digits) == simdjson::SUCCESS) return absl::SimpleAtoi(std::string(digits), &value);
  return json.get(value) == simdjson::SUCCESS;
}

bool ReadFloat(const element& json, float& value) {
  double wide;
  if (json.get(wide) != simdjson::SUCCESS) return false;
  if (wide > std::numeric_limits<float>::max() || wide < std::numeric_limits<float>::lowest()) return false;
  value = static_cast<float>(wide);
  return true;
}

// Sets the field, or appends to it if it is a list.
bool PutValue(const element& json, Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  const bool list = field.is_repeated();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string_view text;
      if (field.type() != FieldDescriptor::TYPE_STRING || json.get(text) != simdjson::SUCCESS) return false;
      list ? reflection.AddString(&message, &field, std::string(text))
           : reflection.SetString(&message, &field, std::string(text));
      return true;
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t value;
      if (!ReadInteger(json, value)) return false;
      list ? reflection.AddUInt64(&message, &field, value) : reflection.SetUInt64(&message, &field, value);
      return true;
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t value;
      if (!ReadInteger(json, value)) return false;
      list ? reflection.AddInt64(&message, &field, value) : reflection.SetInt64(&message, &field, value);
      return true;
    }
    case FieldDescriptor::CPPTYPE_FLOAT: {
      float value;
      if (!ReadFloat(json, value)) return false;
      list ? reflection.AddFloat(&message, &field, value) : reflection.SetFloat(&message, &field, value);
      return true;
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      std::string_view name;
      if (json.get(name) != simdjson::SUCCESS) return false;
      const auto* value = field.enum_type()->FindValueByName(std::string(name));
      if (value == nullptr) return false;
      list ? reflection.AddEnum(&message, &field, value) : reflection.SetEnum(&message, &field, value);
      return true;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return !field.is_map() && FillMessage(json, list ? *reflection.AddMessage(&message, &field)
                                                       : *reflection.MutableMessage(&message, &field));
    default:
      return false;
  }
}

bool PutField(const element& json, Message& message, const FieldDescriptor& field) {
  if (!field.is_repeated()) return PutValue(json, message, field);
  simdjson::dom::array values;
  if (json.get(values) != simdjson::SUCCESS) return false;
  for (const element value : values) {
    if (!PutValue(value, message, field)) return false;
  }
  return true;
}

// As deep as the message type nests, which is bounded.
bool FillMessage(const element& json, Message& message) {
  simdjson::dom::object object;
  if (json.get(object) != simdjson::SUCCESS) return false;
  const auto& type = *message.GetDescriptor();
  for (const auto& [key, value] : object) {
    const std::string name(key);
    const FieldDescriptor* field = type.FindFieldByCamelcaseName(name);
    if (field == nullptr) field = type.FindFieldByName(name);
    if (field == nullptr || !PutField(value, message, *field)) return false;
  }
  return true;
}

}  // namespace

absl::Status ParseJsonMessage(const std::string& text, Message& message) {
  simdjson::dom::parser parser;
  element root;
  if (parser.parse(text).get(root) == simdjson::SUCCESS && FillMessage(root, message)) return absl::OkStatus();
  message.Clear();
  auto parsed = google::protobuf::util::JsonStringToMessage(text, &message);
  return parsed.ok() ? absl::OkStatus() : absl::InvalidArgumentError(parsed.message().ToString());
}

}  // namespace keyload::cli
