#pragma once

#include <cstdint>
#include <string>

#include "client/cli/baseline.h"
#include "client/cli/exit_code.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// What a report is measured by. docs/decisions/0021-exit-codes.md has the reasons.
struct GateRules {
  v1::Limits limits{};              // unset: no key may be missing or mismatched, any may be unexpected
  bool no_weights_allowed = false;  // --allow-no-weights: then keys may be missing unless a limit says how many
  bool report_only = false;         // say all of it, and end with 0
  bool loads = false;               // what is rejected is not loaded, and no wish for a report makes that a success
  bool compares = false;            // `check`: to have compared with nothing is no answer
  bool own_keys_asked = false;      // --expected checkpoint: to compare with nothing is what was asked
  const Baseline* known = nullptr;  // findings that do not count; null: all do
};

// What is wrong by those rules, without what the baseline knows.
struct GateCounts {
  uint64_t missing = 0;
  uint64_t unexpected = 0;
  uint64_t mismatched = 0;
  uint64_t lacking = 0;  // what the rules for checkpoints without a template say is lacking
  uint64_t known = 0;    // of all four, in the baseline
};

struct GateVerdict {
  ExitCode code = kExitDone;
  GateCounts counts;
  std::string sentence;  // what is wrong, what it means and what to do; or that all is well
};

// The verdict on a report that is there: COMPLETE, INCOMPLETE, PLANNED or REJECTED; of others ExitCodeFor and their
// error.
GateVerdict Judge(const v1::LoadReport& report, const GateRules& rules);

// Of several verdicts the one that a run ends with: a failure before 1, before 7, before 0; of failures the first.
ExitCode Worse(ExitCode a, ExitCode b);

}  // namespace keyload::cli
