#include "server/tensor/convert.h"

#include <array>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/tensor/torch_plugin.h"

namespace keyload {

bool DTypeConversionAvailable() { return TorchPluginExists(); }

bool IsConvertible(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

absl::Status ConvertElements(std::span<const std::byte> source, DType from, std::span<std::byte> destination,
                             DType to) {
  if (!IsConvertible(from) || !IsConvertible(to)) {
    return MakeError(
        Reason::kDtypeNotSupported,
        absl::StrFormat("%s is not converted to %s: only F64, F32, F16 and BF16 are", DTypeName(from), DTypeName(to)));
  }
  const uint64_t from_size = DTypeBits(from) / 8;
  const uint64_t to_size = DTypeBits(to) / 8;
  const uint64_t elements = source.size() / from_size;
  if (source.size() % from_size != 0 || destination.size() % to_size != 0 || destination.size() / to_size != elements) {
    return MakeError(Reason::kInternal, absl::StrFormat("%d bytes of %s do not become %d bytes of %s", source.size(),
                                                        DTypeName(from), destination.size(), DTypeName(to)));
  }
  if (elements == 0) return absl::OkStatus();
  if (from == to) {
    std::memcpy(destination.data(), source.data(), source.size());
    return absl::OkStatus();
  }
  KEYLOAD_ASSIGN_OR_RETURN(const TorchConvertFunction convert, LoadTorchPlugin());
  std::array<char, 512> error = {};
  if (convert(source.data(), static_cast<int>(from), destination.data(), static_cast<int>(to), elements, error.data(),
              error.size()) != 0) {
    return MakeError(Reason::kInternal, absl::StrFormat("%s to %s: %s", DTypeName(from), DTypeName(to), error.data()));
  }
  return absl::OkStatus();
}

}  // namespace keyload
