#include "client/cli/table.h"

#include "gtest/gtest.h"

namespace keyload::cli {
namespace {

TEST(Table, AlignsColumnsWithoutTrailingSpaces) {
  Table table({{"device"}, {"size", Table::Align::kRight}, {"state"}});
  table.AddRow({"cpu", "12 B", "ok"});
  table.AddRow({"cuda:10", "1.5 GiB"});
  EXPECT_EQ(table.Render(),
            "device      size  state\n"
            "cpu         12 B  ok\n"
            "cuda:10  1.5 GiB\n");
}

TEST(Table, CountsUtf8CharactersOnce) {
  Table table({{"k"}, {"v"}});
  table.AddRow({"\xc3\xa9\xc3\xa9", "1"});
  table.AddRow({"ab", "2"});
  EXPECT_EQ(table.Render("  "), "  k   v\n  \xc3\xa9\xc3\xa9  1\n  ab  2\n");
}

}  // namespace
}  // namespace keyload::cli
