#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/gate_verdict.h"
#include "client/cli/json_output.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// One directory of a gate's run, checked.
struct CheckedSource {
  std::string path;  // as it was given
  absl::StatusOr<v1::LoadReport> report = absl::UnknownError("not checked");
  GateVerdict verdict;                    // of an error its exit code
  std::vector<std::string> absent_files;  // for downloaders
};

// The report or the error of one directory with "path", "exitCode", "verdict" and "absentFiles"; of several
// {"exitCode", "checks": [...]}.
Json CheckJson(const std::vector<CheckedSource>& checked, ExitCode code);

// JUnit's XML, as CI systems show it: a test suite for each directory, a test case for each kind of finding.
std::string JunitText(const std::vector<CheckedSource>& checked);

// GitHub's workflow commands, "::error title=...::...": one for each directory that fails, one for each warning.
std::string AnnotationsText(const std::vector<CheckedSource>& checked);

}  // namespace keyload::cli
