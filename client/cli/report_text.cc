#include "client/cli/report_text.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/device_text.h"
#include "client/cli/enum_words.h"
#include "client/cli/table.h"
#include "server/base/byte_size.h"

namespace keyload::cli {
namespace {

constexpr int kKeysShown = 10;
constexpr int kShardsShown = 10;

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + static_cast<double>(duration.nanos()) * 1e-9;
}

std::string SecondsText(double seconds) {
  if (seconds < 1e-3) return absl::StrFormat("%.0f us", seconds * 1e6);
  if (seconds < 1) return absl::StrFormat("%.1f ms", seconds * 1e3);
  return absl::StrFormat("%.2f s", seconds);
}

std::string Coloured(const std::string& text, v1::LoadReport::Outcome outcome, const TextStyle& style) {
  if (!style.colour) return text;
  const char* colour = "\x1b[1;31m";
  if (outcome == v1::LoadReport::OUTCOME_COMPLETE || outcome == v1::LoadReport::OUTCOME_PLANNED) colour = "\x1b[1;32m";
  if (outcome == v1::LoadReport::OUTCOME_INCOMPLETE) colour = "\x1b[1;33m";
  return colour + text + "\x1b[0m";
}

// "104 expected, 104 loaded, 0 missing"; what is zero and not asked about stays out.
std::string KeysLine(const v1::KeyCounts& keys) {
  std::vector<std::string> parts = {absl::StrFormat("%d expected", keys.expected()),
                                    absl::StrFormat("%d selected", keys.selected()),
                                    absl::StrFormat("%d loaded", keys.loaded())};
  auto add = [&](uint64_t count, const char* what, bool always) {
    if (count > 0 || always) parts.push_back(absl::StrFormat("%d %s", count, what));
  };
  add(keys.lazy(), "lazy", false);
  add(keys.initialized(), "initialized", false);
  add(keys.missing(), "missing", true);
  add(keys.missing_ignored(), "missing ignored", false);
  add(keys.missing_tied(), "missing but tied", false);
  add(keys.unexpected(), "unexpected", true);
  add(keys.unexpected_ignored(), "unexpected ignored", false);
  add(keys.mismatched(), "mismatched", true);
  add(keys.tied_conflicts(), "tied conflicts", false);
  return absl::StrJoin(parts, ", ");
}

std::string BytesLine(const v1::Bytes& bytes) {
  std::string line = absl::StrFormat("%s selected, %s read, %s mapped", FormatByteSize(bytes.selected()),
                                     FormatByteSize(bytes.read()), FormatByteSize(bytes.mapped()));
  std::vector<std::string> notes;
  if (bytes.cached() > 0) notes.push_back(FormatByteSize(bytes.cached()) + " of the read from the page cache");
  // What is resident already is selected and not read: then nothing can be said.
  const uint64_t wanted = bytes.selected() > bytes.mapped() ? bytes.selected() - bytes.mapped() : 0;
  if (wanted > 0 && bytes.read() > wanted) {
    const double over = static_cast<double>(bytes.read() - wanted) / static_cast<double>(wanted);
    notes.push_back(absl::StrFormat("over-read %.1f %%", 100 * over));
  }
  return notes.empty() ? line : line + " (" + absl::StrJoin(notes, ", ") + ")";
}

bool IsOnServer(const v1::LoadReport& report) {
  return report.outcome() == v1::LoadReport::OUTCOME_COMPLETE || report.outcome() == v1::LoadReport::OUTCOME_INCOMPLETE;
}

std::string Rest(const v1::LoadReport& report, const std::string& state, uint64_t total, int shown) {
  if (total <= static_cast<uint64_t>(shown)) return "";
  std::string how = IsOnServer(report)
                        ? absl::StrFormat("keyload keys %s --state %s", report.model(), state)
                        : absl::StrFormat("the same command with --names %d --json", std::min<uint64_t>(total, 10000));
  return absl::StrFormat("  and %d more: %s\n", total - shown, how);
}

std::string NameList(const v1::LoadReport& report, const std::string& state, uint64_t total,
                     const google::protobuf::RepeatedPtrField<std::string>& names) {
  if (total == 0) return "";
  std::string out = absl::StrFormat("\n%s keys (%d)\n", state, total);
  int shown = std::min(names.size(), kKeysShown);
  for (int i = 0; i < shown; ++i) out += "  " + names[i] + "\n";
  return out + Rest(report, state, total, shown);
}

std::string MismatchedList(const v1::LoadReport& report) {
  uint64_t total = report.keys().mismatched();
  if (total == 0) return "";
  std::string out = absl::StrFormat("\nmismatched keys (%d)\n", total);
  int shown = std::min(report.mismatched_keys_size(), kKeysShown);
  for (int i = 0; i < shown; ++i) {
    const v1::MismatchedKey& key = report.mismatched_keys(i);
    out += absl::StrFormat("  %s: expected %s %s, found %s %s\n", key.key(), key.expected_dtype(),
                           ShapeText(key.expected_shape()), key.found_dtype(), ShapeText(key.found_shape()));
  }
  return out + Rest(report, "mismatched", total, shown);
}

std::string PhasesText(const v1::LoadReport& report) {
  if (report.phases_size() == 0) return "";
  Table table({{"phase"}, {"time", Table::kRight}});
  for (const v1::Phase& phase : report.phases()) table.AddRow({phase.name(), SecondsText(Seconds(phase.duration()))});
  for (const v1::Phase& phase : report.busy()) {
    table.AddRow({"  busy: " + phase.name(), SecondsText(Seconds(phase.duration()))});
  }
  return "\n" + table.Render();
}

// How the bytes of each shard came; nothing where none did.
std::string ShardsText(const v1::LoadReport& report) {
  if (report.bytes().read() + report.bytes().mapped() == 0) return "";
  Table table({{"shard"},
               {"tensors", Table::kRight},
               {"selected", Table::kRight},
               {"read", Table::kRight},
               {"engine"},
               {"time", Table::kRight}});
  int moved = 0;
  for (const v1::ShardUse& shard : report.shards()) {
    if (shard.engine().empty()) continue;
    if (++moved > kShardsShown) continue;
    table.AddRow({shard.file(), std::to_string(shard.tensors()), FormatByteSize(shard.selected_bytes()),
                  FormatByteSize(shard.read_bytes()), shard.engine(), SecondsText(Seconds(shard.duration()))});
  }
  if (table.empty()) return "";
  std::string out = "\n" + table.Render();
  if (moved > kShardsShown) out += absl::StrFormat("and %d more: --json prints them all\n", moved - kShardsShown);
  return out;
}

std::string WarningsText(const v1::LoadReport& report) {
  std::string out;
  for (const std::string& warning : report.warnings()) out += "warning: " + warning + "\n";
  return out.empty() ? out : "\n" + out;
}

}  // namespace

