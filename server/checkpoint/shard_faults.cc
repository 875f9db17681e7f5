#include "server/checkpoint/shard_faults.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

enum class Kind { kNone, kAbsent, kTruncated, kOther };

Kind KindOf(const absl::Status& fault) {
  if (ErrorDetails(fault).contains("found")) return Kind::kOther;
  const Reason reason = ErrorReason(fault);
  if (reason == Reason::kCheckpointNotFound) return Kind::kAbsent;
  return reason == Reason::kCheckpointTruncated ? Kind::kTruncated : Kind::kNone;
}

// "model-00003-of-00163.safetensors" around its first number that has neighbours.
struct Numbered {
  std::string_view before, digits, after;
};

Numbered Split(std::string_view name) {
  constexpr std::string_view kDigits = "0123456789";
  size_t end = name.rfind("-of-");
  if (end == std::string_view::npos) end = name.find_last_of(kDigits) + 1;  // npos + 1 is 0
  const size_t last = name.substr(0, end).find_last_not_of(kDigits);
  const size_t begin = last == std::string_view::npos ? 0 : last + 1;
  return {.before = name.substr(0, begin), .digits = name.substr(begin, end - begin), .after = name.substr(end)};
}

bool Follows(const Numbered& next, const Numbered& last) {
  if (next.before != last.before || next.after != last.after || last.digits.empty() ||
      next.digits.size() != last.digits.size() || last.digits.size() > 18) {
    return false;
  }
  return std::stoull(std::string(next.digits)) == std::stoull(std::string(last.digits)) + 1;
}

std::vector<std::string> Runs(const std::vector<std::string>& names) {
  std::vector<std::string> runs;
  for (size_t first = 0; first < names.size();) {
    size_t end = first + 1;
    while (end < names.size() && Follows(Split(names[end]), Split(names[end - 1]))) ++end;
    const Numbered from = Split(names[first]);
    runs.push_back(end == first + 1
                       ? names[first]
                       : StrCat(from.before, "{", from.digits, "..", Split(names[end - 1]).digits, "}", from.after));
    first = end;
  }
  return runs;
}

std::string LackingText(const absl::Status& fault, std::string_view name) {
  const ErrorMetadata details = ErrorDetails(fault);
  const auto lacking = details.find("lacking_bytes");
  return lacking == details.end() ? StrCat(name, " ends inside its header")
                                  : StrCat(name, " lacks ", lacking->second, " bytes");
}

// "FILE is WHAT; TODO" without the path before the file's name.
std::string OtherText(const absl::Status& fault, std::string_view name) {
  const std::string_view message = ToStd(fault.message());
  const std::string path = ErrorDetails(fault).at("file");
  const size_t at = message.find(path);
  return at == std::string_view::npos ? std::string(message) : StrCat(name, message.substr(at + path.size()));
}

std::string Joined(const std::vector<std::string>& texts, std::string_view separator) {
  std::string out;
  for (size_t i = 0; i < texts.size(); ++i) {
    if (out.size() + texts[i].size() > kMaxNamesInMessage) {
      StrAppend(&out, separator, "and ", texts.size() - i, " more");
      break;
    }
    StrAppend(&out, i == 0 ? "" : separator, texts[i]);
  }
  return out;
}

std::string_view Are(size_t count) { return count == 1 ? "is" : "are"; }

}  // namespace

std::string NamesWithin(const std::vector<std::string>& names, size_t limit) {
  size_t bytes = 0;
  for (const std::string& name : names) bytes += name.size() + 2;
  if (bytes <= limit) return absl::StrJoin(names, ", ");
  const std::vector<std::string> runs = Runs(names);
  std::string out;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (out.size() + runs[i].size() + 16 > limit) {
      StrAppend(&out, i == 0 ? "" : ", ", "...");
      break;
    }
    StrAppend(&out, i == 0 ? "" : ", ", runs[i]);
  }
  return out;
}

bool ShardFaults::Take(uint32_t number, const absl::Status& fault) {
  if (KindOf(fault) == Kind::kNone) return false;
  MutexLock lock(mutex_);
  faults_.emplace(number, fault);
  return true;
}

bool ShardFaults::any() const {
  MutexLock lock(mutex_);
  return !faults_.empty();
}

std::vector<uint32_t> ShardFaults::absent() const {
  MutexLock lock(mutex_);
  std::vector<uint32_t> numbers;
  for (const auto& [number, fault] : faults_) {
    if (KindOf(fault) == Kind::kAbsent) numbers.push_back(number);
  }
  return numbers;
}

bool ShardFaults::only_absent() const {
  MutexLock lock(mutex_);
  return std::all_of(faults_.begin(), faults_.end(),
                     [](const auto& fault) { return KindOf(fault.second) == Kind::kAbsent; });
}

absl::Status ShardFaults::Tell(std::string_view index, const std::vector<std::string>& names,
                               std::string_view hint) const {
  MutexLock lock(mutex_);
  std::vector<std::string> absent, truncated, others, parts;
  for (const auto& [number, fault] : faults_) {
    const std::string& name = names[number];
    const Kind kind = KindOf(fault);
    if (kind == Kind::kAbsent) absent.push_back(name);
    if (kind == Kind::kTruncated) truncated.push_back(LackingText(fault, name));
    if (kind == Kind::kOther) others.push_back(OtherText(fault, name));
  }
  const auto first = faults_.begin();
  if (absent.empty() && faults_.size() == 1) return first->second;
  const std::string of = StrCat(" of ", names.size(), names.size() == 1 ? " shard " : " shards ");
  ErrorMetadata metadata = ErrorDetails(first->second);
  metadata["shard"] = names[first->first];
  Reason reason = ErrorReason(first->second);
  if (!absent.empty()) {
    reason = Reason::kCheckpointNotFound;
    metadata["absent"] = NamesWithin(absent, kMaxNamesInMetadata);
    metadata["absent_count"] = StrCat(absent.size());
    metadata["shard"] = absent.front();
    parts.push_back(
        StrCat(absent.size(), of, Are(absent.size()), " absent: ", NamesWithin(absent, kMaxNamesInMessage), hint));
  }
  if (!truncated.empty()) {
    parts.push_back(StrCat(truncated.size(), of, Are(truncated.size()),
                           " cut off, so fetch them again: ", Joined(truncated, ", ")));
  }
  if (!others.empty()) {
    parts.push_back(StrCat(others.size(), of, Are(others.size()), " no safetensors: ", Joined(others, ". ")));
  }
  return MakeError(reason, StrCat(index, ": ", absl::StrJoin(parts, ". ")), metadata);
}

}  // namespace keyload
