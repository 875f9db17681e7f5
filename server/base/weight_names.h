#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"

namespace keyload {

inline constexpr std::string_view kSafetensorsSuffix = ".safetensors";
inline constexpr std::string_view kIndexFileSuffix = ".safetensors.index.json";

// What a file's name says about the set of weights that it belongs to, as hubs and trainers write them:
//
//   STEM.safetensors                        a set in one file
//   STEM-00001-of-00002.safetensors         a part of one; also STEM.safetensors-00001-of-00002.safetensors
//   STEM.safetensors.index.json             its index file
//
// A variant has its name behind a dot: STEM.fp16.safetensors, STEM.fp16-00001-of-00002.safetensors (once
// STEM-00001-of-00002.fp16.safetensors) and STEM.safetensors.index.fp16.json (or STEM.fp16.safetensors.index.json).
struct WeightName {
  enum class Form { kSingle, kPart, kIndex };
  Form form = Form::kSingle;
  std::string stem;  // that of a variant with it: "STEM.fp16"
};

// Nothing for a name that is none of these. Pure.
std::optional<WeightName> ParseWeightName(std::string_view name);

// Whether a name behind a dot can be that of a variant: letters, digits and "_", with a letter first that does not
// begin a version. "v0.9" and "v0.9.1" are two models, not a model and its variant "1".
bool IsVariantWord(std::string_view word);

// One set of weights of a directory, named by the file that stands for it: the index file, the only file, or the first
// of its parts where there is no index.
struct WeightSet {
  WeightName::Form form = WeightName::Form::kSingle;
  std::string stem;
  std::string file;
  size_t parts = 0;  // how many there are without an index
};

// The sets that `names`, sorted, are the files of; parts with an index of their stem belong to it. Sorted by file.
absl::StatusOr<std::vector<WeightSet>> SetsAmong(const std::vector<std::string>& names, const RequestContext& context);

// Those of `sets` that a load may start from without another word: no variants of another one of them, and no single
// files where there are index files. More than one are an ambiguity.
absl::StatusOr<std::vector<WeightSet>> SetsThatCount(const std::vector<WeightSet>& sets, const RequestContext& context);

}  // namespace keyload
