#include "server/service/audit_keys.h"

#include <iterator>
#include <string>
#include <utility>

#include "server/audit/audit_config.h"
#include "server/audit/audit_names.h"
#include "server/audit/numbered_lists.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/base/whole_file.h"
#include "server/checkpoint/header_memory.h"
#include "server/expected/config_value.h"

namespace keyload {
namespace {

absl::StatusOr<ConfigValue> ReadConfig(const LoadSpec& spec, const CheckpointIndex& index, const KeySources& sources,
                                       const RequestContext& context) {
  const std::shared_ptr<const CheckpointDirectory> directory = index.source_directory();
  if (directory == nullptr) return absl::NotFoundError("the source is a file");
  const std::string path = StrCat(spec.source.path, "/config.json");
  const auto read = [roots = sources.roots, path, directory]() -> absl::StatusOr<std::string> {
    KEYLOAD_ASSIGN_OR_RETURN(const OpenedPath file, directory->Open(*roots, "config.json"));
    return ReadWholeFile(file.fd.get(), path, kMaxConfigBytes);
  };
  KEYLOAD_ASSIGN_OR_RETURN(const std::string json, sources.Touch(path, context, read));
  return ParseConfigJson(json, path);
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
  if (const absl::Status room = charge.Add(NumberedLists::MemoryBytes(tensors.size()), index.resolved()); !room.ok())
    return std::vector<Finding>{NotLookedAt(ToStd(room.message()))};
  KEYLOAD_ASSIGN_OR_RETURN(const NumberedLists lists, NumberedLists::Collect(tensors, context));
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<Finding> findings, AuditNames(lists, context));
  const absl::StatusOr<ConfigValue> config = ReadConfig(spec, index, sources, context);
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  if (!config.ok()) return findings;
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<Finding> further, AuditConfig(lists, *config, context));
  findings.insert(findings.end(), std::make_move_iterator(further.begin()), std::make_move_iterator(further.end()));
  return findings;
}

}  // namespace keyload
