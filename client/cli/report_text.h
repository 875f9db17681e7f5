#pragma once

#include <cstdint>
#include <string>

#include "google/protobuf/repeated_field.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

struct TextStyle {
  bool colour = false;  // ANSI colours; only for a terminal
};

// A report for people: outcome, keys, bytes, time, devices, the head of the device map, phases, the first ten names of
// each list with the command that prints the rest, warnings. Ends with a newline.
std::string ReportText(const v1::LoadReport& report, const TextStyle& style);

// "[30522, 384]"; "[]" for a scalar.
std::string ShapeText(const google::protobuf::RepeatedField<uint64_t>& shape);

}  // namespace keyload::cli
