#include <algorithm>
#include <atomic>
#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/base/parallel.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/header_cache.h"
#include "server/checkpoint/index_file.h"
#include "server/checkpoint/json_checks.h"
#include "server/checkpoint/shard_file.h"
#include "server/checkpoint/weight_files.h"

namespace keyload {
namespace {

// Opens one source; used once.
class CheckpointOpener {
 public:
  using Result = absl::StatusOr<std::shared_ptr<const CheckpointIndex>>;

  CheckpointOpener(const ModelRoots& roots, const CheckpointSource& source, const RequestContext& context,
                   const HeaderReading& reading)
      : roots_(roots), source_(source), context_(context), reading_(reading) {
    if (reading_.cache != nullptr) opened_at_ = reading_.cache->now();
  }

  Result Open();

 private:
  // A shard's header: read now, or known already.
  struct ShardRead {
    SafetensorsHeader header;
    HeaderCache::KnownShard known;  // of no headers: `header` it is
  };

  Result OpenFile(OpenedPath opened);
  Result OpenDirectory(OpenedPath directory, const std::string& weights);
  Result OpenOnlyShard(OpenedPath opened, const std::string& path, const std::string& name);
  Result OpenIndexed(const std::string& directory, const OpenedPath& index);
  absl::Status AddShards(const std::vector<std::string>& names, const std::string& directory);
  absl::Status ReadShard(uint32_t number, const std::string& path);
  // Before all headers are kept: counts those of one more shard.
  absl::Status CountKeys(uint64_t keys, const std::string& path);
  bool AllKnown() const;
  absl::StatusOr<std::shared_ptr<CheckpointHeaders>> Assemble();
  Result Finish(std::shared_ptr<const CheckpointHeaders> headers);

