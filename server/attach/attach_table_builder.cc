#include "server/attach/attach_table_builder.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/base/error.h"
#include "server/base/rounding.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr uint64_t kRowsPerCheck = 1024;
constexpr uint64_t kHeapPerRow = 2 * sizeof(uint32_t);

absl::Status NoRoom(const char* call, int error) {
  return MakeError(Reason::kMemoryExhausted, StrCat("the table for a lease: ", call, ": ", std::strerror(error),
                                                    "; try again when there is room"));
}

// Gives each name the number of its first use, and keeps the names in that order, each ended by a NUL.
class NameList {
 public:
  // 65,535 names at most; more get the last number, and the table is refused by its own checks.
  uint16_t Add(absl::string_view name) {
    const auto [found, added] =
        numbers_.try_emplace(name, static_cast<uint16_t>(std::min<size_t>(numbers_.size(), 65'535)));
    if (added) {
      names_.append(name.data(), name.size());
      names_.push_back('\0');
    }
    return found->second;
  }
  const std::string& names() const { return names_; }
  size_t size() const { return numbers_.size(); }

 private:
  absl::flat_hash_map<absl::string_view, uint16_t> numbers_;
  std::string names_;
};

// A memfd that is mapped for writing and has all of its pages.
class WritableMemfd {
 public:
  WritableMemfd() = default;
  ~WritableMemfd() { Unmap(); }
  WritableMemfd(const WritableMemfd&) = delete;

  absl::Status Make(uint64_t bytes) {
    fd_ = UniqueFd(memfd_create("keyload-table", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd_) return NoRoom("memfd_create", errno);
    // Under a control group's limit this fails where touching pages would kill.
    int error = 0;
    while ((error = posix_fallocate(fd_.get(), 0, static_cast<off_t>(bytes))) == EINTR) {
    }
    if (error != 0) return NoRoom("fallocate", error);
    void* const address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (address == MAP_FAILED) return NoRoom("mmap", errno);
    bytes_ = {static_cast<std::byte*>(address), bytes};
    return absl::OkStatus();
  }
  std::span<std::byte> bytes() const { return bytes_; }
  UniqueFd UnmapAndTake() {
    Unmap();
    return std::move(fd_);
  }

 private:
  void Unmap() {
    if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
    bytes_ = {};
  }

  UniqueFd fd_;
  std::span<std::byte> bytes_;
};

// Where each column of a table lies; first planned, then written.
class TableLayout {
 public:
  void Add(AttachColumn id, uint32_t element_bytes, uint64_t count) {
    columns_.push_back({.id = id, .element = element_bytes, .count = count});
  }
  // To be called when all columns are there; the table's bytes.
  uint64_t Place() {
    uint64_t end = kAttachTableHeaderBytes + columns_.size() * kAttachColumnEntryBytes;
    for (Column& column : columns_) {
      column.offset = RoundUp(end, kAttachColumnAlignment);
      end = column.offset + column.element * column.count;
    }
    return total_ = end;
  }
  void WriteHeader(std::span<std::byte> table, uint64_t generation, uint32_t rows, uint32_t segments) const {
    std::memcpy(table.data(), kAttachTableMagic, sizeof(kAttachTableMagic) - 1);
    Put<uint32_t>(table, 8, kAttachVersion);
    Put<uint32_t>(table, 12, kAttachTableHeaderBytes);
    Put<uint64_t>(table, 16, total_);
    Put<uint64_t>(table, 24, generation);
    Put<uint32_t>(table, 32, rows);
    Put<uint32_t>(table, 36, segments);
    Put<uint32_t>(table, 40, static_cast<uint32_t>(columns_.size()));
    size_t at = kAttachTableHeaderBytes;
    for (const Column& column : columns_) {
      Put<uint32_t>(table, at, static_cast<uint32_t>(column.id));
      Put<uint32_t>(table, at + 4, column.element);
      Put<uint64_t>(table, at + 8, column.offset);
      Put<uint64_t>(table, at + 16, column.count);
      at += kAttachColumnEntryBytes;
    }
  }
  // REQUIRES: the column was added.
  template <typename T>
  T* Begin(std::span<std::byte> table, AttachColumn id) const {
    const auto column = std::find_if(columns_.begin(), columns_.end(), [&](const Column& one) { return one.id == id; });
    return reinterpret_cast<T*>(table.data() + column->offset);
  }

 private:
  struct Column {
    AttachColumn id = AttachColumn::kNames;
    uint32_t element = 0;
    uint64_t count = 0;
    uint64_t offset = 0;
  };

  template <typename T>
  static void Put(std::span<std::byte> table, size_t at, T value) {
    std::memcpy(table.data() + at, &value, sizeof(T));
  }

  std::vector<Column> columns_;
  uint64_t total_ = 0;
};

// One table: what it needs, found in one pass over the rows, and its columns.
class TableBuilder {
 public:
  TableBuilder(std::span<const AttachTableRow> rows, std::span<const AttachSegmentRow> segments,
               const RequestContext& context)
      : rows_(rows), segments_(segments), context_(context) {}

  absl::StatusOr<SealedMemory> Build(uint64_t generation) {
    KEYLOAD_RETURN_IF_ERROR(Count());
    KEYLOAD_RETURN_IF_ERROR(Sort());
    KEYLOAD_RETURN_IF_ERROR(memory_.Make(Plan()));
    layout_.WriteHeader(memory_.bytes(), generation, static_cast<uint32_t>(rows_.size()),
                        static_cast<uint32_t>(segments_.size()));
    KEYLOAD_RETURN_IF_ERROR(WriteRows());
    WriteSegments();
    // What a client would refuse is a defect of this process, and better noticed here.
    if (const auto table = AttachTable::Parse(memory_.bytes()); !table.ok())
      return MakeError(Reason::kInternal, ToStd(table.status().message()));
    absl::StatusOr<SealedMemory> sealed = SealedMemory::Seal(memory_.UnmapAndTake(), SealedMemory::Protection::kFinal);
    if (!sealed.ok()) {
      const bool full = absl::IsResourceExhausted(sealed.status());
      return MakeError(full ? Reason::kMemoryExhausted : Reason::kInternal, ToStd(sealed.status().message()));
    }
    return sealed;
  }

 private:
  absl::Status Count() {
    KEYLOAD_RETURN_IF_ERROR(context_.TakeHeap(rows_.size() * kHeapPerRow, "the table of a lease"));
    dtypes_.reserve(rows_.size());
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (i % kRowsPerCheck == 0) KEYLOAD_RETURN_IF_ERROR(context_.Check());
      const AttachTableRow& row = rows_[i];
      name_bytes_ += row.key.size();
      dims_ += row.shape.size();
      strides_ = strides_ || !row.strides.empty();
      checksums_ = checksums_ || row.checksum.has_value();
      const uint16_t dtype = dtype_names_.Add(ToAbsl(row.dtype.name));
      if (dtype == dtype_values_.size()) dtype_values_.push_back(row.dtype);
      dtypes_.push_back(dtype);
    }
    for (const AttachSegmentRow& segment : segments_) devices_.push_back(device_names_.Add(ToAbsl(segment.device)));
    constexpr uint64_t kMost = std::numeric_limits<uint32_t>::max();  // of what the columns of ends can say
    if (rows_.size() >= kMost || name_bytes_ >= kMost || dims_ >= kMost)
      return MakeError(Reason::kMemoryExhausted, "the names of the keys do not fit into one table: lease fewer keys");
    return absl::OkStatus();
  }

  absl::Status Sort() {
    sorted_.resize(rows_.size());
    std::iota(sorted_.begin(), sorted_.end(), 0);
    // std::sort has no way out in between; of the most names that are accepted it takes tens of milliseconds.
    std::sort(sorted_.begin(), sorted_.end(), [&](uint32_t a, uint32_t b) { return rows_[a].key < rows_[b].key; });
    return context_.Check();
  }

  uint64_t Plan() {
    const uint64_t rows = rows_.size();
    layout_.Add(AttachColumn::kNameEnd, sizeof(uint32_t), rows);
    layout_.Add(AttachColumn::kNames, 1, name_bytes_);
    layout_.Add(AttachColumn::kDType, sizeof(uint16_t), rows);
    layout_.Add(AttachColumn::kDTypeNames, 1, dtype_names_.names().size());
    layout_.Add(AttachColumn::kDTypeBits, sizeof(uint16_t), dtype_values_.size());
    layout_.Add(AttachColumn::kDTypeAlignment, sizeof(uint16_t), dtype_values_.size());
    layout_.Add(AttachColumn::kDimsEnd, sizeof(uint32_t), rows);
    layout_.Add(AttachColumn::kDims, sizeof(uint64_t), dims_);
    if (strides_) layout_.Add(AttachColumn::kStrides, sizeof(int64_t), dims_);
    layout_.Add(AttachColumn::kSegment, sizeof(uint32_t), rows);
    layout_.Add(AttachColumn::kOffset, sizeof(uint64_t), rows);
    layout_.Add(AttachColumn::kBytes, sizeof(uint64_t), rows);
    layout_.Add(AttachColumn::kState, sizeof(uint8_t), rows);
    layout_.Add(AttachColumn::kOrder, sizeof(uint32_t), rows);
    if (checksums_) layout_.Add(AttachColumn::kChecksum, kAttachChecksumBytes, rows);
    layout_.Add(AttachColumn::kSegmentKind, sizeof(uint8_t), segments_.size());
    layout_.Add(AttachColumn::kSegmentBytes, sizeof(uint64_t), segments_.size());
    layout_.Add(AttachColumn::kSegmentPage, sizeof(uint64_t), segments_.size());
    layout_.Add(AttachColumn::kSegmentIncarnation, sizeof(uint32_t), segments_.size());
    layout_.Add(AttachColumn::kSegmentDevice, sizeof(uint16_t), segments_.size());
    layout_.Add(AttachColumn::kDeviceNames, 1, device_names_.names().size());
    return layout_.Place();
  }

  template <typename T>
  T* Column(AttachColumn id) const {
    return layout_.Begin<T>(memory_.bytes(), id);
  }

  absl::Status WriteRows() {
    auto* const name_end = Column<uint32_t>(AttachColumn::kNameEnd);
    auto* const names = Column<char>(AttachColumn::kNames);
    auto* const dtype = Column<uint16_t>(AttachColumn::kDType);
    auto* const dims_end = Column<uint32_t>(AttachColumn::kDimsEnd);
    auto* const dims = Column<uint64_t>(AttachColumn::kDims);
    auto* const strides = strides_ ? Column<int64_t>(AttachColumn::kStrides) : nullptr;
    auto* const segment = Column<uint32_t>(AttachColumn::kSegment);
    auto* const offset = Column<uint64_t>(AttachColumn::kOffset);
    auto* const bytes = Column<uint64_t>(AttachColumn::kBytes);
    auto* const state = Column<uint8_t>(AttachColumn::kState);
    auto* const order = Column<uint32_t>(AttachColumn::kOrder);
    auto* const checksum = checksums_ ? Column<uint8_t>(AttachColumn::kChecksum) : nullptr;
    uint32_t name_bytes = 0;
    uint32_t dim_count = 0;
    for (size_t i = 0; i < sorted_.size(); ++i) {
      if (i % kRowsPerCheck == 0) KEYLOAD_RETURN_IF_ERROR(context_.Check());
      const AttachTableRow& row = rows_[sorted_[i]];
      std::copy(row.key.begin(), row.key.end(), names + name_bytes);
      name_end[i] = name_bytes += static_cast<uint32_t>(row.key.size());
      dtype[i] = dtypes_[sorted_[i]];
      std::copy(row.shape.begin(), row.shape.end(), dims + dim_count);
      if (strides != nullptr) {
        if (row.strides.size() != row.shape.size())
          return MakeError(Reason::kInternal, StrCat(row.key, ": a table has strides of all keys or of none"));
        std::copy(row.strides.begin(), row.strides.end(), strides + dim_count);
      }
      dims_end[i] = dim_count += static_cast<uint32_t>(row.shape.size());
      segment[i] = row.segment;
      offset[i] = row.offset;
      bytes[i] = row.bytes;
      state[i] = row.state;
      order[i] = sorted_[i];
      if (row.checksum) std::copy(row.checksum->begin(), row.checksum->end(), checksum + i * kAttachChecksumBytes);
    }
    std::copy(dtype_names_.names().begin(), dtype_names_.names().end(), Column<char>(AttachColumn::kDTypeNames));
    auto* const dtype_bits = Column<uint16_t>(AttachColumn::kDTypeBits);
    auto* const dtype_alignment = Column<uint16_t>(AttachColumn::kDTypeAlignment);
    for (size_t i = 0; i < dtype_values_.size(); ++i) {
      dtype_bits[i] = dtype_values_[i].bits;
      dtype_alignment[i] = dtype_values_[i].alignment;
    }
    return absl::OkStatus();
  }

  void WriteSegments() {
    auto* const kind = Column<uint8_t>(AttachColumn::kSegmentKind);
    auto* const bytes = Column<uint64_t>(AttachColumn::kSegmentBytes);
    auto* const page = Column<uint64_t>(AttachColumn::kSegmentPage);
    auto* const incarnation = Column<uint32_t>(AttachColumn::kSegmentIncarnation);
    auto* const device = Column<uint16_t>(AttachColumn::kSegmentDevice);
    for (size_t i = 0; i < segments_.size(); ++i) {
      kind[i] = static_cast<uint8_t>(segments_[i].kind);
      bytes[i] = segments_[i].bytes;
      page[i] = segments_[i].page;
      incarnation[i] = segments_[i].incarnation;
      device[i] = devices_[i];
    }
    std::copy(device_names_.names().begin(), device_names_.names().end(), Column<char>(AttachColumn::kDeviceNames));
  }

  const std::span<const AttachTableRow> rows_;
  const std::span<const AttachSegmentRow> segments_;
  const RequestContext& context_;

  uint64_t name_bytes_ = 0;
  uint64_t dims_ = 0;
  bool strides_ = false;
  bool checksums_ = false;
  NameList dtype_names_;
  std::vector<AttachDType> dtype_values_;  // by number
  std::vector<uint16_t> dtypes_;           // by row
  NameList device_names_;
  std::vector<uint16_t> devices_;  // by segment
  std::vector<uint32_t> sorted_;   // rows by the bytes of their keys
  TableLayout layout_;
  WritableMemfd memory_;
};

}  // namespace

absl::StatusOr<SealedMemory> BuildAttachTable(uint64_t generation, std::span<const AttachTableRow> rows,
                                              std::span<const AttachSegmentRow> segments,
                                              const RequestContext& context) {
  return TableBuilder(rows, segments, context).Build(generation);
}

}  // namespace keyload
