#include "attach/attach_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "attach/read_only_mapping.h"
#include "server/attach/attach_table_builder.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const AttachDType kBf16 = {.name = "BF16", .bits = 16, .alignment = 2};
const AttachDType kF4 = {.name = "F4", .bits = 4, .alignment = 1};
const std::vector<uint64_t> kMatrix = {3, 4};
const std::vector<uint64_t> kScalar;
const std::vector<uint64_t> kEmpty = {0, 1ull << 63, 4};

std::vector<AttachTableRow> SomeRows() {
  return {
      {.key = "model.z", .dtype = kBf16, .shape = kMatrix, .segment = 1, .offset = 64, .bytes = 24, .state = 1},
      {.key = "model.a", .dtype = kF4, .shape = kMatrix, .segment = 0, .offset = 7, .bytes = 6, .state = 1},
      {.key = "model.\xc3\xa9", .dtype = kBf16, .shape = kEmpty, .segment = 1, .offset = 4096, .bytes = 0, .state = 1},
      {.key = "model", .dtype = kBf16, .shape = kScalar, .bytes = 2, .state = 2},
      {.key = "missing", .state = 3}};
}

const std::vector<AttachSegmentRow> kSegments = {
    {.kind = AttachSegmentKind::kMemfd, .bytes = 100, .page = 4096, .incarnation = 1, .device = "cpu"},
    {.kind = AttachSegmentKind::kFile, .bytes = 4096, .page = 4096, .incarnation = 2, .device = "cuda:0"}};

// The bytes of a table, to be changed.
std::vector<std::byte> Table(const std::vector<AttachTableRow>& rows,
                             std::span<const AttachSegmentRow> segments = kSegments) {
  const absl::StatusOr<SealedMemory> table = BuildAttachTable(9, rows, segments, {});
  EXPECT_TRUE(table.ok()) << table.status();
  struct stat status = {};
  fstat(table->shared()->get(), &status);
  const auto mapping = ReadOnlyMapping::Map(table->shared()->get(), static_cast<uint64_t>(status.st_size), 4096);
  EXPECT_TRUE(mapping.ok()) << mapping.status();
  return {mapping->bytes().begin(), mapping->bytes().end()};
}

std::string Problem(std::span<const std::byte> bytes) {
  const auto table = AttachTable::Parse(bytes);
  return table.ok() ? "" : std::string(table.status().message());
}

// Where the elements of a column are.
size_t ColumnAt(const std::vector<std::byte>& bytes, AttachColumn id) {
  for (size_t at = kAttachTableHeaderBytes;; at += kAttachColumnEntryBytes) {
    uint32_t found = 0;
    std::memcpy(&found, bytes.data() + at, 4);
    if (found != static_cast<uint32_t>(id)) continue;
    uint64_t offset = 0;
    std::memcpy(&offset, bytes.data() + at + 8, 8);
    return offset;
  }
}

template <typename T>
std::string ProblemWith(AttachColumn column, size_t index, T value) {
  std::vector<std::byte> bytes = Table(SomeRows());
  std::memcpy(bytes.data() + ColumnAt(bytes, column) + index * sizeof(T), &value, sizeof(T));
  return Problem(bytes);
}

TEST(AttachTable, HasItsRowsInTheOrderOfTheBytesOfTheirNames) {
  const std::vector<std::byte> bytes = Table(SomeRows());
  const auto table = AttachTable::Parse(bytes);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->generation(), 9u);
  ASSERT_EQ(table->rows(), 5u);
  std::vector<std::string> keys;
  std::vector<uint32_t> order;
  for (uint32_t i = 0; i < table->rows(); ++i) {
    keys.emplace_back(table->row(i).key);
    order.push_back(table->row(i).order);
  }
  EXPECT_THAT(keys, ElementsAre("missing", "model", "model.a", "model.z", "model.\xc3\xa9"));
  EXPECT_THAT(order, ElementsAre(4, 3, 1, 0, 2));
  const AttachRow row = table->row(3);
  EXPECT_EQ(row.dtype, "BF16");
  EXPECT_EQ(row.dtype_bits, 16u);
  EXPECT_THAT(row.shape, ElementsAre(3, 4));
  EXPECT_EQ(row.segment, 1u);
  EXPECT_EQ(row.offset, 64u);
  EXPECT_EQ(row.bytes, 24u);
  EXPECT_EQ(row.state, 1);
  EXPECT_TRUE(row.strides.empty());
  EXPECT_TRUE(row.checksum.empty());
  EXPECT_EQ(table->row(0).segment, kNoAttachSegment);
  EXPECT_EQ(table->segments(), 2u);
  EXPECT_EQ(table->segment(1).device, "cuda:0");
  EXPECT_EQ(table->segment(1).kind, AttachSegmentKind::kFile);
  EXPECT_EQ(table->segment(1).incarnation, 2u);
  EXPECT_EQ(table->segment(0).bytes, 100u);
}

