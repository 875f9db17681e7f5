#include "client/cli/table.h"

#include <algorithm>

namespace keyload::cli {

size_t DisplayWidth(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

std::string Table::Render(std::string_view indent) const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(DisplayWidth(column.title));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], DisplayWidth(row[i]));
  }
  std::string out;
  auto add_line = [&](auto cell) {
    std::string line(indent);
    for (size_t i = 0; i < columns_.size(); ++i) {
      const std::string text = cell(i);
      const std::string padding(widths[i] - DisplayWidth(text), ' ');
      if (i > 0) line += "  ";
      line += columns_[i].align == Align::kRight ? padding + text : text + padding;
    }
    line.resize(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  };
  add_line([&](size_t i) { return columns_[i].title; });
  for (const auto& row : rows_) add_line([&](size_t i) { return i < row.size() ? row[i] : std::string(); });
  return out;
}

}  // namespace keyload::cli
