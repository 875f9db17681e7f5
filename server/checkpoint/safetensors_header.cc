#include "server/checkpoint/safetensors_header.h"

#include <simdjson.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <span>
#include <tuple>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/error.h"
#include "server/checkpoint/json_checks.h"
#include "server/checkpoint/json_reader.h"
#include "server/checkpoint/metadata_aliases.h"

namespace keyload {
namespace {

namespace ondemand = simdjson::ondemand;

static_assert(JsonBuffer::kPadding >= simdjson::SIMDJSON_PADDING);

// A header entry is at least this long, in all headers that writers make; only a first guess for the table's size.
constexpr size_t kTypicalHeaderEntryBytes = 96;

enum EntryField : unsigned { kDTypeField = 1, kShapeField = 2, kOffsetsField = 4, kAllFields = 7 };

const char* FieldName(unsigned field) {
  return field == kDTypeField ? "dtype" : field == kShapeField ? "shape" : "data_offsets";
}

unsigned FieldNamed(std::string_view name) {
  for (unsigned field : {kDTypeField, kShapeField, kOffsetsField}) {
    if (name == FieldName(field)) return field;
  }
  return 0;
}

uint64_t SaturatingAdd(uint64_t a, uint64_t b) {
  return a > std::numeric_limits<uint64_t>::max() - b ? std::numeric_limits<uint64_t>::max() : a + b;
}

// One pass over one header; used once.
class HeaderParser {
 public:
  HeaderParser(const JsonBuffer& header, uint64_t file_size, std::string_view file, uint32_t shard,
               HeaderCharge* charge)
      : json_(header), file_size_(file_size), file_(file), shard_(shard), charge_(charge), reader_(header, charge) {
    result_.data_offset = kHeaderPrefixBytes + header.size();
  }

  absl::StatusOr<SafetensorsHeader> Parse();

 private:
  absl::Status ParseRoot(ondemand::document& document);
  absl::Status ParseMetadata(ondemand::value value);
  absl::Status ParseEntry(std::string_view key, ondemand::value value);
  absl::Status ParseField(unsigned field, ondemand::value value, unsigned& seen, StoredTensor& tensor);
  absl::Status ParseDTypeField(ondemand::value value, StoredTensor& tensor);
  absl::Status ParseShape(ondemand::value value, StoredTensor& tensor);
  absl::Status ParseOffsets(ondemand::value value, StoredTensor& tensor);
  absl::Status CheckSize(const StoredTensor& tensor) const;
  absl::Status StoreNames();
  void SortByOffset();
  absl::Status CheckNames();
  absl::Status CheckCoverage() const;
  absl::Status BadNeighbour(const StoredTensor& tensor, const StoredTensor* previous, uint64_t expected) const;
  absl::Status CheckFileSize(uint64_t data_end) const;

  absl::Status Corrupt(std::string_view problem, std::optional<uint64_t> offset) const;
  absl::Status BadJson(simdjson::error_code error) const;
  // Position in the file of `text`, which points into the header.
  uint64_t Position(const char* text) const { return kHeaderPrefixBytes + static_cast<uint64_t>(text - json_.data()); }