TEST(AttachTable, FindsEveryKeyAndNoOther) {
  std::vector<std::string> names;
  for (int i = 0; i < 1000; ++i) names.push_back("layers." + std::to_string(i * 7919 % 1000));
  std::vector<AttachTableRow> rows;
  for (const std::string& name : names) rows.push_back({.key = name, .dtype = kBf16, .bytes = 2, .state = 2});
  const std::vector<std::byte> bytes = Table(rows, {});
  const auto table = AttachTable::Parse(bytes);
  ASSERT_TRUE(table.ok()) << table.status();
  for (const std::string& name : names) {
    const std::optional<uint32_t> found = table->Find(name);
    ASSERT_TRUE(found) << name;
    EXPECT_EQ(table->row(*found).key, name);
  }
  for (const char* name : {"", "layers", "layers.1000", "zzz"}) EXPECT_FALSE(table->Find(name)) << name;
}

TEST(AttachTable, HasStridesAndChecksumsWhereTheyAreGiven) {
  std::vector<AttachTableRow> rows = SomeRows();
  const std::vector<int64_t> matrix = {1, 3};  // transposed
  const std::vector<int64_t> empty = {4, 4, 1};
  for (AttachTableRow& row : rows) row.strides = row.shape.size() == 2 ? std::span(matrix) : std::span<const int64_t>();
  rows[2].strides = empty;
  rows[0].checksum.emplace().fill(0xab);
  const std::vector<std::byte> bytes = Table(rows);
  const auto table = AttachTable::Parse(bytes);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_THAT(table->row(3).strides, ElementsAre(1, 3));
  EXPECT_THAT(table->row(3).checksum, testing::AllOf(testing::SizeIs(16), testing::Each(0xab)));
  EXPECT_THAT(table->row(2).checksum, testing::AllOf(testing::SizeIs(16), testing::Each(0)));
}

TEST(AttachTable, OfNothingIsATable) {
  const std::vector<std::byte> bytes = Table({}, {});
  const auto table = AttachTable::Parse(bytes);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->rows(), 0u);
  EXPECT_FALSE(table->Find("a"));
}

TEST(AttachTable, WhoseRowsContradictThemselvesIsRefused) {
  EXPECT_EQ(Problem(Table(SomeRows())), "");
  using C = AttachColumn;
  EXPECT_THAT(ProblemWith<uint32_t>(C::kNameEnd, 0, 0), HasSubstr("row 0: its name"));
  EXPECT_THAT(ProblemWith<uint32_t>(C::kNameEnd, 4, 1000), HasSubstr("row 4: its name"));
  EXPECT_THAT(ProblemWith<uint32_t>(C::kNameEnd, 0, 8), HasSubstr("row 2: its name does not come"));
  EXPECT_THAT(ProblemWith<char>(C::kNames, 0, 'z'), HasSubstr("does not come after"));
  EXPECT_THAT(ProblemWith<uint16_t>(C::kDType, 2, 9), HasSubstr("dtype has no name"));
  EXPECT_THAT(ProblemWith<uint16_t>(C::kDTypeBits, 0, 8), HasSubstr("not those of its shape"));
  EXPECT_THAT(ProblemWith<uint16_t>(C::kDTypeAlignment, 0, 0), HasSubstr("alignment"));
  EXPECT_THAT(ProblemWith<uint16_t>(C::kDTypeAlignment, 0, 3), HasSubstr("alignment"));
  EXPECT_THAT(ProblemWith<uint32_t>(C::kDimsEnd, 2, 100), HasSubstr("dimensions"));
  EXPECT_THAT(ProblemWith<uint32_t>(C::kDimsEnd, 2, 1), HasSubstr("row 2"));
  EXPECT_THAT(ProblemWith<uint64_t>(C::kDims, 2, 1ull << 63), HasSubstr("not those of its shape"));
  EXPECT_THAT(ProblemWith<uint32_t>(C::kSegment, 3, 2), HasSubstr("not there"));
  EXPECT_THAT(ProblemWith<uint32_t>(C::kSegment, 3, kNoAttachSegment), HasSubstr("no segment"));
  EXPECT_THAT(ProblemWith<uint64_t>(C::kOffset, 3, 4074), HasSubstr("beyond its segment"));
  EXPECT_THAT(ProblemWith<uint64_t>(C::kOffset, 3, ~uint64_t{0}), HasSubstr("beyond its segment"));
  EXPECT_THAT(ProblemWith<uint64_t>(C::kOffset, 3, 65), HasSubstr("aligned"));
  EXPECT_THAT(ProblemWith<uint64_t>(C::kOffset, 1, 2), HasSubstr("no segment"));
  EXPECT_THAT(ProblemWith<uint64_t>(C::kBytes, 3, 26), HasSubstr("not those of its shape"));
  EXPECT_THAT(ProblemWith<uint8_t>(C::kState, 3, 2), HasSubstr("not resident"));
  EXPECT_THAT(ProblemWith<uint32_t>(C::kOrder, 0, 3), HasSubstr("order"));
  EXPECT_THAT(ProblemWith<uint32_t>(C::kOrder, 0, 5), HasSubstr("order"));
  EXPECT_THAT(ProblemWith<uint8_t>(C::kSegmentKind, 0, 4), HasSubstr("kind"));
  EXPECT_THAT(ProblemWith<uint64_t>(C::kSegmentBytes, 0, 12), HasSubstr("beyond its segment"));
  EXPECT_THAT(ProblemWith<uint64_t>(C::kSegmentBytes, 0, ~uint64_t{0}), HasSubstr("too large"));
  EXPECT_THAT(ProblemWith<uint64_t>(C::kSegmentPage, 0, 0), HasSubstr("page"));
  EXPECT_THAT(ProblemWith<uint64_t>(C::kSegmentPage, 0, 4095), HasSubstr("page"));
  EXPECT_THAT(ProblemWith<uint16_t>(C::kSegmentDevice, 0, 2), HasSubstr("device"));
  EXPECT_THAT(ProblemWith<char>(C::kDTypeNames, 0, '\0'), HasSubstr("column"));
}

