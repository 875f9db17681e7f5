#include "client/cli/json_output.h"

#include <cctype>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/time/time.h"
#include "client/cli/enum_words.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "keyload/client.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

bool IsMessage(const FieldDescriptor& field, const google::protobuf::Descriptor& type) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && field.message_type() == &type;
}

bool IsDuration(const FieldDescriptor& field) { return IsMessage(field, *google::protobuf::Duration::descriptor()); }

// "total_duration" is totalSeconds, "duration" is seconds, "start" is startSeconds, "ttl" is ttlSeconds.
std::string MemberName(const FieldDescriptor& field) {
  std::string name = field.json_name();
  if (!IsDuration(field)) return name;
  if (name == "duration") return "seconds";
  constexpr std::string_view kSuffix = "Duration";
  if (std::string_view(name).ends_with(kSuffix)) name.resize(name.size() - kSuffix.size());
  return name + "Seconds";
}

Json MessageValue(const Message& message) {
  if (const auto* duration = google::protobuf::DynamicCastToGenerated<google::protobuf::Duration>(&message)) {
    return static_cast<double>(duration->seconds()) + static_cast<double>(duration->nanos()) * 1e-9;
  }
  if (const auto* time = google::protobuf::DynamicCastToGenerated<google::protobuf::Timestamp>(&message)) {
    absl::Time instant = absl::FromUnixSeconds(time->seconds()) + absl::Nanoseconds(time->nanos());
    return absl::FormatTime("%Y-%m-%dT%H:%M:%E*SZ", instant, absl::UTCTimeZone());
  }
  return ToJson(message);
}

// One value of a field: element `index` of a repeated one, the value itself if `index` is negative.
Json FieldValue(const Message& message, const FieldDescriptor& field, int index) {
  const auto& reflection = *message.GetReflection();
  const bool one = index < 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return one ? reflection.GetInt32(message, &field) : reflection.GetRepeatedInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_INT64:
      return one ? reflection.GetInt64(message, &field) : reflection.GetRepeatedInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT32:
      return one ? reflection.GetUInt32(message, &field) : reflection.GetRepeatedUInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return one ? reflection.GetUInt64(message, &field) : reflection.GetRepeatedUInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return one ? reflection.GetFloat(message, &field) : reflection.GetRepeatedFloat(message, &field, index);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return one ? reflection.GetDouble(message, &field) : reflection.GetRepeatedDouble(message, &field, index);
    case FieldDescriptor::CPPTYPE_BOOL:
      return one ? reflection.GetBool(message, &field) : reflection.GetRepeatedBool(message, &field, index);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumWord(*field.enum_type(), one ? reflection.GetEnumValue(message, &field)
                                              : reflection.GetRepeatedEnumValue(message, &field, index));
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string scratch;
      const std::string& text = one ? reflection.GetStringReference(message, &field, &scratch)
                                    : reflection.GetRepeatedStringReference(message, &field, index, &scratch);
      return field.type() == FieldDescriptor::TYPE_BYTES ? absl::Base64Escape(text) : text;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageValue(one ? reflection.GetMessage(message, &field)
                              : reflection.GetRepeatedMessage(message, &field, index));
  }
  return nullptr;
}

Json MapValue(const Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  std::map<std::string, Json> sorted;  // a map has no order of its own
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    const Message& entry = reflection.GetRepeatedMessage(message, &field, i);
    sorted.emplace(FieldValue(entry, *field.message_type()->map_key(), -1).get<std::string>(),
                   FieldValue(entry, *field.message_type()->map_value(), -1));
  }
  Json object = Json::object();
  for (auto& [name, value] : sorted) AddMember(object, name, std::move(value));
  return object;
}

Json RepeatedValue(const Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  const int size = reflection.FieldSize(message, &field);
  if (IsMessage(field, *v1::MapEntry::descriptor())) {
    Json object = Json::object();
    for (int i = 0; i < size; ++i) {
      const auto& entry = static_cast<const v1::MapEntry&>(reflection.GetRepeatedMessage(message, &field, i));
      AddMember(object, entry.module(), entry.device());
    }
    return object;
  }
  Json list = Json::array();
  for (int i = 0; i < size; ++i) list.push_back(FieldValue(message, field, i));
  return list;
}

bool PrintedAsNull(const Message& message, const FieldDescriptor& field) {
  return field.has_presence() && !IsDuration(field) && !message.GetReflection()->HasField(message, &field);
}

}  // namespace

Json ToJson(const Message& message) {
  Json object = Json::object();
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    Json value;
    if (field.is_map()) {
      value = MapValue(message, field);
    } else if (field.is_repeated()) {
      value = RepeatedValue(message, field);
    } else if (!PrintedAsNull(message, field)) {
      value = FieldValue(message, field, -1);
    }
    AddMember(object, MemberName(field), std::move(value));
  }
  return object;
}

Json ErrorToJson(const absl::Status& status) {
  ErrorInfo info = GetErrorInfo(status);
  Json metadata = Json::object();
  for (auto& [name, value] : info.metadata) AddMember(metadata, name, value);
  return {{"error",
           {{"code", absl::StatusCodeToString(status.code())},
            {"reason", info.reason},
            {"message", std::string(status.message())},
            {"metadata", std::move(metadata)}}}};
}

void AddMember(Json& object, std::string name, Json value) {
  object.get_ref<Json::object_t&>().emplace_back(std::move(name), std::move(value));
}

std::string Dump(const Json& document) { return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

}  // namespace keyload::cli
