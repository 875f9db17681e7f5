#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/base/mutex.h"
#include "server/base/parallel.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/header_assembly.h"
#include "server/checkpoint/header_cache.h"
#include "server/checkpoint/index_differences.h"
#include "server/checkpoint/index_file.h"
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
      : roots_(roots),
        source_(source),
        context_(context),
        reading_(reading),
        charge_(std::make_unique<HeaderCharge>(reading.memory, reading.cache)) {
    if (reading_.cache != nullptr) opened_at_ = reading_.cache->now();
  }

  Result Open();

 private:
  Result OpenSource();
  Result OpenFile(OpenedPath opened);
  Result OpenDirectory(OpenedPath opened, const std::string& weights);
  Result OpenOnlyShard(OpenedPath opened, const std::string& path, const std::string& name);
  Result OpenIndexed(const OpenedPath& index);
  absl::Status AddShards(const std::vector<std::string>& names, HeaderAssembly& assembly);
  absl::StatusOr<ShardRead> OpenShard(uint32_t number, const std::string& name, const std::string& path);
  // A file that is there under two names has each of its tensors twice; that is told before its header is read twice.
  absl::Status CheckOnlyOnce(uint32_t number, const std::string& path);
  absl::StatusOr<ShardRead> ReadShard(uint32_t number, const std::string& path);
  // Counts the header of one more shard, before it is read, and its keys, before they are kept.
  absl::Status CountHeader(uint64_t bytes, const std::string& path);
  absl::Status CountKeys(uint64_t keys, const std::string& path);
  bool AllKnown() const;
  Result Finish(std::shared_ptr<CheckpointHeaders> headers);
  Result FinishKnown();

  const ModelRoots& roots_;
  const CheckpointSource& source_;
  const RequestContext& context_;
  const HeaderReading& reading_;
  std::unique_ptr<HeaderCharge> charge_;
  absl::Time opened_at_;
  FileIdentity start_;                              // the index file, or the only shard
  std::shared_ptr<const CheckpointHeaders> known_;  // of the same start; null if there are none
  std::vector<ShardRead> reads_;                    // per shard, where there are known headers
  std::atomic<uint64_t> keys_ = 0;                  // of the shards that were read so far
  std::atomic<uint64_t> header_bytes_ = 0;
  Mutex mutex_;
  absl::flat_hash_map<std::pair<uint64_t, uint64_t>, uint32_t> files_ ABSL_GUARDED_BY(mutex_);  // shards by file
  CheckpointIndex::Content content_;
};

std::string_view BaseName(std::string_view path) { return path.substr(path.rfind('/') + 1); }

// Errors that files of two versions give when they are taken for one checkpoint.
bool MayComeFromAChange(Reason reason) {
  return reason == Reason::kCheckpointNotFound || reason == Reason::kCheckpointCorrupt ||
         reason == Reason::kCheckpointTruncated;
}

CheckpointOpener::Result CheckpointOpener::Open() {
  KEYLOAD_RETURN_IF_ERROR(context_.Check());
  Result result = OpenSource();
  if (result.ok() || !MayComeFromAChange(ErrorReason(result.status()))) return result;
  KEYLOAD_RETURN_IF_ERROR(CheckpointIndex::CheckEntries(content_));
  return result;
}

