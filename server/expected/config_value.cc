#include "server/expected/config_value.h"

#include <simdjson.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "server/base/error.h"
#include "server/base/file_kind.h"
#include "server/base/json_marks.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"

namespace keyload {
namespace {

namespace dom = simdjson::dom;

constexpr int kMaxConfigDepth = 64;
constexpr size_t kWholeDigits = 20;          // as many need more than 64 bits, but for a few numbers
constexpr size_t kNegativeWholeDigits = 19;  // the same behind a minus

// Where the string that begins at `quote` ends.
size_t StringEnd(std::string_view text, size_t quote) {
  size_t at = quote + 1;
  while (at < text.size() && text[at] != '"') at += text[at] == '\\' ? 2 : 1;
  return std::min(at + 1, text.size());
}

// `text` with what Python writes and JSON has not in its words: NaN is null, Infinity the largest power of ten, and
// whole numbers of any length have a fraction.
std::string InJson(std::string_view text) {
  constexpr std::string_view kNaN = "NaN", kInfinity = "Infinity";
  std::string json;
  json.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char before = json.empty() ? ' ' : json.back();
    const std::string_view rest = text.substr(at);
    size_t length = 1;
    if (text[at] == '"') {
      length = StringEnd(text, at) - at;
      json += rest.substr(0, length);
    } else if (absl::ascii_isalnum(before) || before == '.' || before == '+') {
      json += text[at];
    } else if (rest.starts_with(kNaN)) {
      length = kNaN.size();
      json += before == '-' ? "NaN" : "null";
    } else if (rest.starts_with(kInfinity)) {
      length = kInfinity.size();
      json += "1e308";
    } else {
      const size_t digits = std::min(rest.find_first_not_of("0123456789"), rest.size());
      const bool whole = digits == rest.size() || std::string_view(".eE").find(rest[digits]) == std::string_view::npos;
      length = std::max<size_t>(digits, 1);
      json += rest.substr(0, length);
      if (whole && digits >= (before == '-' ? kNegativeWholeDigits : kWholeDigits)) json += ".0";
    }
    at += length;
  }
  return json;
}

class Converter {
 public:
  explicit Converter(std::string_view file) : file_(file) {}

  absl::StatusOr<ConfigValue> Convert(const dom::element& element, int depth) {
    if (depth > kMaxConfigDepth) return Invalid(StrCat("values are nested deeper than ", kMaxConfigDepth));
    dom::array array;
    if (!element.get_array().get(array)) return ConvertList(array, depth);
    dom::object object;
    if (!element.get_object().get(object)) return ConvertObject(object, depth);
    ConfigValue value;
    std::string_view text;
    bool truth = false;
    int64_t integer = 0;
    double real = 0;
    if (!element.get_string().get(text)) {
      value.data = std::string(text);
    } else if (!element.get_bool().get(truth)) {
      value.data = int64_t{truth};
    } else if (element.type() == dom::element_type::INT64 && !element.get_int64().get(integer)) {
      value.data = integer;
    } else if (!element.get_double().get(real)) {  // numbers from 2^63 too
      value.data = real;
    }
    return value;
  }

  absl::Status Invalid(std::string_view problem) const {
    return MakeError(Reason::kConfigInvalid, StrCat(file_, ": ", problem), {{"file", std::string(file_)}});
  }

 private:
  absl::StatusOr<ConfigValue> ConvertList(const dom::array& array, int depth) {
    ConfigValue::List list;
    for (const dom::element& element : array) {
      KEYLOAD_ASSIGN_OR_RETURN(ConfigValue value, Convert(element, depth + 1));
      list.push_back(std::move(value));
    }
    return ConfigValue{std::move(list)};
  }

  absl::StatusOr<ConfigValue> ConvertObject(const dom::object& object, int depth) {
    ConfigValue::Object members;
    for (const dom::key_value_pair& member : object) {
      KEYLOAD_ASSIGN_OR_RETURN(ConfigValue value, Convert(member.value, depth + 1));
      members.emplace_back(member.key, std::move(value));
    }
    const auto by_name = [](const auto& a, const auto& b) { return a.first < b.first; };
    std::sort(members.begin(), members.end(), by_name);
    const auto same_name = [](const auto& a, const auto& b) { return a.first == b.first; };
    if (const auto twice = std::adjacent_find(members.begin(), members.end(), same_name); twice != members.end())
      return Invalid(StrCat("\"", Shortened(twice->first), "\" comes twice"));
    return ConfigValue{std::move(members)};
  }

  const std::string_view file_;
};

}  // namespace

ConfigValue::ConfigValue() = default;
ConfigValue::ConfigValue(Data value) : data(std::move(value)) {}
ConfigValue::ConfigValue(const ConfigValue& other) = default;
ConfigValue::ConfigValue(ConfigValue&& other) noexcept = default;
ConfigValue& ConfigValue::operator=(const ConfigValue& other) = default;
ConfigValue& ConfigValue::operator=(ConfigValue&& other) noexcept = default;
ConfigValue::~ConfigValue() = default;

const ConfigValue* ConfigValue::Find(std::string_view name) const {
  const Object* members = object();
  if (members == nullptr) return nullptr;
  const auto found =
      std::lower_bound(members->begin(), members->end(), name,
                       [](const auto& member, std::string_view wanted) { return member.first < wanted; });
  return found != members->end() && found->first == name ? &found->second : nullptr;
}

uint64_t ConfigParseBytes(std::string_view text) {
  // The text, the one in other words, and simdjson's copy, strings, marks and tape of that.
  constexpr uint64_t kPerByte = 16;
  constexpr uint64_t kPerValue = 3 * sizeof(ConfigValue::Object::value_type);  // lists grow by doubling
  return kPerByte * text.size() + kPerValue * CountJsonMarks(text).values;
}

absl::StatusOr<ConfigValue> ParseConfigJson(std::string_view text, std::string_view file) {
  Converter converter(file);
  text = WithoutByteOrderMark(text);
  const std::string json = InJson(text);
  dom::parser parser(2 * kMaxConfigBytes);  // what is put in other words may become longer
  dom::element root;
  const auto error = parser.parse(json.data(), json.size()).get(root);
  const bool may_be_config = !error && (!root.is_object() || !root["model_type"].error());
  if (const auto kind = may_be_config ? std::nullopt : RecognizeInsteadOfJson(text, text.size()))
    return WrongKind(Reason::kConfigInvalid, file, *kind);
  if (error) return converter.Invalid(StrCat("not valid JSON: ", simdjson::error_message(error)));
  if (!root.is_object()) return converter.Invalid("the document is not an object");
  return converter.Convert(root, 0);
}

}  // namespace keyload
