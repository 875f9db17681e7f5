#include "attach/attach_table_checks.h"

#include <bit>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"

namespace keyload {
namespace {

constexpr uint32_t kMostDTypeBits = 1024;
constexpr uint64_t kMostPageBytes = uint64_t{1} << 30;
constexpr uint64_t kMostSegmentBytes = uint64_t{1} << 60;  // rounding up to a page cannot overflow

absl::Status WrongRow(uint32_t row, const char* why) {
  return absl::InvalidArgumentError(absl::StrCat("attach table: row ", row, ": ", why));
}

// The product of the dimensions, nullopt on overflow. A 0 anywhere makes it 0 whatever the others are.
std::optional<uint64_t> CountElements(std::span<const uint64_t> shape) {
  uint64_t elements = 1;
  bool overflow = false;
  for (const uint64_t dim : shape) {
    if (dim == 0) return 0;
    overflow = __builtin_mul_overflow(elements, dim, &elements) || overflow;
  }
  if (overflow) return std::nullopt;
  return elements;
}

// How many elements lie between the first and the last, both counted, or nullopt: a negative stride or overflow.
// REQUIRES: no dimension is 0.
std::optional<uint64_t> Extent(std::span<const uint64_t> shape, std::span<const int64_t> strides) {
  uint64_t last = 0;
  for (size_t i = 0; i < shape.size(); ++i) {
    uint64_t step = 0;
    if (strides[i] < 0 || __builtin_mul_overflow(shape[i] - 1, static_cast<uint64_t>(strides[i]), &step) ||
        __builtin_add_overflow(last, step, &last))
      return std::nullopt;
  }
  if (last == std::numeric_limits<uint64_t>::max()) return std::nullopt;
  return last + 1;
}

// Why the bytes of a row are not those of its shape; null: they are.
const char* SizeProblem(const AttachRow& row) {
  const std::optional<uint64_t> elements = CountElements(row.shape);
  uint64_t all_bits = 0;
  if (!elements || __builtin_mul_overflow(*elements, uint64_t{row.dtype_bits}, &all_bits) || all_bits % 8 != 0 ||
      all_bits / 8 != row.bytes)
    return "its bytes are not those of its shape";
  if (row.strides.empty() || *elements == 0) return nullptr;
  const std::optional<uint64_t> extent = Extent(row.shape, row.strides);
  if (!extent || *extent > *elements) return "its strides lead out of its bytes";
  return nullptr;
}

const char* PlaceProblem(const AttachRow& row, std::span<const uint64_t> segment_bytes, uint64_t alignment) {
  if (row.segment == kNoAttachSegment) {
    if (row.offset != 0) return "it has an offset in no segment";
    return row.state == kAttachStateResident && row.bytes != 0 ? "it is resident in no segment" : nullptr;
  }
  if (row.state != kAttachStateResident) return "it lies in a segment and is not resident";
  if (row.segment >= segment_bytes.size()) return "its segment is not there";
  const uint64_t end = segment_bytes[row.segment];
  if (row.offset > end || row.bytes > end - row.offset) return "it reaches beyond its segment";
  if (row.offset % alignment != 0) return "its offset is not aligned";
  return nullptr;
}

}  // namespace

absl::Status AttachTableChecks::CheckSegments(const AttachTable& table) {
  const auto wrong = [](uint32_t segment, const char* why) {
    return absl::InvalidArgumentError(absl::StrCat("attach table: segment ", segment, ": ", why));
  };
  if (table.segments() >= kMostAttachDescriptors) return wrong(table.segments(), "a lease has at most 1,023 of them");
  for (uint32_t i = 0; i < table.segments(); ++i) {
    const uint8_t kind = table.segment_kind_[i];
    if (kind < static_cast<uint8_t>(AttachSegmentKind::kFile) ||
        kind > static_cast<uint8_t>(AttachSegmentKind::kCudaVmm))
      return wrong(i, "this version does not know its kind");
    if (table.segment_bytes_[i] > kMostSegmentBytes) return wrong(i, "it is too large");
    if (!std::has_single_bit(table.segment_page_[i]) || table.segment_page_[i] > kMostPageBytes)
      return wrong(i, "its page size is no power of two up to 1 GiB");
    if (table.segment_device_[i] >= table.device_names_.size()) return wrong(i, "its device has no name");
  }
  return absl::OkStatus();
}

absl::Status AttachTableChecks::CheckDTypes(const AttachTable& table) {
  for (size_t i = 0; i < table.dtype_names_.size(); ++i) {
    if (table.dtype_bits_[i] > kMostDTypeBits || !std::has_single_bit(table.dtype_alignment_[i]))
      return absl::InvalidArgumentError(absl::StrCat("attach table: dtype ", i, ": impossible bits or alignment"));
  }
  return absl::OkStatus();
}

absl::Status AttachTableChecks::CheckRows(const AttachTable& table) {
  std::vector<bool> seen(table.rows());  // places in the model's order
  uint32_t name_begin = 0;
  uint32_t dims_begin = 0;
  std::string_view before;
  for (uint32_t i = 0; i < table.rows(); ++i) {
    // The ends first: row() relies on them.
    const uint32_t name_end = table.name_end_[i];
    const uint32_t dims_end = table.dims_end_[i];
    if (name_end <= name_begin || name_end > table.names_.size() || name_end - name_begin > kMostAttachKeyBytes)
      return WrongRow(i, "its name is empty, too long or not among the names");
    if (dims_end < dims_begin || dims_end > table.dims_.size() || dims_end - dims_begin > kMostAttachRank)
      return WrongRow(i, "it has too many dimensions, or they are not there");
    if (table.dtype_[i] >= table.dtype_names_.size()) return WrongRow(i, "its dtype has no name");
    const AttachRow row = table.row(i);
    if (i > 0 && row.key <= before) return WrongRow(i, "its name does not come after the one before");
    if (row.order >= table.rows() || seen[row.order]) return WrongRow(i, "its place in the model's order is taken");
    seen[row.order] = true;
    if (const char* problem = SizeProblem(row)) return WrongRow(i, problem);
    if (const char* problem = PlaceProblem(row, table.segment_bytes_, table.dtype_alignment_[table.dtype_[i]]))
      return WrongRow(i, problem);
    before = row.key;
    name_begin = name_end;
    dims_begin = dims_end;
  }
  if (name_begin != table.names_.size() || dims_begin != table.dims_.size())
    return absl::InvalidArgumentError("attach table: names or dimensions belong to no row");
  return absl::OkStatus();
}

}  // namespace keyload
