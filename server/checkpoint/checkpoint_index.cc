#include "server/checkpoint/checkpoint_index.h"

#include <algorithm>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/shard_faults.h"

namespace keyload {

absl::Status CheckpointIndex::CheckEntries(const Content& content) {
  if (content.directory == nullptr) return absl::OkStatus();
  if (!content.index_file.empty() && content.index_identity != FileIdentity()) {
    KEYLOAD_RETURN_IF_ERROR(content.directory->CheckEntry(content.index_file, content.index_identity));
  }
  for (const Shard& shard : content.shards) {
    if (shard.fd == nullptr) continue;  // not opened
    KEYLOAD_RETURN_IF_ERROR(content.directory->CheckEntry(shard.file, shard.identity));
  }
  return absl::OkStatus();
}

absl::Status CheckpointIndex::ShardsAbsent(const std::vector<uint32_t>& needed, std::string_view hint) const {
  std::vector<std::string> names;
  for (const uint32_t shard : needed) names.push_back(content_.shards[shard].file);
  return MakeError(Reason::kCheckpointNotFound,
                   StrCat(content_.directory->PathOf(content_.index_file), ": ", names.size(), " of ",
                          content_.shards.size(), " shards ", names.size() == 1 ? "is" : "are",
                          " absent and needed: ", NamesWithin(names, kMaxNamesInMessage), hint),
                   {{"path", content_.resolved},
                    {"shard", names.front()},
                    {"absent", NamesWithin(names, kMaxNamesInMetadata)},
                    {"absent_count", StrCat(names.size())}});
}

std::vector<std::string> CheckpointIndex::Warnings() const {
  std::vector<std::string> warnings = content_.warnings;
  if (const OtherCopies& copies = headers().other_copies(); copies.count > 0) {
    warnings.push_back(StrCat(index_file(), ": ", copies.count, copies.count == 1 ? " tensor is" : " tensors are",
                              " in two shards; the one that it names counts, as ", shards()[copies.counts].file,
                              " for ", copies.example, ", which is in ", shards()[copies.other].file, " too"));
  }
  if (!absent_keys().empty()) {
    std::vector<bool> is_absent(shards().size());
    for (const AbsentKey& key : absent_keys()) is_absent[key.shard] = true;
    const auto absent = std::count(is_absent.begin(), is_absent.end(), true);
    warnings.push_back(StrCat(index_file(), ": ", absent, " of its ", shards().size(), " shards ",
                              absent == 1 ? "is" : "are", " absent, with ", absent_keys().size(),
                              " keys, of which none that is expected is selected"));
  }
  return warnings;
}

}  // namespace keyload
