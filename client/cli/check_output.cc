#include "client/cli/check_output.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/cli/report_text.h"
#include "keyload/client.h"

namespace keyload::cli {
namespace {

constexpr int kNamesInCase = 100;

// Text for XML, which has no way to write most control characters.
std::string Xml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (byte < 0x20 && c != '\n' && c != '\t') {
      absl::StrAppendFormat(&out, "\\x%02x", byte);
    } else {
      out += c;
    }
  }
  return out;
}

std::string ErrorText(const absl::Status& status) {
  const std::string reason = GetErrorInfo(status).reason;
  return (reason.empty() ? absl::StatusCodeToString(status.code()) : reason) + ": " + std::string(status.message());
}

// A test case of one suite: failed if `problem` says something.
std::string Case(std::string_view path, std::string_view name, std::string_view problem, std::string_view details,
                 const char* element = "failure") {
  std::string out = absl::StrFormat("    <testcase classname=\"%s\" name=\"%s\"", Xml(path), Xml(name));
  if (problem.empty()) return out + "/>\n";
  return out + absl::StrFormat(">\n      <%s message=\"%s\">%s</%s>\n    </testcase>\n", element, Xml(problem),
                               Xml(details), element);
}

template <typename Names>
std::string Lines(const Names& names) {
  const int shown = std::min<int>(names.size(), kNamesInCase);
  std::string out = absl::StrJoin(names.begin(), names.begin() + shown, "\n");
  return shown < names.size() ? out + "\n..." : out;
}

std::vector<std::string> MismatchLines(const v1::LoadReport& report) {
  std::vector<std::string> lines;
  for (const v1::MismatchedKey& key : report.mismatched_keys()) {
    if (lines.size() == kNamesInCase) break;
    lines.push_back(absl::StrFormat("%s: expected %s, found %s", key.key(), ShapeText(key.expected_shape()),
                                    ShapeText(key.found_shape())));
  }
  return lines;
}

// Of a directory with a verdict: what fails it by the exit code has problems, what is only said has none.
std::vector<std::string> CasesOf(const CheckedSource& source) {
  const v1::LoadReport& report = *source.report;
  const GateCounts& counts = source.verdict.counts;
  const bool fails = source.verdict.code == kExitNotComplete;
  const auto problem = [&](uint64_t count, const char* what) {
    return fails && count > 0 ? absl::StrFormat("%d keys %s", count, what) : std::string();
  };
  std::vector<std::string> lacking;
  for (const v1::Finding& finding : report.findings()) {
    if (finding.lacks()) lacking.push_back(finding.message());
  }
  return {Case(source.path, "compared with " + report.compared_with(),
               source.verdict.code == kExitNothingCompared ? source.verdict.sentence : "", report.compared_with()),
          Case(source.path, "no key is missing", problem(counts.missing, "are missing"), Lines(report.missing_keys())),
          Case(source.path, "every shape is right", problem(counts.mismatched, "have another shape"),
               absl::StrJoin(MismatchLines(report), "\n")),
          Case(source.path, "no key is unexpected",
               problem(report.outcome() == v1::LoadReport::OUTCOME_REJECTED ? counts.unexpected : 0, "are unexpected"),
               Lines(report.unexpected_keys())),
          Case(source.path, "nothing lacks that its like have", problem(counts.lacking, "or modules lack"),
               absl::StrJoin(lacking, "\n"))};
}

std::string Suite(const CheckedSource& source) {
  std::vector<std::string> cases;
  const bool error = !source.report.ok();
  if (error) {
    cases = {Case(source.path, "the checkpoint can be read", ErrorText(source.report.status()),
                  absl::StrJoin(source.absent_files, "\n"), "error")};
  } else {
    cases = CasesOf(source);
  }
  const auto failures = std::count_if(
      cases.begin(), cases.end(), [](const std::string& text) { return text.find("<failure") != std::string::npos; });
  return absl::StrFormat(
      "  <testsuite name=\"keyload check %s\" tests=\"%d\" failures=\"%d\" errors=\"%d\">\n%s  </testsuite>\n",
      Xml(source.path), cases.size(), failures, error ? 1 : 0, absl::StrJoin(cases, ""));
}

std::string Escaped(const std::string& text, bool property) {
  std::string out = absl::StrReplaceAll(text, {{"%", "%25"}, {"\r", "%0D"}, {"\n", "%0A"}});
  return property ? absl::StrReplaceAll(out, {{":", "%3A"}, {",", "%2C"}}) : out;
}

std::string Annotation(const char* level, const std::string& path, const std::string& text) {
  return absl::StrFormat("::%s title=%s::%s\n", level, Escaped("keyload check " + path, true), Escaped(text, false));
}

Json JsonOf(const CheckedSource& source) {
  Json object = source.report.ok() ? ToJson(*source.report) : ErrorToJson(source.report.status());
  AddMember(object, "path", source.path);
  AddMember(object, "exitCode", static_cast<int>(source.verdict.code));
  AddMember(object, "verdict", source.verdict.sentence);
  AddMember(object, "absentFiles", source.absent_files);
  return object;
}

}  // namespace

Json CheckJson(const std::vector<CheckedSource>& checked, ExitCode code) {
  if (checked.size() == 1) return JsonOf(checked.front());
  Json list = Json::array();
  for (const CheckedSource& source : checked) list.push_back(JsonOf(source));
  return {{"exitCode", static_cast<int>(code)}, {"checks", std::move(list)}};
}

std::string JunitText(const std::vector<CheckedSource>& checked) {
  std::string out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n";
  for (const CheckedSource& source : checked) out += Suite(source);
  return out + "</testsuites>\n";
}

std::string AnnotationsText(const std::vector<CheckedSource>& checked) {
  std::string out;
  for (const CheckedSource& source : checked) {
    if (!source.report.ok()) {
      out += Annotation("error", source.path, ErrorText(source.report.status()));
      continue;
    }
    if (source.verdict.code != kExitDone) out += Annotation("error", source.path, source.verdict.sentence);
    for (const std::string& warning : source.report->warnings()) out += Annotation("warning", source.path, warning);
  }
  return out;
}

}  // namespace keyload::cli
