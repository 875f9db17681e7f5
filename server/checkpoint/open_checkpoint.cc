#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/index_file.h"
#include "server/checkpoint/json_checks.h"
#include "server/checkpoint/shard_file.h"
#include "server/checkpoint/weight_files.h"

namespace keyload {
namespace {

constexpr std::string_view kSafetensors = ".safetensors";
constexpr std::string_view kIndexSuffix = ".safetensors.index.json";

// Opens one source; used once.
class CheckpointOpener {
 public:
  using Result = absl::StatusOr<std::shared_ptr<const CheckpointIndex>>;

  CheckpointOpener(const ModelRoots& roots, const CheckpointSource& source, const RequestContext& context)
      : roots_(roots), source_(source), context_(context) {}

  Result Open();

 private:
  Result OpenFile(OpenedPath opened);
  Result OpenDirectory(OpenedPath directory, const std::string& weights);
  Result OpenIndexed(const std::string& directory, const std::string& index_path, const IndexFile& index_file);
  absl::Status AddShard(OpenedPath opened, const std::string& path, const std::string& name);
  absl::StatusOr<std::shared_ptr<CheckpointIndex>> Build();

  const ModelRoots& roots_;
  const CheckpointSource& source_;
  const RequestContext& context_;
  CheckpointIndex::Content content_;
};

std::string_view BaseName(std::string_view path) { return path.substr(path.rfind('/') + 1); }

absl::Status NameTwice(const CheckpointIndex& index, const StoredTensor& a, const StoredTensor& b) {
  const Shard& first = index.shards()[a.shard];
  const Shard& second = index.shards()[b.shard];
  return MakeError(
      Reason::kCheckpointCorrupt,
      absl::StrFormat("%s: tensor \"%s\" is in shard %s and again in shard %s", index.resolved(), Shortened(a.name),
                      first.file, second.file),
      {{"path", index.resolved()}, {"key", Shortened(a.name)}, {"file", first.file}, {"shard", second.file}});
}

// What the index file says against what the headers say.
absl::Status CrossCheck(const IndexFile& file, const std::string& path, CheckpointIndex& index) {
  std::vector<std::string> index_only;
  std::vector<bool> indexed(index.tensors().size());
  const auto twice = [&](std::string_view key) {
    return MakeError(Reason::kCheckpointCorrupt,
                     absl::StrFormat("%s: key \"%s\" comes twice in weight_map", path, Shortened(key)),
                     {{"file", path}, {"key", Shortened(key)}});
  };
  for (const IndexFile::Entry& entry : file.entries) {
    const int64_t found = index.Find(entry.key);
    if (found < 0) {
      index_only.emplace_back(entry.key);
      continue;
    }
    const StoredTensor& tensor = index.tensors()[found];
    if (tensor.shard != entry.shard) {
      const std::string& said = file.shards[entry.shard];
      return MakeError(Reason::kCheckpointCorrupt,
                       absl::StrFormat("%s: key \"%s\" should be in shard %s, but is in %s", path, Shortened(entry.key),
                                       said, index.shards()[tensor.shard].file),
                       {{"file", path}, {"key", Shortened(entry.key)}, {"shard", said}});
    }
    if (indexed[found]) return twice(entry.key);
    indexed[found] = true;
  }
  std::sort(index_only.begin(), index_only.end());
  const auto same = std::adjacent_find(index_only.begin(), index_only.end());
  if (same != index_only.end()) return twice(*same);

  std::vector<std::string> unindexed;
  for (size_t i = 0; i < indexed.size(); ++i) {
    if (!indexed[i]) unindexed.emplace_back(index.tensors()[i].name);
  }
  index.SetIndexDifferences(std::move(index_only), std::move(unindexed));
  return absl::OkStatus();
}

CheckpointOpener::Result CheckpointOpener::Open() {
  KEYLOAD_RETURN_IF_ERROR(context_.Check());
  // An index file given as the path stands for its directory: the shards are beside the name, not beside what a symlink
  // leads to.
  if (source_.path.starts_with('/') && source_.path.ends_with(kIndexSuffix) && source_.weights.empty()) {
    const std::string name(BaseName(source_.path));
    const std::string parent = source_.path.substr(0, source_.path.size() - name.size());
    KEYLOAD_ASSIGN_OR_RETURN(OpenedPath directory, roots_.Open(parent));
    return OpenDirectory(std::move(directory), name);
  }
  KEYLOAD_ASSIGN_OR_RETURN(OpenedPath opened, roots_.Open(source_.path));
  return opened.is_directory ? OpenDirectory(std::move(opened), source_.weights) : OpenFile(std::move(opened));
}

CheckpointOpener::Result CheckpointOpener::OpenFile(OpenedPath opened) {
  if (!source_.weights.empty()) {
    return MakeError(Reason::kBadRequest,
                     absl::StrFormat("%s is a file; weights can be chosen only in a directory", source_.path),
                     {{"path", source_.path}});
  }
  if (!source_.path.ends_with(kSafetensors)) {
    return MakeError(Reason::kFormatNotSupported, absl::StrFormat("%s is not a .safetensors file", source_.path),
                     {{"path", source_.path}});
  }
  content_.resolved = opened.resolved;
  KEYLOAD_RETURN_IF_ERROR(AddShard(std::move(opened), source_.path, std::string(BaseName(source_.path))));
  return Build();
}

CheckpointOpener::Result CheckpointOpener::OpenDirectory(OpenedPath directory, const std::string& weights) {
  if (!directory.is_directory) {
    return MakeError(Reason::kCheckpointNotFound, absl::StrFormat("%s is not a directory", directory.resolved),
                     {{"path", directory.resolved}});
  }
  content_.resolved = directory.resolved;
  KEYLOAD_ASSIGN_OR_RETURN(WeightFile file, FindWeights(roots_, directory, weights, source_.allow_no_weights));
  if (file.kind == WeightFile::Kind::kNone) return Build();
  const std::string path = absl::StrFormat("%s/%s", directory.resolved, file.name);
  if (file.kind == WeightFile::Kind::kSafetensors) {
    KEYLOAD_RETURN_IF_ERROR(AddShard(std::move(file.opened), path, file.name));
    return Build();
  }
  KEYLOAD_ASSIGN_OR_RETURN(const JsonBuffer json, ReadJsonFile(file.opened, path, kMaxIndexBytes));
  KEYLOAD_ASSIGN_OR_RETURN(const IndexFile index_file, ParseIndexFile(json, path));
  content_.index_file = file.name;
  return OpenIndexed(directory.resolved, path, index_file);
}

CheckpointOpener::Result CheckpointOpener::OpenIndexed(const std::string& directory, const std::string& index_path,
                                                       const IndexFile& index_file) {
  content_.tensors.reserve(index_file.entries.size());
  for (const std::string& name : index_file.shards) {
    KEYLOAD_RETURN_IF_ERROR(context_.Check());
    const std::string path = absl::StrFormat("%s/%s", directory, name);
    absl::StatusOr<OpenedPath> opened = roots_.Open(path);
    absl::Status status = opened.ok() ? AddShard(*std::move(opened), path, name) : std::move(opened).status();
    if (!status.ok()) {
      return Annotate(status, absl::StrFormat("%s: shard %s", index_path, name), {{"shard", name}});
    }
  }
  KEYLOAD_ASSIGN_OR_RETURN(std::shared_ptr<CheckpointIndex> index, Build());
  KEYLOAD_RETURN_IF_ERROR(CrossCheck(index_file, index_path, *index));
  return index;
}

absl::Status CheckpointOpener::AddShard(OpenedPath opened, const std::string& path, const std::string& name) {
  const auto number = static_cast<uint32_t>(content_.shards.size());
  KEYLOAD_ASSIGN_OR_RETURN(ShardContent shard, ReadShard(std::move(opened), path, name, number));
  if (content_.tensors.capacity() == 0) content_.tensors.swap(shard.header.tensors);  // the only shard
  std::move(shard.header.tensors.begin(), shard.header.tensors.end(), std::back_inserter(content_.tensors));
  content_.shards.push_back(std::move(shard.shard));
  content_.name_blocks.push_back(std::move(shard.header.names));
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<CheckpointIndex>> CheckpointOpener::Build() {
  auto index = std::make_shared<CheckpointIndex>(std::move(content_));
  if (!index->HasDuplicateNames()) return index;
  for (size_t i = 0; i < index->tensors().size(); ++i) {
    const StoredTensor& tensor = index->tensors()[i];
    const auto first = static_cast<size_t>(index->Find(tensor.name));
    if (first != i) return NameTwice(*index, index->tensors()[first], tensor);
  }
  return MakeError(Reason::kInternal, "names are not unique, but none is double");
}

}  // namespace

absl::StatusOr<std::shared_ptr<const CheckpointIndex>> OpenCheckpoint(const ModelRoots& roots,
                                                                      const CheckpointSource& source,
                                                                      const RequestContext& context) {
  return CheckpointOpener(roots, source, context).Open();
}

}  // namespace keyload
