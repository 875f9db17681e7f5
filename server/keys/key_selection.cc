#include "server/keys/key_selection.h"

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "re2/re2.h"
#include "server/base/error.h"
#include "server/keys/glob.h"

namespace keyload {
namespace {

constexpr size_t kMaxPatternBytes = 64 * 1024;
constexpr uint64_t kMaxAlternatives = 10'000;
constexpr int64_t kRegexMemoryBytes = 32 << 20;

absl::Status CheckLimits(const KeySelectionSpec& spec) {
  size_t bytes = 0;
  for (const auto* globs : {&spec.include, &spec.exclude}) {
    for (const std::string& glob : *globs) bytes += glob.size();
  }
  const size_t count = spec.include.size() + spec.exclude.size();
  if (count > kMaxGlobs || bytes > kMaxPatternBytes) {
    return MakeError(Reason::kPatternInvalid, absl::StrCat(count, " globs of ", bytes, " bytes in all: at most ",
                                                           kMaxGlobs, " and ", kMaxPatternBytes, " bytes are taken"));
  }
  return absl::OkStatus();
}

std::unique_ptr<re2::RE2> CompileGlobRegex(std::string_view regex) {
  re2::RE2::Options options;
  options.set_log_errors(false);
  options.set_never_capture(true);
  options.set_dot_nl(true);
  options.set_max_mem(kRegexMemoryBytes);
  return std::make_unique<re2::RE2>(regex, options);
}

// Null for an empty list.
absl::StatusOr<std::unique_ptr<re2::RE2>> CompileGlobs(const std::vector<std::string>& globs,
                                                       uint64_t& alternatives_left) {
  if (globs.empty()) return nullptr;
  std::vector<std::string> regexes;
  std::string joined;
  for (const std::string& glob : globs) {
    KEYLOAD_ASSIGN_OR_RETURN(regexes.emplace_back(), GlobToRegex(glob, alternatives_left));
    absl::StrAppend(&joined, joined.empty() ? "" : "|", "(?:", regexes.back(), ")");
  }
  auto compiled = CompileGlobRegex(joined);
  if (compiled->ok()) return compiled;
  for (size_t i = 0; i < globs.size(); ++i) {
    if (const auto alone = CompileGlobRegex(regexes[i]); !alone->ok()) {
      return MakeError(Reason::kPatternInvalid, absl::StrCat("glob '", globs[i], "': ", alone->error()),
                       {{"pattern", globs[i]}});
    }
  }
  return MakeError(Reason::kPatternInvalid,
                   absl::StrCat("the globs are too large together, from '", globs.front(), "' on"),
                   {{"pattern", globs.front()}});
}

}  // namespace

KeySelection::KeySelection() = default;
KeySelection::~KeySelection() = default;
KeySelection::KeySelection(KeySelection&&) noexcept = default;
KeySelection& KeySelection::operator=(KeySelection&&) noexcept = default;

absl::StatusOr<KeySelection> KeySelection::Compile(const KeySelectionSpec& spec) {
  KEYLOAD_RETURN_IF_ERROR(CheckLimits(spec));
  uint64_t alternatives_left = kMaxAlternatives;
  KeySelection selection;
  KEYLOAD_ASSIGN_OR_RETURN(selection.include_, CompileGlobs(spec.include, alternatives_left));
  KEYLOAD_ASSIGN_OR_RETURN(selection.exclude_, CompileGlobs(spec.exclude, alternatives_left));
  selection.names_ = spec.keys;
  selection.list_ = spec.list;
  selection.named_.insert(selection.names_.begin(), selection.names_.end());
  return selection;
}

bool KeySelection::selects_all() const { return include_ == nullptr && exclude_ == nullptr && name_count() == 0; }

bool KeySelection::Selects(std::string_view key) const {
  const bool wanted = (include_ == nullptr && name_count() == 0) || named_.contains(key) ||
                      (list_ != nullptr && list_->Contains(key)) ||
                      (include_ != nullptr && re2::RE2::FullMatch(key, *include_));
  return wanted && (exclude_ == nullptr || !re2::RE2::FullMatch(key, *exclude_));
}

}  // namespace keyload
