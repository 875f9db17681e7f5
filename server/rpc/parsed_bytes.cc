#include "server/rpc/parsed_bytes.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/message.h>
#include <google/protobuf/wire_format_lite.h>

#include <string>

#include "absl/container/flat_hash_map.h"

namespace keyload {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::MessageFactory;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr int kMostLevels = 100;  // protobuf parses no more
constexpr uint64_t kGrowth = 2;   // arrays grow by doubling, the old one is there meanwhile
constexpr uint64_t kPointer = sizeof(void*);
constexpr uint64_t kAllocation = 16;  // what the allocator adds to a block
constexpr uint64_t kNumber = sizeof(uint64_t);

// A group is kept as fields that are not known, of which two bytes can make a set and a field.
constexpr uint64_t kGroupBytesPerByte = kGrowth * 32;

// Asked for each message inside a message, and making it out takes a lock and a walk over all fields.
uint64_t EmptyBytes(const Descriptor& type) {
  thread_local absl::flat_hash_map<const Descriptor*, uint64_t> known;
  if (const auto it = known.find(&type); it != known.end()) return it->second;
  const uint64_t bytes = MessageFactory::generated_factory()->GetPrototype(&type)->SpaceUsedLong() + kAllocation;
  known.emplace(&type, bytes);
  return bytes;
}

struct Counts {
  uint64_t bytes = 0;
  bool has_group = false;
};

// Adds up one message, whose bytes `in` is limited to. False: its encoding breaks.
// NOLINTNEXTLINE(misc-no-recursion): as deep as protobuf itself goes
bool AddFields(CodedInputStream& in, const Descriptor* type, int levels, Counts& counts) {
  while (const uint32_t tag = in.ReadTag()) {
    const int number = WireFormatLite::GetTagFieldNumber(tag);
    const FieldDescriptor* const field = type == nullptr ? nullptr : type->FindFieldByNumber(number);
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      counts.has_group |= WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_START_GROUP;
      counts.bytes += kGrowth * kNumber;
      if (!WireFormatLite::SkipField(&in, tag)) return false;
      continue;
    }
    uint32_t length = 0;
    if (!in.ReadVarint32(&length)) return false;
    if (field != nullptr && field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      counts.bytes += EmptyBytes(*field->message_type()) + kGrowth * kPointer;
      const CodedInputStream::Limit limit = in.PushLimit(static_cast<int>(length));
      if (levels == 0 || !AddFields(in, field->message_type(), levels - 1, counts) || in.BytesUntilLimit() != 0) {
        return false;
      }
      in.PopLimit(limit);
      continue;
    }
    // A string, or numbers one behind the other: at least a byte each.
    const bool packed = field != nullptr && field->is_packable();
    counts.bytes +=
        packed ? kGrowth * kNumber * length : sizeof(std::string) + kAllocation + kGrowth * kPointer + length;
    if (!in.Skip(static_cast<int>(length))) return false;
  }
  return true;
}

}  // namespace

uint64_t ParsedBytes(std::string_view wire, const Descriptor& type) {
  CodedInputStream in(reinterpret_cast<const uint8_t*>(wire.data()), static_cast<int>(wire.size()));
  Counts counts = {.bytes = EmptyBytes(type)};
  AddFields(in, &type, kMostLevels, counts);
  return counts.bytes + (counts.has_group ? kGroupBytesPerByte * wire.size() : 0);
}

}  // namespace keyload
