#include "server/keys/key_list.h"

#include <algorithm>
#include <limits>

#include "server/base/error.h"
#include "server/base/file_kind.h"
#include "server/base/strings.h"
#include "server/base/utf8.h"

namespace keyload {
namespace {

constexpr size_t kMaxListedNameBytes = 4096;

absl::Status CheckLine(std::string_view line, size_t number) {
  const auto no_key = [&](std::string_view why) {
    return MakeError(Reason::kBadRequest, StrCat("line ", number, " of the key list is no key: ", why),
                     {{"line", StrCat(number)}});
  };
  if (line.size() > kMaxListedNameBytes) return no_key("it has more than 4096 bytes");
  if (line.find('\0') != std::string_view::npos) return no_key("it has a NUL");
  if (!IsUtf8(line)) return no_key("it is not UTF-8");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<KeyList> KeyList::Parse(std::string_view text, size_t max_keys) {
  if (text.size() > std::numeric_limits<uint32_t>::max()) {
    return MakeError(Reason::kDocumentTooLarge, "the key list has more than 4 GiB");
  }
  if (const auto kind = RecognizeInsteadOfList(text, text.size()))
    return WrongKind(Reason::kBadRequest, "the key list", *kind);
  text = WithoutByteOrderMark(text);
  std::vector<std::string_view> names;
  names.reserve(static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1);
  size_t number = 0;
  while (!text.empty()) {
    ++number;
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    KEYLOAD_RETURN_IF_ERROR(CheckLine(line, number));
    if (line.empty()) continue;
    if (names.size() == max_keys) {
      return MakeError(Reason::kDocumentTooLarge, StrCat("the key list has more than ", max_keys, " keys"));
    }
    names.push_back(line);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  size_t bytes = 0;
  for (const std::string_view name : names) bytes += name.size();
  KeyList list;
  list.names_.reserve(bytes);
  list.ends_.reserve(names.size());
  for (const std::string_view name : names) {
    list.names_ += name;
    list.ends_.push_back(static_cast<uint32_t>(list.names_.size()));
  }
  return list;
}

uint64_t KeyList::ParseBytes(std::string_view text) {
  const uint64_t lines = static_cast<uint64_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  return text.size() + lines * (sizeof(std::string_view) + sizeof(uint32_t)) + sizeof(KeyList);
}

bool KeyList::Contains(std::string_view name) const {
  size_t begin = 0;
  size_t end = size();
  while (begin < end) {
    const size_t middle = begin + (end - begin) / 2;
    if ((*this)[middle] < name) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin < size() && (*this)[begin] == name;
}

}  // namespace keyload