CheckpointOpener::Result CheckpointOpener::OpenSource() {
  // An index file given as the path stands for its directory: the shards are beside the name, not beside what a symlink
  // leads to.
  if (source_.path.starts_with('/') && source_.path.ends_with(kIndexFileSuffix) && source_.weights.empty()) {
    const std::string name(BaseName(source_.path));
    const std::string parent = source_.path.substr(0, source_.path.size() - name.size());
    KEYLOAD_ASSIGN_OR_RETURN(OpenedPath directory, roots_.Open(parent));
    return OpenDirectory(std::move(directory), name);
  }
  KEYLOAD_ASSIGN_OR_RETURN(OpenedPath opened, roots_.Open(source_.path));
  if (!opened.is_directory) return OpenFile(std::move(opened));
  content_.from_directory = true;
  return OpenDirectory(std::move(opened), source_.weights);
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

CheckpointOpener::Result CheckpointOpener::OpenDirectory(OpenedPath opened, const std::string& weights) {
  if (!opened.is_directory) {
    return MakeError(Reason::kCheckpointNotFound, absl::StrFormat("%s is not a directory", opened.resolved),
                     {{"path", opened.resolved}});
  }
  content_.directory = std::make_shared<const CheckpointDirectory>(std::move(opened));
  content_.resolved = content_.directory->resolved();
  KEYLOAD_ASSIGN_OR_RETURN(WeightFile file, FindWeights(roots_, content_.directory->opened(), weights,
                                                        source_.allow_no_weights, context_, charge_.get()));
  if (file.kind == WeightFile::Kind::kNone) {
    return Finish(std::make_shared<CheckpointHeaders>(CheckpointHeaders::Content()));
  }
  if (file.kind == WeightFile::Kind::kSafetensors) {
    return OpenOnlyShard(std::move(file.opened), content_.directory->PathOf(file.name), file.name);
  }
  content_.index_file = file.name;
  return OpenIndexed(file.opened);
}

CheckpointOpener::Result CheckpointOpener::OpenOnlyShard(OpenedPath opened, const std::string& path,
                                                         const std::string& name) {
  KEYLOAD_ASSIGN_OR_RETURN(Shard shard, MakeShard(std::move(opened), path, name));
  start_ = shard.identity;
  if (reading_.cache != nullptr) known_ = reading_.cache->FindCheckpoint(start_);
  content_.shards.push_back(std::move(shard));
  reads_.resize(1);
  KEYLOAD_ASSIGN_OR_RETURN(reads_[0], ReadShard(0, path));
  if (AllKnown()) return FinishKnown();
  HeaderAssembly assembly(content_.resolved, 1, *charge_);
  KEYLOAD_RETURN_IF_ERROR(assembly.Reserve(keys_));
  KEYLOAD_RETURN_IF_ERROR(assembly.Add(0, content_.shards[0], std::move(reads_[0])));
  return Finish(assembly.Finish());
}

CheckpointOpener::Result CheckpointOpener::OpenIndexed(const OpenedPath& index) {
  const std::string path = content_.directory->PathOf(content_.index_file);
  KEYLOAD_ASSIGN_OR_RETURN(start_, IdentifyJsonFile(index, path));
  content_.index_identity = start_;
  if (reading_.cache != nullptr) known_ = reading_.cache->FindCheckpoint(start_);
  // A shard under the name of an index file is not one.
  if (known_ != nullptr && known_->shards()[0].identity == start_) known_ = nullptr;
  std::optional<IndexFile> file;
  const auto read_index = [&]() -> absl::Status {
    KEYLOAD_ASSIGN_OR_RETURN(file, ReadIndexFile(index, path, start_.size, *charge_));
    return absl::OkStatus();
  };
  // An index file that is known names the shards that it named before.
  std::vector<std::string> names;
  if (known_ == nullptr) {
    KEYLOAD_RETURN_IF_ERROR(read_index());
    names = file->shards;
  } else {
    for (const ShardHeader& shard : known_->shards()) names.push_back(shard.file);
  }
  HeaderAssembly assembly(content_.resolved, names.size(), *charge_);
  if (known_ == nullptr) {
    KEYLOAD_RETURN_IF_ERROR(assembly.Reserve(std::min<uint64_t>(file->entries.size(), reading_.max_keys)));
  }
  KEYLOAD_RETURN_IF_ERROR(AddShards(names, assembly));
  if (AllKnown()) return FinishKnown();
  if (known_ != nullptr) {
    KEYLOAD_RETURN_IF_ERROR(read_index());
    KEYLOAD_RETURN_IF_ERROR(assembly.Reserve(keys_));
    for (uint32_t i = 0; i < reads_.size(); ++i) {
      KEYLOAD_RETURN_IF_ERROR(assembly.Add(i, content_.shards[i], std::move(reads_[i])));
    }
  }
  const std::shared_ptr<CheckpointHeaders> headers = assembly.Finish();
  KEYLOAD_RETURN_IF_ERROR(CompareWithIndex(*file, path, context_, *charge_, *headers));
  file.reset();  // the charge is for the headers alone from here on
  return Finish(headers);
}

absl::Status CheckpointOpener::AddShards(const std::vector<std::string>& names, HeaderAssembly& assembly) {
  constexpr uint64_t kBytesPerShard = sizeof(Shard) + sizeof(ShardRead) + 2 * sizeof(ShardHeader) + 512;  // 512: paths
  KEYLOAD_RETURN_IF_ERROR(charge_->Add(names.size() * kBytesPerShard, content_.resolved));
  content_.shards.resize(names.size());
  if (known_ != nullptr) reads_.resize(names.size());
  return ParallelFor(reading_.threads, names.size(), [&](size_t i) {
    const auto number = static_cast<uint32_t>(i);
    // Not only for the answer: some of these calls are on threads of others, which an exception would end.
    return CatchingNoHeap(names[i], [&]() -> absl::Status {
      KEYLOAD_RETURN_IF_ERROR(context_.Check());
      absl::StatusOr<ShardRead> read = OpenShard(number, names[i], content_.directory->PathOf(names[i]));
      if (!read.ok()) {
        return Annotate(read.status(),
                        absl::StrFormat("%s/%s: shard %s", content_.resolved, content_.index_file, names[i]),
                        {{"shard", names[i]}});
      }
      if (known_ == nullptr) return assembly.Add(number, content_.shards[i], *std::move(read));
      reads_[i] = *std::move(read);  // perhaps all are known, and nothing needs to be put together
      return absl::OkStatus();
    });
  });
}

// Only touches what belongs to the shard: others are opened at the same time.
absl::StatusOr<ShardRead> CheckpointOpener::OpenShard(uint32_t number, const std::string& name,
                                                      const std::string& path) {
  KEYLOAD_ASSIGN_OR_RETURN(OpenedPath opened, content_.directory->Open(roots_, name));
  KEYLOAD_ASSIGN_OR_RETURN(content_.shards[number], MakeShard(std::move(opened), path, name));
  KEYLOAD_RETURN_IF_ERROR(CheckOnlyOnce(number, path));
  return ReadShard(number, path);
}

absl::Status CheckpointOpener::CheckOnlyOnce(uint32_t number, const std::string& path) {
  const FileIdentity& file = content_.shards[number].identity;
  uint32_t other = number;
  {
    MutexLock lock(mutex_);
    other = files_.try_emplace({file.device, file.inode}, number).first->second;
  }
  if (other == number) return absl::OkStatus();
  return MakeError(Reason::kCheckpointCorrupt,
                   absl::StrFormat("%s is the same file as shard %s", path, content_.shards[other].file),
                   {{"file", path}, {"shard", content_.shards[other].file}});
}

absl::StatusOr<ShardRead> CheckpointOpener::ReadShard(uint32_t number, const std::string& path) {
  Shard& shard = content_.shards[number];
  ShardRead read;
  if (known_ != nullptr && known_->shards()[number].identity == shard.identity) {
    read.known = {.headers = known_, .shard = number};
  } else if (reading_.cache != nullptr) {
    read.known = reading_.cache->FindShard(shard.identity).value_or(HeaderCache::KnownShard());
  }
  if (read.known.headers != nullptr) {
    const ShardHeader& known = read.known.headers->shards()[read.known.shard];
    shard.data_offset = known.data_offset;
    KEYLOAD_RETURN_IF_ERROR(CountKeys(known.tensor_count, path));
    return read;
  }
  KEYLOAD_ASSIGN_OR_RETURN(const uint64_t length, ReadHeaderLength(shard, path));
  KEYLOAD_RETURN_IF_ERROR(CountHeader(length, path));
  KEYLOAD_ASSIGN_OR_RETURN(read.header, ReadShardHeader(shard, length, path, number, *charge_));
  shard.data_offset = read.header.data_offset;
  KEYLOAD_RETURN_IF_ERROR(CountKeys(read.header.tensors.size(), path));
  return read;
}

absl::Status CheckpointOpener::CountHeader(uint64_t bytes, const std::string& path) {
  if (header_bytes_.fetch_add(bytes) + bytes <= kMaxCheckpointHeaderBytes) return absl::OkStatus();
  return MakeError(Reason::kCheckpointCorrupt,
                   absl::StrFormat("%s: with this shard the headers of the checkpoint have more than %d bytes", path,
                                   kMaxCheckpointHeaderBytes),
                   {{"file", path}});
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

CheckpointOpener::Result CheckpointOpener::Finish(std::shared_ptr<CheckpointHeaders> headers) {
  // Before anything is remembered: a header that was read while its file was written is of no use to anybody.
  KEYLOAD_RETURN_IF_ERROR(CheckpointIndex::CheckEntries(content_));
  headers->SetCharge(std::move(charge_));
  if (reading_.cache != nullptr && !headers->shards().empty()) reading_.cache->Add(start_, headers, opened_at_);
  content_.headers = std::move(headers);
  return std::make_shared<const CheckpointIndex>(std::move(content_));
}

CheckpointOpener::Result CheckpointOpener::FinishKnown() {
  KEYLOAD_RETURN_IF_ERROR(CheckpointIndex::CheckEntries(content_));
  content_.headers = known_;
  return std::make_shared<const CheckpointIndex>(std::move(content_));
}

}  // namespace

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

absl::StatusOr<std::shared_ptr<const CheckpointIndex>> OpenCheckpoint(const ModelRoots& roots,
                                                                      const CheckpointSource& source,
                                                                      const RequestContext& context,
                                                                      const HeaderReading& reading) {
  return CatchingNoHeap(source.path, [&] { return CheckpointOpener(roots, source, context, reading).Open(); });
}

}  // namespace keyload
