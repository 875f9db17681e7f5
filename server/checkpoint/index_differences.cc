#include "server/checkpoint/index_differences.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/checkpoint/json_checks.h"

namespace keyload {
namespace {

// A string of its own in a list that grows by doubling.
uint64_t BytesOfKept(std::string_view key) { return 3 * sizeof(AbsentKey) + key.size(); }

}  // namespace

absl::Status CompareWithIndex(const IndexFile& file, const std::string& path, const RequestContext& context,
                              HeaderCharge& charge, CheckpointHeaders& headers) {
  SteppedCharge counted(&charge);
  size_t compared = 0;
  std::vector<std::string> index_only;
  std::vector<AbsentKey> absent;
  const auto is_absent = [&](uint32_t shard) { return headers.shards()[shard].identity == FileIdentity(); };
  std::vector<bool> indexed(headers.tensors().size());
  const auto twice = [&](std::string_view key) {
    return MakeError(Reason::kCheckpointCorrupt,
                     absl::StrFormat("%s: key \"%s\" comes twice in weight_map", path, Shortened(key)),
                     {{"file", path}, {"key", Shortened(key)}});
  };
  int64_t next = 0;  // writers list the keys of a shard in the order in which it has them, more often than not
  for (const IndexFile::Entry& entry : file.entries) {
    if (++compared % 4096 == 0) KEYLOAD_RETURN_IF_ERROR(context.Check());
    const int64_t found = headers.Find(entry.key, next);
    if (found < 0) {
      KEYLOAD_RETURN_IF_ERROR(counted.Add(BytesOfKept(entry.key), path));
      if (is_absent(entry.shard)) {
        absent.push_back({.name = std::string(entry.key), .shard = entry.shard});
      } else {
        index_only.emplace_back(entry.key);
      }
      continue;
    }
    next = found + 1;
    const StoredTensor& tensor = headers.tensors()[found];
    if (tensor.shard != entry.shard) {
      const std::string& said = file.shards[entry.shard];
      return MakeError(Reason::kCheckpointCorrupt,
                       absl::StrFormat("%s: key \"%s\" should be in shard %s, but is in %s", path, Shortened(entry.key),
                                       said, headers.shards()[tensor.shard].file),
                       {{"file", path}, {"key", Shortened(entry.key)}, {"shard", said}});
    }
    if (indexed[found]) return twice(entry.key);
    indexed[found] = true;
  }
  std::sort(index_only.begin(), index_only.end());
  const auto same = std::adjacent_find(index_only.begin(), index_only.end());
  if (same != index_only.end()) return twice(*same);
  std::sort(absent.begin(), absent.end(), [](const AbsentKey& a, const AbsentKey& b) { return a.name < b.name; });
  const auto same_absent = std::adjacent_find(absent.begin(), absent.end(),
                                              [](const AbsentKey& a, const AbsentKey& b) { return a.name == b.name; });
  if (same_absent != absent.end()) return twice(same_absent->name);

  std::vector<std::string> unindexed;
  for (size_t i = 0; i < indexed.size(); ++i) {
    if (indexed[i]) continue;
    KEYLOAD_RETURN_IF_ERROR(counted.Add(BytesOfKept(headers.tensors()[i].name), path));
    unindexed.emplace_back(headers.tensors()[i].name);
  }
  headers.SetIndexDifferences(std::move(index_only), std::move(unindexed), std::move(absent));
  return absl::OkStatus();
}

}  // namespace keyload