  const ModelRoots& roots_;
  const CheckpointSource& source_;
  const RequestContext& context_;
  const HeaderReading& reading_;
  absl::Time opened_at_;
  FileIdentity start_;                              // the index file, or the only shard
  std::shared_ptr<const CheckpointHeaders> known_;  // of the same start; null if there are none
  std::vector<ShardRead> reads_;                    // per shard
  std::atomic<uint64_t> keys_ = 0;                  // of the shards that were read so far
  CheckpointIndex::Content content_;
};

std::string_view BaseName(std::string_view path) { return path.substr(path.rfind('/') + 1); }

absl::Status NameTwice(const CheckpointHeaders& headers, const std::string& path) {
  for (size_t i = 0; i < headers.tensors().size(); ++i) {
    const StoredTensor& tensor = headers.tensors()[i];
    const auto first = static_cast<size_t>(headers.Find(tensor.name));
    if (first == i) continue;
    const std::string& file = headers.shards()[headers.tensors()[first].shard].file;
    const std::string& again = headers.shards()[tensor.shard].file;
    return MakeError(Reason::kCheckpointCorrupt,
                     absl::StrFormat("%s: tensor \"%s\" is in shard %s and again in shard %s", path,
                                     Shortened(tensor.name), file, again),
                     {{"path", path}, {"key", Shortened(tensor.name)}, {"file", file}, {"shard", again}});
  }
  return MakeError(Reason::kInternal, "names are not unique, but none is double");
}

// What the index file says against what the headers say.
absl::Status CrossCheck(const IndexFile& file, const std::string& path, CheckpointHeaders& headers) {
  std::vector<std::string> index_only;
  std::vector<bool> indexed(headers.tensors().size());
  const auto twice = [&](std::string_view key) {
    return MakeError(Reason::kCheckpointCorrupt,
                     absl::StrFormat("%s: key \"%s\" comes twice in weight_map", path, Shortened(key)),
                     {{"file", path}, {"key", Shortened(key)}});
  };
  int64_t next = 0;  // writers list the keys of a shard in the order in which it has them, more often than not
  for (const IndexFile::Entry& entry : file.entries) {
    const int64_t found = headers.Find(entry.key, next);
    if (found < 0) {
      index_only.emplace_back(entry.key);
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

  std::vector<std::string> unindexed;
  for (size_t i = 0; i < indexed.size(); ++i) {
    if (!indexed[i]) unindexed.emplace_back(headers.tensors()[i].name);
  }
  headers.SetIndexDifferences(std::move(index_only), std::move(unindexed));
  return absl::OkStatus();
}

CheckpointOpener::Result CheckpointOpener::Open() {
  KEYLOAD_RETURN_IF_ERROR(context_.Check());
  // An index file given as the path stands for its directory: the shards are beside the name, not beside what a symlink
  // leads to.
  if (source_.path.starts_with('/') && source_.path.ends_with(kIndexFileSuffix) && source_.weights.empty()) {
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
  if (!source_.path.ends_with(kSafetensorsSuffix)) {
    return MakeError(Reason::kFormatNotSupported, absl::StrFormat("%s is not a .safetensors file", source_.path),
                     {{"path", source_.path}});
  }
  content_.resolved = opened.resolved;
  return OpenOnlyShard(std::move(opened), source_.path, std::string(BaseName(source_.path)));
}

CheckpointOpener::Result CheckpointOpener::OpenDirectory(OpenedPath directory, const std::string& weights) {
  if (!directory.is_directory) {
    return MakeError(Reason::kCheckpointNotFound, absl::StrFormat("%s is not a directory", directory.resolved),
                     {{"path", directory.resolved}});
  }
  content_.resolved = directory.resolved;
  KEYLOAD_ASSIGN_OR_RETURN(WeightFile file, FindWeights(roots_, directory, weights, source_.allow_no_weights));
  if (file.kind == WeightFile::Kind::kNone) {
    return Finish(std::make_shared<const CheckpointHeaders>(CheckpointHeaders::Content()));
  }
  if (file.kind == WeightFile::Kind::kSafetensors) {
    return OpenOnlyShard(std::move(file.opened), absl::StrFormat("%s/%s", directory.resolved, file.name), file.name);
  }
  content_.index_file = file.name;
  return OpenIndexed(directory.resolved, file.opened);
}

CheckpointOpener::Result CheckpointOpener::OpenOnlyShard(OpenedPath opened, const std::string& path,
                                                         const std::string& name) {
  KEYLOAD_ASSIGN_OR_RETURN(Shard shard, MakeShard(std::move(opened), path, name));
  start_ = shard.identity;
  if (reading_.cache != nullptr) known_ = reading_.cache->FindCheckpoint(start_);
  content_.shards.push_back(std::move(shard));
  reads_.resize(1);
  KEYLOAD_RETURN_IF_ERROR(ReadShard(0, path));
  if (AllKnown()) return Finish(known_);
  KEYLOAD_ASSIGN_OR_RETURN(std::shared_ptr<CheckpointHeaders> headers, Assemble());
  return Finish(std::move(headers));
}

CheckpointOpener::Result CheckpointOpener::OpenIndexed(const std::string& directory, const OpenedPath& index) {
  const std::string path = absl::StrFormat("%s/%s", directory, content_.index_file);
  KEYLOAD_ASSIGN_OR_RETURN(start_, IdentifyJsonFile(index, path));
  if (reading_.cache != nullptr) known_ = reading_.cache->FindCheckpoint(start_);
  // A shard under the name of an index file is not one.
  if (known_ != nullptr && known_->shards()[0].identity == start_) known_ = nullptr;
  IndexFile file;
  const auto read_index = [&]() -> absl::Status {
    KEYLOAD_ASSIGN_OR_RETURN(const JsonBuffer json, ReadJsonFile(index, path, start_.size, kMaxIndexBytes));
    KEYLOAD_ASSIGN_OR_RETURN(file, ParseIndexFile(json, path));
    return absl::OkStatus();
  };
  // An index file that is known names the shards that it named before.
  std::vector<std::string> names;
  if (known_ == nullptr) {
    KEYLOAD_RETURN_IF_ERROR(read_index());
    names = file.shards;
  } else {
    for (const ShardHeader& shard : known_->shards()) names.push_back(shard.file);
  }
  KEYLOAD_RETURN_IF_ERROR(AddShards(names, directory));
  if (AllKnown()) return Finish(known_);
  if (known_ != nullptr) KEYLOAD_RETURN_IF_ERROR(read_index());
  KEYLOAD_ASSIGN_OR_RETURN(std::shared_ptr<CheckpointHeaders> headers, Assemble());
  KEYLOAD_RETURN_IF_ERROR(CrossCheck(file, path, *headers));
  return Finish(std::move(headers));
}

absl::Status CheckpointOpener::AddShards(const std::vector<std::string>& names, const std::string& directory) {
  content_.shards.resize(names.size());
  reads_.resize(names.size());
  return ParallelFor(reading_.threads, names.size(), [&](size_t i) -> absl::Status {
    KEYLOAD_RETURN_IF_ERROR(context_.Check());
    const std::string path = absl::StrFormat("%s/%s", directory, names[i]);
    absl::StatusOr<OpenedPath> opened = roots_.Open(path);
    absl::StatusOr<Shard> shard =
        opened.ok() ? MakeShard(*std::move(opened), path, names[i]) : std::move(opened).status();
    absl::Status status = shard.status();
    if (shard.ok()) {
      content_.shards[i] = *std::move(shard);
      status = ReadShard(static_cast<uint32_t>(i), path);
    }
    return Annotate(status, absl::StrFormat("%s/%s: shard %s", directory, content_.index_file, names[i]),
                    {{"shard", names[i]}});
  });
}

// Only touches what belongs to the shard: other shards are read at the same time.
absl::Status CheckpointOpener::ReadShard(uint32_t number, const std::string& path) {
  Shard& shard = content_.shards[number];
  ShardRead& read = reads_[number];
  if (known_ != nullptr && known_->shards()[number].identity == shard.identity) {
    read.known = {.headers = known_, .shard = number};
  } else if (reading_.cache != nullptr) {
    read.known = reading_.cache->FindShard(shard.identity).value_or(HeaderCache::KnownShard());
  }
  if (read.known.headers != nullptr) {
    const ShardHeader& known = read.known.headers->shards()[read.known.shard];
    shard.data_offset = known.data_offset;
    return CountKeys(known.tensor_count, path);
  }
  KEYLOAD_ASSIGN_OR_RETURN(read.header, ReadShardHeader(shard, path, number));
  shard.data_offset = read.header.data_offset;
  return CountKeys(read.header.tensors.size(), path);
}

absl::Status CheckpointOpener::CountKeys(uint64_t keys, const std::string& path) {
  if (keys_.fetch_add(keys) + keys <= reading_.max_keys) return absl::OkStatus();
  return MakeError(Reason::kCheckpointCorrupt,
                   absl::StrFormat("%s: with this shard the checkpoint has more than %d keys", path, reading_.max_keys),
                   {{"file", path}});
}

bool CheckpointOpener::AllKnown() const {
  return known_ != nullptr &&
         std::all_of(reads_.begin(), reads_.end(), [&](const ShardRead& read) { return read.known.headers == known_; });
}

// The headers of all shards, one after the other.
absl::StatusOr<std::shared_ptr<CheckpointHeaders>> CheckpointOpener::Assemble() {
  CheckpointHeaders::Content content;
  size_t count = 0;
  for (const ShardRead& read : reads_) {
    count += read.known.headers != nullptr ? read.known.headers->shards()[read.known.shard].tensor_count
                                           : read.header.tensors.size();
  }
  content.tensors.reserve(count);
  for (uint32_t number = 0; number < reads_.size(); ++number) {
    ShardRead& read = reads_[number];
    const Shard& shard = content_.shards[number];
    ShardHeader header = {.file = shard.file,
                          .identity = shard.identity,
                          .data_offset = shard.data_offset,
                          .first_tensor = static_cast<uint32_t>(content.tensors.size())};
    if (read.known.headers == nullptr) {
      header.names = std::move(read.header.names);
      std::move(read.header.tensors.begin(), read.header.tensors.end(), std::back_inserter(content.tensors));
      read.header.tensors = {};
    } else {
      const ShardHeader& known = read.known.headers->shards()[read.known.shard];
      header.names = known.names;
      const auto first = read.known.headers->tensors().begin() + known.first_tensor;
      std::copy(first, first + known.tensor_count, std::back_inserter(content.tensors));
      for (size_t i = header.first_tensor; i < content.tensors.size(); ++i) content.tensors[i].shard = number;
    }
    header.tensor_count = static_cast<uint32_t>(content.tensors.size()) - header.first_tensor;
    content.shards.push_back(std::move(header));
  }
  auto headers = std::make_shared<CheckpointHeaders>(std::move(content));
  if (headers->has_duplicate_names()) return NameTwice(*headers, content_.resolved);
  return headers;
}

CheckpointOpener::Result CheckpointOpener::Finish(std::shared_ptr<const CheckpointHeaders> headers) {
  if (reading_.cache != nullptr && headers != known_ && !headers->shards().empty()) {
    reading_.cache->Add(start_, headers, opened_at_);
  }
  content_.headers = std::move(headers);
  return std::make_shared<const CheckpointIndex>(std::move(content_));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const CheckpointIndex>> OpenCheckpoint(const ModelRoots& roots,
                                                                      const CheckpointSource& source,
                                                                      const RequestContext& context,
                                                                      const HeaderReading& reading) {
  return CheckpointOpener(roots, source, context, reading).Open();
}

}  // namespace keyload
