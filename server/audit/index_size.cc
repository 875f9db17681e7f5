#include "server/audit/index_size.h"

#include <simdjson.h>

#include "server/base/strings.h"

namespace keyload {

std::optional<uint64_t> TotalSizeOf(std::string index_json) {
  simdjson::ondemand::parser parser;
  simdjson::ondemand::document document;
  index_json.reserve(index_json.size() + simdjson::SIMDJSON_PADDING);
  if (parser.iterate(index_json).get(document)) return std::nullopt;
  uint64_t size = 0;
  if (document.find_field_unordered("metadata").find_field_unordered("total_size").get(size)) return std::nullopt;
  return size;
}

std::optional<Finding> CompareTotalSize(uint64_t said_bytes, uint64_t stored_bytes) {
  if (stored_bytes >= said_bytes) return std::nullopt;
  return Finding{
      .rule = "total_size",
      .message = StrCat("the index says total_size ", said_bytes, ", and the tensors have ", stored_bytes,
                        " bytes: ", said_bytes - stored_bytes, " lack, unless the index is that of another version"),
      .count = 0,
      .names = {},
      .lacks = false};
}

}  // namespace keyload
