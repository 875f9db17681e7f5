#include "server/service/audit_keys.h"

#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include "server/audit/audit_config.h"
#include "server/audit/audit_names.h"
#include "server/audit/index_size.h"
#include "server/audit/numbered_lists.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/base/whole_file.h"
#include "server/checkpoint/header_memory.h"
#include "server/expected/config_value.h"

namespace keyload {
namespace {

// The text of a file beside the weights.
absl::StatusOr<std::string> ReadBeside(const std::string& name, uint64_t limit, const LoadSpec& spec,
                                       const CheckpointIndex& index, const KeySources& sources,
                                       const RequestContext& context) {
  const std::shared_ptr<const CheckpointDirectory> directory = index.source_directory();
  if (directory == nullptr) return absl::NotFoundError("the source is a file");
  const std::string path = StrCat(spec.source.path, "/", name);
  const auto read = [roots = sources.roots, path, name, limit, directory]() -> absl::StatusOr<std::string> {
    KEYLOAD_ASSIGN_OR_RETURN(const OpenedPath file, directory->Open(*roots, name));
    return ReadWholeFile(file.fd.get(), path, limit);
  };
  return sources.Touch(path, context, read);
}

// What the index says about bytes.
std::optional<Finding> AuditTotalSize(const CheckpointIndex& index) {
  const std::optional<uint64_t> said = index.headers().total_size();
  uint64_t stored = 0;
  for (const StoredTensor& tensor : index.tensors()) stored += tensor.bytes;
  return said ? CompareTotalSize(*said, stored) : std::nullopt;
}

Finding NotLookedAt(std::string_view why) {
  return {.rule = "alike",
          .message = StrCat("the names were not looked at for gaps: ", why),
          .count = 0,
          .names = {},
          .lacks = false};
}

}  // namespace

absl::StatusOr<std::vector<Finding>> AuditKeys(const LoadSpec& spec, const CheckpointIndex& index,
                                               const KeySources& sources, const RequestContext& context) {
  const std::vector<StoredTensor>& tensors = index.tensors();
  if (tensors.size() > kMaxAuditedKeys)
    return std::vector<Finding>{NotLookedAt(StrCat("there are ", tensors.size(), ", more than ", kMaxAuditedKeys))};
  HeaderCharge charge(sources.headers.memory, sources.headers.cache);
  if (const absl::Status room = charge.Add(NumberedLists::MemoryBytes(tensors), index.resolved()); !room.ok())
    return std::vector<Finding>{NotLookedAt(ToStd(room.message()))};
  KEYLOAD_ASSIGN_OR_RETURN(const NumberedLists lists, NumberedLists::Collect(tensors, context));
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<Finding> findings, AuditNames(lists, context));
  if (std::optional<Finding> bytes = AuditTotalSize(index)) findings.push_back(*std::move(bytes));
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  const absl::StatusOr<std::string> json = ReadBeside("config.json", kMaxConfigBytes, spec, index, sources, context);
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  if (!json.ok()) return findings;
  KEYLOAD_RETURN_IF_ERROR(context.TakeHeap(ConfigParseBytes(*json), "config.json"));
  const absl::StatusOr<ConfigValue> config = ParseConfigJson(*json, "config.json");
  if (!config.ok()) return findings;
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<Finding> further, AuditConfig(lists, *config, context));
  findings.insert(findings.end(), std::make_move_iterator(further.begin()), std::make_move_iterator(further.end()));
  return findings;
}

}  // namespace keyload
