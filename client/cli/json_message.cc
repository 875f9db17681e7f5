#include "client/cli/json_message.h"

#include <bit>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>

#include "absl/strings/numbers.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/wire_format.h"
#include "simdjson.h"

namespace keyload::cli {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormat;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;
using simdjson::ondemand::value;

void AppendVarint(uint64_t number, std::string& out) {
  uint8_t bytes[10];
  const uint8_t* end = CodedOutputStream::WriteVarint64ToArray(number, bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(end - bytes));
}

// Puts the length of what follows `begin` in front of it.
void InsertLength(size_t begin, std::string& out) {
  std::string length;
  AppendVarint(out.size() - begin, length);
  out.insert(begin, length);
}

void AppendText(std::string_view text, std::string& out) {
  AppendVarint(text.size(), out);
  out += text;
}

// The functions below return false where the text is not of the plain kind, or does not fit.
bool AppendObject(value json, const Descriptor& type, std::string& out);

template <typename Integer>
bool ReadInteger(value json, Integer& number) {
  std::string_view digits;
  if (json.get(digits) == simdjson::SUCCESS) return absl::SimpleAtoi(std::string(digits), &number);
  return json.get(number) == simdjson::SUCCESS;
}

bool ReadFloat(value json, float& number) {
  double wide;
  if (json.get(wide) != simdjson::SUCCESS) return false;
  if (wide > std::numeric_limits<float>::max() || wide < std::numeric_limits<float>::lowest()) return false;
  number = static_cast<float>(wide);
  return true;
}

// A value without its tag.
bool AppendValue(value json, const FieldDescriptor& field, std::string& out) {
  switch (field.type()) {
    case FieldDescriptor::TYPE_STRING: {
      std::string_view text;
      if (json.get(text) != simdjson::SUCCESS) return false;
      AppendText(text, out);
      return true;
    }
    case FieldDescriptor::TYPE_UINT64: {
      uint64_t number;
      if (!ReadInteger(json, number)) return false;
      AppendVarint(number, out);
      return true;
    }
    case FieldDescriptor::TYPE_INT64: {
      int64_t number;
      if (!ReadInteger(json, number)) return false;
      AppendVarint(static_cast<uint64_t>(number), out);
      return true;
    }
    case FieldDescriptor::TYPE_FLOAT: {
      float number;
      if (!ReadFloat(json, number)) return false;
      uint8_t bytes[sizeof(float)];
      CodedOutputStream::WriteLittleEndian32ToArray(std::bit_cast<uint32_t>(number), bytes);
      out.append(reinterpret_cast<const char*>(bytes), sizeof(bytes));
      return true;
    }
    case FieldDescriptor::TYPE_ENUM: {
      std::string_view name;
      if (json.get(name) != simdjson::SUCCESS) return false;
      const auto& type = *field.enum_type();
      int i = 0;
      while (i < type.value_count() && type.value(i)->name() != name) ++i;
      if (i == type.value_count()) return false;
      AppendVarint(static_cast<uint64_t>(static_cast<int64_t>(type.value(i)->number())), out);
      return true;
    }
    case FieldDescriptor::TYPE_MESSAGE: {
      const size_t begin = out.size();
      if (field.is_map() || !AppendObject(json, *field.message_type(), out)) return false;
      InsertLength(begin, out);
      return true;
    }
    default:
      return false;
  }
}

bool AppendField(value json, const FieldDescriptor& field, std::string& out) {
  const auto tag = [&] { AppendVarint(WireFormat::MakeTag(&field), out); };
  if (!field.is_repeated()) return tag(), AppendValue(json, field, out);
  simdjson::ondemand::array values;
  if (json.get(values) != simdjson::SUCCESS) return false;
  if (field.is_packed()) tag();
  const size_t begin = out.size();
  for (auto element : values) {
    value item;
    if (std::move(element).get(item) != simdjson::SUCCESS) return false;
    if (!field.is_packed()) tag();
    if (!AppendValue(item, field, out)) return false;
  }
  if (field.is_packed()) InsertLength(begin, out);
  return true;
}

// A type has few fields: looking at each is quicker than hashing the name.
const FieldDescriptor* FindField(const Descriptor& type, std::string_view name) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.camelcase_name() == name || field.name() == name) return &field;
  }
  return nullptr;
}

template <typename Object>
bool AppendFields(Object& object, const Descriptor& type, std::string& out) {
  for (auto member : object) {
    std::string_view name;
    value json;
    if (member.unescaped_key().get(name) != simdjson::SUCCESS) return false;
    const FieldDescriptor* field = FindField(type, name);
    if (field == nullptr || member.value().get(json) != simdjson::SUCCESS) return false;
    if (!AppendField(json, *field, out)) return false;
  }
  return true;
}

// As deep as the message type nests, which is bounded.
bool AppendObject(value json, const Descriptor& type, std::string& out) {
  simdjson::ondemand::object object;
  return json.get(object) == simdjson::SUCCESS && AppendFields(object, type, out);
}

bool AppendDocument(std::string& text, const Descriptor& type, std::string& out) {
  text.reserve(text.size() + simdjson::SIMDJSON_PADDING);
  out.reserve(text.size());  // seldom longer; what is not written costs nothing
  simdjson::ondemand::parser parser;
  simdjson::ondemand::document document;
  simdjson::ondemand::object object;
  if (parser.iterate(text).get(document) != simdjson::SUCCESS) return false;
  if (document.get(object) != simdjson::SUCCESS) return false;
  // Only behind the last token there is no location.
  return AppendFields(object, type, out) && document.current_location().error() == simdjson::OUT_OF_BOUNDS;
}

}  // namespace

absl::StatusOr<std::string> JsonToBinary(std::string text, const google::protobuf::Message& prototype) {
  std::string binary;
  if (AppendDocument(text, *prototype.GetDescriptor(), binary)) return binary;
  std::unique_ptr<google::protobuf::Message> message(prototype.New());
  auto parsed = google::protobuf::util::JsonStringToMessage(text, message.get());
  if (!parsed.ok()) return absl::InvalidArgumentError(parsed.message().ToString());
  return message->SerializeAsString();
}

}  // namespace keyload::cli
