#include "attach/attach_table.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "attach/attach_table_checks.h"

namespace keyload {
namespace {

constexpr uint64_t kMostDevices = 65'536;

template <typename... T>
absl::Status Wrong(const T&... what) {
  return absl::InvalidArgumentError(absl::StrCat("attach table: ", what...));
}

template <typename T>
T ReadAt(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// The columns of a table by their ids, each inside of the table.
class Columns {
 public:
  explicit Columns(std::span<const std::byte> table) : table_(table) {}

  absl::Status Read(uint32_t count) {
    const uint64_t end = kAttachTableHeaderBytes + uint64_t{count} * kAttachColumnEntryBytes;
    if (count > kMostAttachColumns || end > table_.size()) return Wrong(count, " columns do not fit into it");
    for (uint32_t i = 0; i < count; ++i) {
      const size_t at = kAttachTableHeaderBytes + i * kAttachColumnEntryBytes;
      const Entry entry = {.id = ReadAt<uint32_t>(table_, at),
                           .element = ReadAt<uint32_t>(table_, at + 4),
                           .offset = ReadAt<uint64_t>(table_, at + 8),
                           .count = ReadAt<uint64_t>(table_, at + 16)};
      if (entry.offset % kAttachColumnAlignment != 0 || entry.element == 0 || entry.offset < end ||
          entry.offset > table_.size() || entry.count > (table_.size() - entry.offset) / entry.element)
        return Wrong("column ", entry.id, " is not inside of it");
      if (Find(entry.id) != nullptr) return Wrong("column ", entry.id, " is there twice");
      entries_.push_back(entry);
    }
    return absl::OkStatus();
  }

  bool Has(AttachColumn id) const { return Find(static_cast<uint32_t>(id)) != nullptr; }

  // The first that is absent, or of another size than it should be, is the status.
  template <typename T>
  std::span<const T> Get(AttachColumn id, uint64_t count, size_t elements_each = 1) {
    const Entry* const entry = Find(static_cast<uint32_t>(id));
    if (entry == nullptr || entry->element != sizeof(T) * elements_each || entry->count != count) {
      Fail(id);
      return {};
    }
    return {reinterpret_cast<const T*>(table_.data() + entry->offset), count * elements_each};
  }
  template <typename T>
  std::span<const T> GetAll(AttachColumn id) {
    const Entry* const entry = Find(static_cast<uint32_t>(id));
    return Get<T>(id, entry == nullptr ? 0 : entry->count);
  }
  // Strings that each end with a NUL.
  std::vector<std::string_view> GetStrings(AttachColumn id) {
    const auto bytes = GetAll<char>(id);
    const std::string_view text(bytes.data(), bytes.size());
    const auto count = static_cast<uint64_t>(std::count(text.begin(), text.end(), '\0'));
    if ((!text.empty() && text.back() != '\0') || count > kMostDevices) {
      Fail(id);
      return {};
    }
    std::vector<std::string_view> strings;
    strings.reserve(count);
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = text.find('\0', begin);
      strings.push_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
    return strings;
  }
  const absl::Status& status() const { return status_; }

 private:
  struct Entry {
    uint32_t id = 0;
    uint32_t element = 0;
    uint64_t offset = 0;
    uint64_t count = 0;
  };

  const Entry* Find(uint32_t id) const {  // of at most kMostAttachColumns
    const auto found =
        std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.id == id; });
    return found == entries_.end() ? nullptr : &*found;
  }
  void Fail(AttachColumn id) {
    if (status_.ok()) status_ = Wrong("column ", static_cast<uint32_t>(id), " is absent or has not the size it should");
  }

