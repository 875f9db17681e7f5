#include "client/cli/dtype_words.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "server/base/strings.h"

namespace keyload::cli {

std::string DTypeFromWord(std::string_view word) {
  static constexpr std::pair<std::string_view, std::string_view> kWords[] = {
      {"f64", "F64"},     {"float64", "F64"}, {"fp64", "F64"},  {"double", "F64"},   {"f32", "F32"},
      {"float32", "F32"}, {"fp32", "F32"},    {"float", "F32"}, {"f16", "F16"},      {"float16", "F16"},
      {"fp16", "F16"},    {"half", "F16"},    {"bf16", "BF16"}, {"bfloat16", "BF16"}};
  const std::string lower = absl::AsciiStrToLower(absl::StripAsciiWhitespace(ToAbsl(word)));
  std::string_view name = lower;
  if (name.starts_with("torch.")) name.remove_prefix(6);
  for (const auto& [known, dtype] : kWords) {
    if (name == known) return std::string(dtype);
  }
  return std::string(word);
}

}  // namespace keyload::cli