TEST(AttachTable, WhoseStridesLeadOutOfTheBytesIsRefused) {
  for (const std::vector<int64_t>& strides :
       {std::vector<int64_t>{4, 2}, {-4, 1}, {INT64_MAX, 1}, {INT64_MAX, INT64_MAX}}) {
    std::vector<AttachTableRow> rows = {SomeRows()[0]};
    rows[0].strides = strides;
    const auto table = BuildAttachTable(1, rows, kSegments, {});
    EXPECT_THAT(std::string(table.status().message()), HasSubstr("strides"));
  }
}

TEST(AttachTable, WhoseHeaderIsWrongIsRefused) {
  const std::vector<std::byte> good = Table(SomeRows());
  const auto changed = [&](size_t at, auto value) {
    std::vector<std::byte> bytes = good;
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    return Problem(bytes);
  };
  EXPECT_THAT(changed(0, 'X'), HasSubstr("KLTABLE1"));
  EXPECT_THAT(changed(8, uint32_t{2}), HasSubstr("version"));
  EXPECT_THAT(changed(12, uint32_t{128}), HasSubstr("version"));
  EXPECT_THAT(changed(16, uint64_t{1} << 40), HasSubstr("cut off"));
  EXPECT_THAT(changed(16, uint64_t{64}), HasSubstr("columns"));
  EXPECT_THAT(changed(32, uint32_t{4}), HasSubstr("column 1 "));
  EXPECT_THAT(changed(36, uint32_t{3}), HasSubstr("column 32 "));
  EXPECT_THAT(changed(40, uint32_t{1'000'000}), HasSubstr("columns"));
  EXPECT_THAT(changed(40, uint32_t{3}), HasSubstr("absent"));
  EXPECT_THAT(changed(64, uint32_t{2}), HasSubstr("twice"));
  EXPECT_THAT(changed(68, uint32_t{8}), HasSubstr("column 1 "));
  EXPECT_THAT(changed(68, uint32_t{0}), HasSubstr("column 1 "));
  EXPECT_THAT(changed(72, uint64_t{8}), HasSubstr("column 1 "));
  EXPECT_THAT(changed(72, ~uint64_t{63}), HasSubstr("column 1 "));
  EXPECT_THAT(changed(80, ~uint64_t{0}), HasSubstr("column 1 "));
  EXPECT_THAT(changed(80, uint64_t{good.size() / 4}), HasSubstr("column 1 is not inside"));
  for (size_t size = 0; size < good.size(); ++size) EXPECT_NE(Problem(std::span(good).first(size)), "") << size;
}

TEST(AttachTable, WithAColumnThatNobodyKnowsIsRead) {
  std::vector<AttachTableRow> rows = SomeRows();
  for (AttachTableRow& row : rows) row.checksum.emplace();
  std::vector<std::byte> bytes = Table(rows);
  for (size_t at = kAttachTableHeaderBytes;; at += kAttachColumnEntryBytes) {
    uint32_t id = 0;
    std::memcpy(&id, bytes.data() + at, 4);
    if (id != static_cast<uint32_t>(AttachColumn::kChecksum)) continue;
    id = 4711;
    std::memcpy(bytes.data() + at, &id, 4);
    break;
  }
  EXPECT_EQ(Problem(bytes), "");
}

TEST(BuildAttachTable, RefusesWhatAReaderWouldRefuse) {
  std::vector<AttachTableRow> rows = SomeRows();
  rows[0].key = rows[1].key;
  EXPECT_THAT(std::string(BuildAttachTable(1, rows, kSegments, {}).status().message()),
              HasSubstr("does not come after"));
}

TEST(BuildAttachTable, EndsWithItsCaller) {
  std::stop_source stop;
  stop.request_stop();
  const auto table = BuildAttachTable(1, SomeRows(), kSegments, RequestContext{.stop = stop.get_token()});
  EXPECT_EQ(table.status().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace keyload
