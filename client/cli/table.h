#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace keyload::cli {

// Columns of text for people, two spaces apart, without trailing spaces. Not thread-safe.
class Table {
 public:
  enum class Align { kLeft, kRight };
  static constexpr Align kRight = Align::kRight;
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // Cells that a row lacks are empty. REQUIRES: not more cells than columns.
  void AddRow(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }

  // The header line and the rows, each starting with `indent` and ending with a newline.
  std::string Render(std::string_view indent = "") const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// Characters that `text` takes on a terminal, UTF-8 sequences counted once.
size_t DisplayWidth(std::string_view text);

}  // namespace keyload::cli
