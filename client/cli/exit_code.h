#pragma once

#include <string>

#include "absl/status/status.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// What the `keyload` command ends with; scripts depend on the numbers.
enum ExitCode : int {
  kExitDone = 0,             // nothing is missing, or the command did what it says
  kExitNotComplete = 1,      // keys are missing, of another shape or over a limit; of diff: there are differences
  kExitUsage = 2,            // the command line or a file that it names is wrong; nothing was asked of the server
  kExitUnreachable = 3,      // no server answers
  kExitRefused = 4,          // not authorised, path not allowed
  kExitCancelled = 5,        // cancelled or timed out
  kExitFailed = 6,           // anything else
  kExitNothingCompared = 7,  // `check` had nothing to compare the keys with
};

// An error of this program's own, made before the server is asked: ends with kExitUsage.
absl::Status UsageError(const std::string& message);

ExitCode ExitCodeFor(const absl::Status& status);
// Of load, plan and check, which have limits, Judge of gate_verdict.h says more.
ExitCode ExitCodeFor(const v1::LoadReport& report);

}  // namespace keyload::cli
