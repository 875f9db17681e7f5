#pragma once

#include <google/protobuf/descriptor.h>

#include <cstdint>
#include <string_view>

namespace keyload {

// The memory that the message in `wire` takes once it is parsed, from its encoding alone: two bytes can become a
// message of a hundred. What is not a valid encoding counts up to where it breaks, as parsing ends there too.
uint64_t ParsedBytes(std::string_view wire, const google::protobuf::Descriptor& type);

}  // namespace keyload
