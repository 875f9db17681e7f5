#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/error.h"
#include "server/base/file_kind.h"
#include "server/base/mutex.h"
#include "server/base/parallel.h"
#include "server/base/strings.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/header_assembly.h"
#include "server/checkpoint/header_cache.h"
#include "server/checkpoint/hub_cache.h"
#include "server/checkpoint/index_differences.h"
#include "server/checkpoint/index_file.h"
#include "server/checkpoint/shard_faults.h"
#include "server/checkpoint/shard_file.h"
#include "server/checkpoint/weight_files.h"

namespace keyload {
namespace {

constexpr size_t kMaxOtherSets = 4;  // that a message names

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
  // The weights of `directory`, or of the snapshot that it stands for and that takes its place then.
  absl::StatusOr<WeightFile> FindWeightsIn(OpenedPath& directory, const std::string& weights);
  Result OpenOnlyShard(OpenedPath opened, const std::string& path, const std::string& name);
  Result OpenIndexed(const OpenedPath& index);
  absl::Status AddShards(const std::vector<std::string>& names, HeaderAssembly& assembly);
  // Opens one shard and hands its header to `assembly`, or keeps its fault.
  absl::Status AddShard(uint32_t number, const std::string& name, HeaderAssembly& assembly);
  // What becomes of the faults of shards, once all have been looked at.
  absl::Status Judge(const std::vector<std::string>& names, HeaderAssembly& assembly);
  absl::Status TellFaults(const std::vector<std::string>& names) const;
  absl::StatusOr<ShardRead> OpenShard(uint32_t number, const std::string& name, const std::string& path,
                                      HeaderCharge& charge);
  // A file that is there under two names has each of its tensors twice; that is told before its header is read twice.
  absl::Status CheckOnlyOnce(uint32_t number, const std::string& path);
  absl::StatusOr<ShardRead> ReadShard(uint32_t number, const std::string& path, HeaderCharge& charge,
                                      bool anew = false);
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
  ShardFaults faults_;
  bool lacks_shards_ = false;
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

// What FindWeights says of a directory that has no weights, as repositories of a hub's cache have none.
bool MayBeRepository(Reason reason) {
  return reason == Reason::kCheckpointNotFound || reason == Reason::kCheckpointAmbiguous ||
         reason == Reason::kFormatNotSupported;
}

// FORMAT_NOT_SUPPORTED: a file whose name is not that of weights, with what it is where that is known.
absl::Status NoWeightFile(const OpenedPath& opened, const std::string& path) {
  if (const auto kind = RecognizeName(path)) return WrongKind(Reason::kFormatNotSupported, path, *kind);
  const absl::StatusOr<std::optional<FileKind>> kind = RecognizeOpened(opened, path);
  if (kind.ok() && kind->has_value()) return WrongKind(Reason::kFormatNotSupported, path, **kind);
  return MakeError(Reason::kFormatNotSupported, absl::StrFormat("%s is not a .safetensors file", path),
                   {{"path", path}});
}

CheckpointOpener::Result CheckpointOpener::Open() {
  KEYLOAD_RETURN_IF_ERROR(context_.Check());
  Result result = OpenSource();
  if (result.ok() || !MayComeFromAChange(ErrorReason(result.status()))) return result;
  KEYLOAD_RETURN_IF_ERROR(CheckpointIndex::CheckEntries(content_));
  return result;
}

CheckpointOpener::Result CheckpointOpener::OpenSource() {
  // An index file given as the path stands for its directory: shards are beside the name, not where a symlink leads.
  const std::string name(BaseName(source_.path));
  const std::optional<WeightName> parsed = ParseWeightName(name);
  if (source_.path.starts_with('/') && parsed && parsed->form == WeightName::Form::kIndex && source_.weights.empty()) {
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
  if (!source_.path.ends_with(kSafetensorsSuffix)) return NoWeightFile(opened, source_.path);
  content_.resolved = opened.resolved;
  return OpenOnlyShard(std::move(opened), source_.path, std::string(BaseName(source_.path)));
}

CheckpointOpener::Result CheckpointOpener::OpenDirectory(OpenedPath opened, const std::string& weights) {
  if (!opened.is_directory) {
    return MakeError(Reason::kCheckpointNotFound, absl::StrFormat("%s is not a directory", opened.resolved),
                     {{"path", opened.resolved}});
  }
  KEYLOAD_ASSIGN_OR_RETURN(WeightFile file, FindWeightsIn(opened, weights));
  content_.directory = std::make_shared<const CheckpointDirectory>(std::move(opened));
  content_.resolved = content_.directory->resolved();
  if (file.kind == WeightFile::Kind::kNone) {
    return Finish(std::make_shared<CheckpointHeaders>(CheckpointHeaders::Content()));
  }
  if (std::string newer = NewerPickle(content_.directory->opened(), file); !newer.empty())
    content_.warnings.push_back(std::move(newer));
  if (file.kind == WeightFile::Kind::kSafetensors) {
    return OpenOnlyShard(std::move(file.opened), content_.directory->PathOf(file.name), file.name);
  }
  content_.index_file = file.name;
  return OpenIndexed(file.opened);
}

absl::StatusOr<WeightFile> CheckpointOpener::FindWeightsIn(OpenedPath& directory, const std::string& weights) {
  absl::StatusOr<WeightFile> file =
      FindWeights(roots_, directory, weights, source_.allow_no_weights, context_, charge_.get());
  const bool none = file.ok() ? file->kind == WeightFile::Kind::kNone : MayBeRepository(ErrorReason(file.status()));
  if (!none) return file;
  KEYLOAD_ASSIGN_OR_RETURN(std::optional<OpenedPath> snapshot, OpenSnapshot(roots_, directory, context_));
  if (!snapshot || !snapshot->is_directory) return file;
  directory = *std::move(snapshot);
  return FindWeights(roots_, directory, weights, source_.allow_no_weights, context_, charge_.get());
}

CheckpointOpener::Result CheckpointOpener::OpenOnlyShard(OpenedPath opened, const std::string& path,
                                                         const std::string& name) {
  KEYLOAD_ASSIGN_OR_RETURN(Shard shard, MakeShard(std::move(opened), path, name));
  start_ = shard.identity;
  if (reading_.cache != nullptr) known_ = reading_.cache->FindCheckpoint(start_);
  content_.shards.push_back(std::move(shard));
  reads_.resize(1);
  KEYLOAD_ASSIGN_OR_RETURN(reads_[0], ReadShard(0, path, *charge_));
  if (AllKnown()) return FinishKnown();
  HeaderAssembly assembly(content_.resolved, 1, *charge_);
  KEYLOAD_RETURN_IF_ERROR(assembly.Reserve(keys_));
  KEYLOAD_RETURN_IF_ERROR(assembly.Add(0, content_.shards[0], std::move(reads_[0])));
  KEYLOAD_ASSIGN_OR_RETURN(const auto headers, assembly.Finish(nullptr, context_));
  return Finish(headers);
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
      const HeaderCache::KnownShard& known = reads_[i].known;
      if (known.headers != nullptr && !known.headers->shards()[known.shard].whole) {
        // What was left out of it then may count now.
        KEYLOAD_ASSIGN_OR_RETURN(reads_[i], ReadShard(i, content_.directory->PathOf(names[i]), *charge_, true));
      }
      KEYLOAD_RETURN_IF_ERROR(assembly.Add(i, content_.shards[i], std::move(reads_[i])));
    }
  }
  KEYLOAD_ASSIGN_OR_RETURN(const std::shared_ptr<CheckpointHeaders> headers, assembly.Finish(&*file, context_));
  KEYLOAD_RETURN_IF_ERROR(CompareWithIndex(*file, path, context_, *charge_, *headers));
  file.reset();  // the charge is for the headers alone from here on
  return Finish(headers);
}

absl::Status CheckpointOpener::AddShards(const std::vector<std::string>& names, HeaderAssembly& assembly) {
  constexpr uint64_t kBytesPerShard = sizeof(Shard) + sizeof(ShardRead) + 2 * sizeof(ShardHeader) + 512;  // 512: paths
  KEYLOAD_RETURN_IF_ERROR(charge_->Add(names.size() * kBytesPerShard, content_.resolved));
  content_.shards.resize(names.size());
  if (known_ != nullptr) reads_.resize(names.size());
  const absl::Status status = ParallelFor(reading_.threads, names.size(), [&](size_t i) {
    // Not only for the answer: some of these calls are on threads of others, which an exception would end.
    return CatchingNoHeap(names[i], [&] { return AddShard(static_cast<uint32_t>(i), names[i], assembly); });
  });
  // A shard that is absent says more than another that is broken, or than the heap that waiting for it took.
  const Reason reason = status.ok() ? Reason::kCheckpointCorrupt : ErrorReason(status);
  const bool tell = reason == Reason::kCheckpointCorrupt || reason == Reason::kMemoryExhausted;
  if (!faults_.any() || !tell) return status;
  return status.ok() ? Judge(names, assembly) : TellFaults(names);
}

absl::Status CheckpointOpener::AddShard(uint32_t number, const std::string& name, HeaderAssembly& assembly) {
  KEYLOAD_RETURN_IF_ERROR(context_.Check());
  // Once it is clear that the open fails, headers are read only for the faults of their files, and not kept.
  const bool fails = faults_.any() && !source_.may_lack_shards;
  HeaderCharge own(reading_.memory, reading_.cache);
  absl::StatusOr<ShardRead> read = OpenShard(number, name, content_.directory->PathOf(name), fails ? own : *charge_);
  if (!read.ok()) {
    const absl::Status fault =
        Annotate(read.status(), absl::StrFormat("%s/%s: shard %s", content_.resolved, content_.index_file, name),
                 {{"shard", name}});
    return faults_.Take(number, fault) ? absl::OkStatus() : fault;
  }
  if (fails) return absl::OkStatus();
  if (known_ == nullptr) return assembly.Add(number, content_.shards[number], *std::move(read));
  reads_[number] = *std::move(read);  // perhaps all are known, and nothing needs to be put together
  return absl::OkStatus();
}

absl::Status CheckpointOpener::Judge(const std::vector<std::string>& names, HeaderAssembly& assembly) {
  const std::vector<uint32_t> absent = faults_.absent();
  if (!source_.may_lack_shards || !faults_.only_absent() || absent.size() == names.size()) return TellFaults(names);
  for (const uint32_t number : absent) {
    content_.shards[number].file = names[number];
    ShardRead nothing;
    nothing.header.names = std::make_shared<const std::string>();
    if (known_ == nullptr) {
      KEYLOAD_RETURN_IF_ERROR(assembly.Add(number, content_.shards[number], std::move(nothing)));
    } else {
      reads_[number] = std::move(nothing);
    }
  }
  lacks_shards_ = true;
  return absl::OkStatus();
}

absl::Status CheckpointOpener::TellFaults(const std::vector<std::string>& names) const {
  const OpenedPath& directory = content_.directory->opened();
  const std::string index = content_.directory->PathOf(content_.index_file);
  std::string hint;
  if (const size_t absent = faults_.absent().size(); absent > 0) {
    hint = UnfinishedDownloads(roots_, directory, context_);
    std::vector<std::string> others = SetsIn(directory, kMaxOtherSets, context_);
    std::erase(others, content_.index_file);
    if (absent == names.size() && !others.empty()) {
      hint += absl::StrFormat(
          ". The index is stale: none of its files is there, and other weights are (%s); remove it, or name the others "
          "in weights (--weights)",
          absl::StrJoin(others, ", "));
    }
  }
  return faults_.Tell(index, names, hint);
}

// Only touches what belongs to the shard: others are opened at the same time.
absl::StatusOr<ShardRead> CheckpointOpener::OpenShard(uint32_t number, const std::string& name, const std::string& path,
                                                      HeaderCharge& charge) {
  KEYLOAD_ASSIGN_OR_RETURN(OpenedPath opened, content_.directory->Open(roots_, name));
  KEYLOAD_ASSIGN_OR_RETURN(content_.shards[number], MakeShard(std::move(opened), path, name));
  KEYLOAD_RETURN_IF_ERROR(CheckOnlyOnce(number, path));
  return ReadShard(number, path, charge);
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

absl::StatusOr<ShardRead> CheckpointOpener::ReadShard(uint32_t number, const std::string& path, HeaderCharge& charge,
                                                      bool anew) {
  Shard& shard = content_.shards[number];
  ShardRead read;
  if (anew) {
    // nothing that is known counts
  } else if (known_ != nullptr && known_->shards()[number].identity == shard.identity) {
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
  KEYLOAD_ASSIGN_OR_RETURN(read.header, ReadShardHeader(shard, length, path, number, charge));
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
  if (reading_.cache != nullptr && !headers->shards().empty() && !lacks_shards_)
    reading_.cache->Add(start_, headers, opened_at_);
  content_.headers = std::move(headers);
  return std::make_shared<const CheckpointIndex>(std::move(content_));
}

CheckpointOpener::Result CheckpointOpener::FinishKnown() {
  KEYLOAD_RETURN_IF_ERROR(CheckpointIndex::CheckEntries(content_));
  content_.headers = known_;
  return std::make_shared<const CheckpointIndex>(std::move(content_));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const CheckpointIndex>> OpenCheckpoint(const ModelRoots& roots,
                                                                      const CheckpointSource& source,
                                                                      const RequestContext& context,
                                                                      const HeaderReading& reading) {
  return CatchingNoHeap(source.path, [&] { return CheckpointOpener(roots, source, context, reading).Open(); });
}

}  // namespace keyload