std::string ShapeText(const google::protobuf::RepeatedField<uint64_t>& shape) {
  return "[" + absl::StrJoin(shape, ", ") + "]";
}

std::string ReportText(const v1::LoadReport& report, const TextStyle& style) {
  std::string out =
      absl::StrFormat("%s: %s\n", report.model(), Coloured(EnumWord(report.outcome()), report.outcome(), style));
  if (report.has_error()) {
    out += absl::StrFormat("error   %s: %s\n", report.error().reason(), report.error().message());
  }
  out += absl::StrFormat("keys    %s\n", KeysLine(report.keys()));
  out += absl::StrFormat("        expected keys from the %s\n",
                         report.expected_from() == v1::ExpectedKeys::FROM_MANIFEST ? "manifest"
                         : report.expected_from() == v1::ExpectedKeys::FROM_CONFIG ? "config"
                         : report.expected_from() == v1::ExpectedKeys::FROM_LIKE   ? "other checkpoint"
                                                                                   : "checkpoint");
  out += absl::StrFormat("bytes   %s\n", BytesLine(report.bytes()));
  out += absl::StrFormat("time    %s\n", SecondsText(Seconds(report.total_duration())));
  out += DeviceUseText(report.devices());
  out += DeviceMapText(report.device_map());
  out += ShardsText(report);
  out += PhasesText(report);
  out += NameList(report, "missing", report.keys().missing(), report.missing_keys());
  out += NameList(report, "unexpected", report.keys().unexpected(), report.unexpected_keys());
  out += MismatchedList(report);
  out += WarningsText(report);
  return out;
}

}  // namespace keyload::cli