  const std::span<const std::byte> table_;
  std::vector<Entry> entries_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<AttachTable> AttachTable::Parse(std::span<const std::byte> bytes) {
  if (bytes.size() < kAttachTableHeaderBytes ||
      std::memcmp(bytes.data(), kAttachTableMagic, sizeof(kAttachTableMagic) - 1) != 0)
    return Wrong("it does not begin with KLTABLE1");
  if (ReadAt<uint32_t>(bytes, 8) != kAttachVersion || ReadAt<uint32_t>(bytes, 12) != kAttachTableHeaderBytes)
    return Wrong("its version is not 1: use a client of this server's version");
  const auto total = ReadAt<uint64_t>(bytes, 16);
  if (total > bytes.size() || total < kAttachTableHeaderBytes) return Wrong("it is cut off");
  if (total > kMostAttachTableBytes) return Wrong("it is larger than 1 GiB");
  AttachTable table;
  table.generation_ = ReadAt<uint64_t>(bytes, 24);
  const auto rows = ReadAt<uint32_t>(bytes, 32);
  const auto segments = ReadAt<uint32_t>(bytes, 36);
  Columns columns(bytes.first(total));
  if (absl::Status status = columns.Read(ReadAt<uint32_t>(bytes, 40)); !status.ok()) return status;

  table.name_end_ = columns.Get<uint32_t>(AttachColumn::kNameEnd, rows);
  const auto names = columns.GetAll<char>(AttachColumn::kNames);
  table.names_ = {names.data(), names.size()};
  table.dtype_ = columns.Get<uint16_t>(AttachColumn::kDType, rows);
  table.dtype_names_ = columns.GetStrings(AttachColumn::kDTypeNames);
  table.dtype_bits_ = columns.Get<uint16_t>(AttachColumn::kDTypeBits, table.dtype_names_.size());
  table.dtype_alignment_ = columns.Get<uint16_t>(AttachColumn::kDTypeAlignment, table.dtype_names_.size());
  table.dims_end_ = columns.Get<uint32_t>(AttachColumn::kDimsEnd, rows);
  table.dims_ = columns.GetAll<uint64_t>(AttachColumn::kDims);
  table.segment_ = columns.Get<uint32_t>(AttachColumn::kSegment, rows);
  table.offset_ = columns.Get<uint64_t>(AttachColumn::kOffset, rows);
  table.bytes_ = columns.Get<uint64_t>(AttachColumn::kBytes, rows);
  table.state_ = columns.Get<uint8_t>(AttachColumn::kState, rows);
  table.order_ = columns.Get<uint32_t>(AttachColumn::kOrder, rows);
  if (columns.Has(AttachColumn::kStrides))
    table.strides_ = columns.Get<int64_t>(AttachColumn::kStrides, table.dims_.size());
  if (columns.Has(AttachColumn::kChecksum))
    table.checksum_ = columns.Get<uint8_t>(AttachColumn::kChecksum, rows, kAttachChecksumBytes);
  table.segment_kind_ = columns.Get<uint8_t>(AttachColumn::kSegmentKind, segments);
  table.segment_bytes_ = columns.Get<uint64_t>(AttachColumn::kSegmentBytes, segments);
  table.segment_page_ = columns.Get<uint64_t>(AttachColumn::kSegmentPage, segments);
  table.segment_incarnation_ = columns.Get<uint32_t>(AttachColumn::kSegmentIncarnation, segments);
  table.segment_device_ = columns.Get<uint16_t>(AttachColumn::kSegmentDevice, segments);
  table.device_names_ = columns.GetStrings(AttachColumn::kDeviceNames);
  if (!columns.status().ok()) return columns.status();

  for (const auto check :
       {AttachTableChecks::CheckSegments, AttachTableChecks::CheckDTypes, AttachTableChecks::CheckRows}) {
    if (absl::Status status = check(table); !status.ok()) return status;
  }
  return table;
}

std::string_view AttachTable::key(uint32_t index) const {
  const uint32_t begin = index == 0 ? 0 : name_end_[index - 1];
  return names_.substr(begin, name_end_[index] - begin);
}

AttachRow AttachTable::row(uint32_t index) const {
  const uint32_t begin = index == 0 ? 0 : dims_end_[index - 1];
  const size_t rank = dims_end_[index] - begin;
  AttachRow row = {.key = key(index),
                   .dtype = dtype_names_[dtype_[index]],
                   .shape = dims_.subspan(begin, rank),
                   .segment = segment_[index],
                   .offset = offset_[index],
                   .bytes = bytes_[index],
                   .dtype_bits = dtype_bits_[dtype_[index]],
                   .state = state_[index],
                   .order = order_[index]};
  if (!strides_.empty()) row.strides = strides_.subspan(begin, rank);
  if (!checksum_.empty()) row.checksum = checksum_.subspan(index * kAttachChecksumBytes, kAttachChecksumBytes);
  return row;
}

AttachSegmentRow AttachTable::segment(uint32_t index) const {
  return {.kind = static_cast<AttachSegmentKind>(segment_kind_[index]),
          .bytes = segment_bytes_[index],
          .page = segment_page_[index],
          .incarnation = segment_incarnation_[index],
          .device = device_names_[segment_device_[index]]};
}

std::optional<uint32_t> AttachTable::Find(std::string_view wanted) const {
  uint32_t low = 0;
  for (uint32_t high = rows(); low < high;) {
    const uint32_t middle = low + (high - low) / 2;
    if (key(middle) < wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == rows() || key(low) != wanted) return std::nullopt;
  return low;
}

}  // namespace keyload
