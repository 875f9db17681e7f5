#pragma once

#include <string>

#include "google/protobuf/repeated_ptr_field.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// Tables for people; each starts with an empty line, and is empty if there is nothing to show.
std::string DeviceUseText(const google::protobuf::RepeatedPtrField<v1::DeviceUse>& devices);
// The first twenty entries and the number of the others.
std::string DeviceMapText(const google::protobuf::RepeatedPtrField<v1::MapEntry>& map);

// The devices of a node and why others are absent.
std::string DevicesText(const v1::ListDevicesResponse& devices);

}  // namespace keyload::cli