  const JsonBuffer& json_;
  const uint64_t file_size_;
  const std::string_view file_;
  const uint32_t shard_;
  HeaderCharge* const charge_;  // null: nothing is counted
  JsonReader reader_;
  SteppedCharge shapes_{charge_};  // of those that do not fit into a StoredTensor
  bool has_metadata_ = false;
  MetadataAliases aliases_;
  bool sorted_ = true;
  std::string_view key_;       // of the entry being read, for messages; empty outside entries
  uint64_t key_position_ = 0;  // in the file
  SafetensorsHeader result_;
};

absl::Status HeaderParser::Corrupt(std::string_view problem, std::optional<uint64_t> offset) const {
  ErrorMetadata metadata = {{"file", std::string(file_)}};
  std::string message(file_);
  if (key_.data() != nullptr) {
    metadata["key"] = Shortened(key_);
    absl::StrAppendFormat(&message, ": tensor \"%s\"", metadata["key"]);
  }
  absl::StrAppendFormat(&message, ": %s", problem);
  if (offset) {
    metadata["offset"] = std::to_string(*offset);
    absl::StrAppendFormat(&message, ", at byte %d", *offset);
  }
  return MakeError(Reason::kCheckpointCorrupt, message, metadata);
}

absl::Status HeaderParser::BadJson(simdjson::error_code error) const {
  if (error == simdjson::MEMALLOC) return reader_.NoMemory(file_);
  std::optional<uint64_t> position;
  if (key_.data() != nullptr) position = key_position_;
  return Corrupt(absl::StrFormat("the header is not valid: %s", simdjson::error_message(error)), position);
}

absl::StatusOr<SafetensorsHeader> HeaderParser::Parse() {
  KEYLOAD_RETURN_IF_ERROR(reader_.Prepare(file_));
  ondemand::document document;
  if (auto error = reader_.Begin(document)) return BadJson(error);
  KEYLOAD_RETURN_IF_ERROR(ParseRoot(document));
  result_.aliases = aliases_.Find(result_.tensors);
  KEYLOAD_RETURN_IF_ERROR(StoreNames());
  if (!sorted_) SortByOffset();
  if (absl::Status coverage = CheckCoverage(); !coverage.ok()) {
    // Two entries of one name usually overlap too, but then the name is what is wrong.
    KEYLOAD_RETURN_IF_ERROR(CheckNames());
    return coverage;
  }
  return std::move(result_);
}

absl::Status HeaderParser::ParseRoot(ondemand::document& document) {
  ondemand::object root;
  if (auto error = document.get_object().get(root)) return BadJson(error);
  KEYLOAD_RETURN_IF_ERROR(ReserveCounted(result_.tensors, json_.size() / kTypicalHeaderEntryBytes, charge_, file_));
  for (auto item : root) {
    key_ = {};
    ondemand::field field;
    if (auto error = std::move(item).get(field)) return BadJson(error);
    key_position_ = Position(field.key().raw()) - 1;
    std::string_view key;
    if (auto error = reader_.Unescape(field.key(), key)) return BadJson(error);
    KEYLOAD_RETURN_IF_ERROR(key == "__metadata__" ? ParseMetadata(field.value()) : ParseEntry(key, field.value()));
  }
  key_ = {};
  const char* rest;
  if (!document.current_location().get(rest)) return Corrupt("text follows the header's object", Position(rest));
  return absl::OkStatus();
}

absl::Status HeaderParser::ParseMetadata(ondemand::value value) {
  if (std::exchange(has_metadata_, true)) return Corrupt("__metadata__ comes twice", key_position_);
  bool is_null = false;
  if (!value.is_null().get(is_null) && is_null) return absl::OkStatus();
  ondemand::object object;
  if (value.get_object().get(object)) return Corrupt("__metadata__ is not an object", key_position_);
  for (auto item : object) {
    ondemand::field field;
    if (auto error = std::move(item).get(field)) return BadJson(error);
    const uint64_t position = Position(field.key().raw()) - 1;
    std::string_view name, text;
    if (auto error = reader_.Unescape(field.key(), name)) return BadJson(error);
    if (auto error = reader_.GetString(field.value(), text)) {
      if (error == simdjson::MEMALLOC) return BadJson(error);
      return Corrupt(absl::StrFormat("__metadata__ \"%s\" is not a string", Shortened(name)), position);
    }
    KEYLOAD_RETURN_IF_ERROR(aliases_.Add(name, text, charge_, file_));
  }
  return absl::OkStatus();
}

absl::Status HeaderParser::ParseEntry(std::string_view key, ondemand::value value) {
  if (const char* problem = KeyProblem(key)) return Corrupt(problem, key_position_);
  key_ = key;
  ondemand::object object;
  if (value.get_object().get(object)) return Corrupt("the entry is not an object", key_position_);
  if (result_.tensors.size() == result_.tensors.capacity()) {
    KEYLOAD_RETURN_IF_ERROR(ReserveCounted(result_.tensors, result_.tensors.size() + 1, charge_, file_));
  }
  StoredTensor& tensor = result_.tensors.emplace_back();
  tensor.name = key;
  tensor.shard = shard_;
  unsigned seen = 0;
  for (auto item : object) {
    ondemand::field field;
    if (auto error = std::move(item).get(field)) return BadJson(error);
    std::string_view name;
    if (auto error = reader_.Unescape(field.key(), name)) return BadJson(error);
    KEYLOAD_RETURN_IF_ERROR(ParseField(FieldNamed(name), field.value(), seen, tensor));
  }
  if (seen != kAllFields) {
    unsigned lacking = kDTypeField;
    while (seen & lacking) lacking <<= 1;
    return Corrupt(absl::StrFormat("the entry has no %s", FieldName(lacking)), key_position_);
  }
  KEYLOAD_RETURN_IF_ERROR(CheckSize(tensor));
  if (result_.tensors.size() > 1) {
    const StoredTensor& previous = *(&tensor - 1);
    sorted_ = sorted_ && std::tie(previous.offset, previous.bytes) <= std::tie(tensor.offset, tensor.bytes);
  }
  return absl::OkStatus();
}

absl::Status HeaderParser::ParseField(unsigned field, ondemand::value value, unsigned& seen, StoredTensor& tensor) {
  if (field == 0) {
    if (auto error = reader_.CheckedSkip(value)) return BadJson(error);
    return absl::OkStatus();
  }
  if (seen & field) return Corrupt(absl::StrFormat("%s comes twice", FieldName(field)), key_position_);
  seen |= field;
  if (field == kDTypeField) return ParseDTypeField(value, tensor);
  return field == kShapeField ? ParseShape(value, tensor) : ParseOffsets(value, tensor);
}

absl::Status HeaderParser::ParseDTypeField(ondemand::value value, StoredTensor& tensor) {
  std::string_view name;
  if (auto error = reader_.GetString(value, name)) {
    return error == simdjson::MEMALLOC ? BadJson(error) : Corrupt("dtype is not a string", key_position_);
  }
  const std::optional<DType> dtype = ParseDType(name);
  if (!dtype) return Corrupt(absl::StrFormat("unknown dtype \"%s\"", Shortened(name)), key_position_);
  tensor.dtype = *dtype;
  return absl::OkStatus();
}

absl::Status HeaderParser::ParseShape(ondemand::value value, StoredTensor& tensor) {
  ondemand::array array;
  if (value.get_array().get(array)) return Corrupt("shape is not an array", key_position_);
  Shape& shape = tensor.shape;
  for (auto item : array) {
    uint64_t dimension;
    if (std::move(item).get_uint64().get(dimension)) {
      return Corrupt("shape holds something that is not a whole number from 0 to 2^64-1", key_position_);
    }
    if (shape.size() == kMaxRank)
      return Corrupt(absl::StrFormat("shape has more than %d dimensions", kMaxRank), key_position_);
    if (shape.size() == shape.capacity()) {
      KEYLOAD_RETURN_IF_ERROR(shapes_.Add(2 * shape.capacity() * sizeof(dimension), file_));
    }
    shape.push_back(dimension);
  }
  return absl::OkStatus();
}

absl::Status HeaderParser::ParseOffsets(ondemand::value value, StoredTensor& tensor) {
  constexpr const char* kProblem = "data_offsets is not a pair of whole numbers from 0 to 2^64-1";
  ondemand::array array;
  if (value.get_array().get(array)) return Corrupt(kProblem, key_position_);
  uint64_t numbers[2] = {};
  size_t count = 0;
  for (auto item : array) {
    uint64_t number;
    if (count == 2 || std::move(item).get_uint64().get(number)) return Corrupt(kProblem, key_position_);
    numbers[count++] = number;
  }
  if (count != 2) return Corrupt(kProblem, key_position_);
  if (numbers[1] < numbers[0]) {
    return Corrupt(absl::StrFormat("data_offsets [%d, %d] end before they begin", numbers[0], numbers[1]),
                   key_position_);
  }
  tensor.offset = numbers[0];
  tensor.bytes = numbers[1] - numbers[0];
  return absl::OkStatus();
}

absl::Status HeaderParser::CheckSize(const StoredTensor& tensor) const {
  const TensorSize size = ComputeTensorSize(tensor.dtype, tensor.shape);
  if (!size.error && size.bytes == tensor.bytes) return absl::OkStatus();
  const auto shown = std::span(tensor.shape).first(std::min<size_t>(tensor.shape.size(), 8));
  const std::string shape = absl::StrFormat("%s [%s%s]", DTypeName(tensor.dtype), absl::StrJoin(shown, ", "),
                                            shown.size() < tensor.shape.size() ? ", ..." : "");
  if (size.error == TensorSizeError::kOverflow)
    return Corrupt(shape + " is larger than 64 bits can count", key_position_);
  if (size.error == TensorSizeError::kMisaligned) return Corrupt(shape + " does not fill whole bytes", key_position_);
  return Corrupt(absl::StrFormat("%s takes %d bytes, data_offsets span %d", shape, size.bytes, tensor.bytes),
                 key_position_);
}

absl::Status HeaderParser::StoreNames() {
  // The views point into the document until here.
  size_t bytes = 0;
  for (const StoredTensor& tensor : result_.tensors) bytes += tensor.name.size();
  if (charge_ != nullptr) KEYLOAD_RETURN_IF_ERROR(charge_->Add(bytes, file_));
  auto names = std::make_shared<std::string>();
  names->reserve(bytes);
  for (StoredTensor& tensor : result_.tensors) {
    const size_t begin = names->size();
    names->append(tensor.name);
    tensor.name = std::string_view(names->data() + begin, tensor.name.size());
  }
  result_.names = std::move(names);
  return absl::OkStatus();
}

// Where names are stored says what came first in the header: so the order is that of a stable sort, which would take
// heap that nobody counts.
void HeaderParser::SortByOffset() {
  const auto order = [](const StoredTensor& tensor) {
    return std::tuple(tensor.offset, tensor.bytes, tensor.name.data());
  };
  std::sort(result_.tensors.begin(), result_.tensors.end(),
            [&](const StoredTensor& a, const StoredTensor& b) { return order(a) < order(b); });
}

// Leaves the tensors in the order of their names.
absl::Status HeaderParser::CheckNames() {
  std::vector<StoredTensor>& tensors = result_.tensors;
  std::sort(tensors.begin(), tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(tensors.begin(), tensors.end(),
                                        [](const StoredTensor& a, const StoredTensor& b) { return a.name == b.name; });
  if (twice == tensors.end()) return absl::OkStatus();
  return MakeError(Reason::kCheckpointCorrupt,
                   absl::StrFormat("%s: tensor \"%s\" comes twice in the header", file_, Shortened(twice->name)),
                   {{"file", std::string(file_)}, {"key", Shortened(twice->name)}});
}

absl::Status HeaderParser::CheckCoverage() const {
  uint64_t end = 0;
  const StoredTensor* previous = nullptr;
  for (const StoredTensor& tensor : result_.tensors) {
    if (tensor.offset != end) return BadNeighbour(tensor, previous, end);
    end += tensor.bytes;
    previous = &tensor;
  }
  return CheckFileSize(end);
}

absl::Status HeaderParser::BadNeighbour(const StoredTensor& tensor, const StoredTensor* previous,
                                        uint64_t expected) const {
  const uint64_t position = SaturatingAdd(result_.data_offset, std::min(tensor.offset, expected));
  ErrorMetadata metadata = {
      {"file", std::string(file_)}, {"key", Shortened(tensor.name)}, {"offset", std::to_string(position)}};
  std::string problem;
  if (tensor.offset > expected) {
    problem = absl::StrFormat("%d bytes before it belong to no tensor", tensor.offset - expected);
  } else {
    problem = absl::StrFormat("it overlaps tensor \"%s\"", previous ? Shortened(previous->name) : "");
  }
  return MakeError(
      Reason::kCheckpointCorrupt,
      absl::StrFormat("%s: tensor \"%s\": %s, at byte %d", file_, Shortened(tensor.name), problem, position), metadata);
}

absl::Status HeaderParser::CheckFileSize(uint64_t data_end) const {
  const uint64_t data_size = file_size_ - result_.data_offset;
  if (data_end < data_size) {
    const uint64_t position = result_.data_offset + data_end;
    return MakeError(Reason::kCheckpointCorrupt,
                     absl::StrFormat("%s: %d bytes after the last tensor belong to none, at byte %d", file_,
                                     data_size - data_end, position),
                     {{"file", std::string(file_)}, {"offset", std::to_string(position)}});
  }
  if (data_end == data_size) return absl::OkStatus();
  const auto cut = std::find_if(result_.tensors.begin(), result_.tensors.end(), [&](const StoredTensor& tensor) {
    return tensor.bytes > data_size || tensor.offset > data_size - tensor.bytes;
  });
  return MakeError(
      Reason::kCheckpointTruncated,
      absl::StrFormat("%s: the file has %d bytes and lacks the last %d; tensor \"%s\" is the first that is not whole",
                      file_, file_size_, data_end - data_size, Shortened(cut->name)),
      {{"file", std::string(file_)},
       {"key", Shortened(cut->name)},
       {"offset", std::to_string(file_size_)},
       {"lacking_bytes", std::to_string(data_end - data_size)}});
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(const JsonBuffer& header, uint64_t file_size,
                                                         std::string_view file, uint32_t shard, HeaderCharge* charge) {
  HeaderParser parser(header, file_size, file, shard, charge);
  KEYLOAD_ASSIGN_OR_RETURN(SafetensorsHeader parsed, parser.Parse());
  for (StoredTensor& tensor : parsed.tensors) tensor.offset += parsed.data_offset;
  return parsed;
}

}  // namespace keyload
