#include "server/base/byte_size.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

struct Unit {
  std::string_view suffix;
  uint64_t bytes;
};
constexpr std::array<Unit, 12> kUnits = {{{"kib", 1ull << 10},
                                          {"mib", 1ull << 20},
                                          {"gib", 1ull << 30},
                                          {"tib", 1ull << 40},
                                          {"ki", 1ull << 10},
                                          {"mi", 1ull << 20},
                                          {"gi", 1ull << 30},
                                          {"ti", 1ull << 40},
                                          {"kb", 1000},
                                          {"mb", 1000'000},
                                          {"gb", 1000'000'000},
                                          {"tb", 1000'000'000'000}}};

// A number and then letters: what is wrong is the unit.
bool HasUnknownUnit(std::string_view text) {
  const size_t unit = std::min(text.find_first_not_of("0123456789. "), text.size());
  return unit > 0 && unit < text.size() &&
         std::all_of(text.begin() + static_cast<ptrdiff_t>(unit), text.end(), absl::ascii_isalpha);
}

}  // namespace

absl::StatusOr<uint64_t> ParseByteSize(std::string_view text) {
  const auto error = [&] {
    std::string message = StrCat("\"", text, "\" is not a size such as 20GiB, 512MB or 4096");
    if (HasUnknownUnit(text)) message += "; units are KiB, MiB, GiB, TiB, or KB, MB, GB, TB for powers of 1000";
    return MakeError(Reason::kBadRequest, message);
  };
  const std::string lower = absl::AsciiStrToLower(absl::StripAsciiWhitespace(ToAbsl(text)));
  std::string_view number = lower;
  uint64_t unit = 1;
  for (const Unit& candidate : kUnits) {
    if (number.ends_with(candidate.suffix)) {
      number = ToStd(absl::StripAsciiWhitespace(ToAbsl(number.substr(0, number.size() - candidate.suffix.size()))));
      unit = candidate.bytes;
      break;
    }
  }
  if (number.empty() || number.find_first_not_of("0123456789.") != std::string_view::npos) return error();
  if (uint64_t whole; absl::SimpleAtoi(ToAbsl(number), &whole)) {
    if (whole > std::numeric_limits<uint64_t>::max() / unit) return error();
    return whole * unit;
  }
  double value;
  if (unit == 1 || !absl::SimpleAtod(ToAbsl(number), &value)) return error();
  value *= static_cast<double>(unit);
  if (!(value < 18446744073709551615.0)) return error();
  return static_cast<uint64_t>(value);
}

std::string FormatByteSize(uint64_t bytes) {
  if (bytes < 1024) return StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  static constexpr std::array<std::string_view, 6> kNames = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  size_t unit = 0;
  for (value /= 1024; value >= 1023.95 && unit + 1 < kNames.size(); ++unit) value /= 1024;
  return absl::StrFormat("%.1f %s", value, kNames[unit]);
}

}  // namespace keyload
