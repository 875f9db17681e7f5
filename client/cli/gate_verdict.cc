#include "client/cli/gate_verdict.h"

#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace keyload::cli {
namespace {

using Report = v1::LoadReport;

bool ComparedWithNothing(const Report& report) { return report.expected_from() == v1::ExpectedKeys::FROM_CHECKPOINT; }

GateCounts CountsOf(const Report& report, const Baseline* known) {
  GateCounts counts = {.missing = report.keys().missing(),
                       .unexpected = report.keys().unexpected(),
                       .mismatched = report.keys().mismatched()};
  for (const v1::Finding& finding : report.findings()) counts.lacking += finding.lacks() ? finding.count() : 0;
  if (known == nullptr) return counts;
  const auto forgive = [&](uint64_t& count, uint64_t by) {
    count -= std::min(count, by);
    counts.known += by;
  };
  for (const std::string& key : report.missing_keys()) forgive(counts.missing, known->HasMissing(key));
  for (const std::string& key : report.unexpected_keys()) forgive(counts.unexpected, known->HasUnexpected(key));
  for (const v1::MismatchedKey& key : report.mismatched_keys())
    forgive(counts.mismatched, known->HasMismatched(key.key()));
  for (const v1::Finding& finding : report.findings()) {
    if (finding.lacks() && known->Has(finding)) forgive(counts.lacking, finding.count());
  }
  return counts;
}

// "3 missing, 1 mismatched"; only what is over its limit.
std::string TooMany(const GateCounts& counts, const GateRules& rules) {
  const v1::Limits& limits = rules.limits;
  std::vector<std::string> parts;
  const auto add = [&](uint64_t count, uint64_t limit, const char* what) {
    if (count <= limit) return;
    parts.push_back(limit == 0 ? absl::StrFormat("%d %s", count, what)
                               : absl::StrFormat("%d %s (%d allowed)", count, what, limit));
  };
  if (limits.has_max_missing() || !rules.no_weights_allowed) add(counts.missing, limits.max_missing(), "missing");
  add(counts.mismatched, limits.max_mismatched(), "of another shape");
  if (limits.has_max_unexpected()) add(counts.unexpected, limits.max_unexpected(), "unexpected");
  // Whoever asks for the checkpoint's own keys gets what the rules say as warnings, unless a limit is set.
  const bool lacking_counts = rules.compares && (!rules.own_keys_asked || limits.has_max_missing());
  if (lacking_counts) add(counts.lacking, limits.max_missing(), "lacking by what their like have");
  return absl::StrJoin(parts, ", ");
}

}  // namespace

GateVerdict Judge(const Report& report, const GateRules& rules) {
  GateVerdict verdict = {.code = ExitCodeFor(report), .counts = CountsOf(report, rules.known), .sentence = ""};
  const bool is_answer = verdict.code == kExitDone || verdict.code == kExitNotComplete;
  if (!is_answer) {
    verdict.sentence = absl::StrFormat("no verdict: %s", report.error().message());
    return verdict;
  }
  const std::string known =
      verdict.counts.known == 0 ? "" : absl::StrFormat("; %d known from the baseline", verdict.counts.known);
  const std::string too_many = TooMany(verdict.counts, rules);
  if (!too_many.empty() || report.outcome() == Report::OUTCOME_REJECTED) {
    verdict.code = kExitNotComplete;
    const GateCounts& counts = verdict.counts;
    const bool lacks = counts.missing + counts.mismatched + counts.lacking > 0;
    verdict.sentence = absl::StrFormat(
        "not complete: %s%s. %s, or allow it with %s or --baseline", too_many, known,
        lacks ? "A model with these keys does not have all its weights: fetch or convert the checkpoint again"
              : "The model does not use these keys: take the checkpoint of this model",
        lacks ? counts.mismatched > 0 ? "--max-missing, --max-mismatched" : "--max-missing" : "--max-unexpected");
  } else if (rules.compares && ComparedWithNothing(report) && !rules.own_keys_asked) {
    verdict.code = kExitNothingCompared;
    verdict.sentence =
        "nothing compared: the files are sound, and nobody knows which keys the model needs. Say so with --manifest "
        "FILE or --like DIR, or accept the checkpoint's own keys with --expected checkpoint";
  } else {
    verdict.code = kExitDone;
    verdict.sentence = absl::StrFormat("complete%s", known);
    if (rules.compares && ComparedWithNothing(report)) {
      verdict.sentence = absl::StrFormat("as asked, compared with nothing: the files are sound%s%s",
                                         verdict.counts.lacking > 0 ? ", but see the warnings" : "", known);
    }
  }
  if (rules.report_only && !(rules.loads && report.outcome() == Report::OUTCOME_REJECTED)) {
    if (verdict.code != kExitDone) verdict.sentence += " (--report-only: the exit code is 0)";
    verdict.code = kExitDone;
  }
  return verdict;
}

ExitCode Worse(ExitCode a, ExitCode b) {
  const auto rank = [](ExitCode code) {
    return code == kExitDone ? 0 : code == kExitNothingCompared ? 1 : code == kExitNotComplete ? 2 : 3;
  };
  return rank(b) > rank(a) ? b : a;
}

}  // namespace keyload::cli
