#include "server/checkpoint/index_file.h"

#include <simdjson.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/checkpoint/json_checks.h"
#include "server/checkpoint/json_reader.h"

namespace keyload {
namespace {

namespace ondemand = simdjson::ondemand;

constexpr size_t kMaxFileNameBytes = 255;
constexpr size_t kMaxShardPathBytes = 1024;
constexpr size_t kTypicalIndexEntryBytes = 64;

// One pass over one index; used once.
class IndexParser {
 public:
  IndexParser(const JsonBuffer& json, std::string_view file, HeaderCharge* charge)
      : json_(json), file_(file), charge_(charge), reader_(json, charge) {}
  absl::StatusOr<IndexFile> Parse();

 private:
  absl::Status ParseRoot(ondemand::document& document);
  absl::Status ParseMetadata(ondemand::value value);
  absl::Status ParseWeightMap(ondemand::value value);
  absl::StatusOr<uint32_t> ShardOf(std::string_view key, std::string_view name, const std::string& position);
  absl::Status StoreKeys();
  void SortShards();
  absl::Status Corrupt(std::string_view problem, ErrorMetadata metadata = {}) const;
  absl::Status BadJson(simdjson::error_code error) const;

  const JsonBuffer& json_;
  const std::string_view file_;
  HeaderCharge* const charge_;  // null: nothing is counted
  JsonReader reader_;
  absl::flat_hash_map<std::string_view, uint32_t> shard_ids_;  // views into the document
  std::string_view last_shard_;
  uint32_t last_id_ = 0;
  IndexFile result_;
};

absl::Status IndexParser::Corrupt(std::string_view problem, ErrorMetadata metadata) const {
  metadata["file"] = std::string(file_);
  return MakeError(Reason::kCheckpointCorrupt, absl::StrFormat("%s: %s", file_, problem), metadata);
}

absl::Status IndexParser::BadJson(simdjson::error_code error) const {
  if (error == simdjson::MEMALLOC) return reader_.NoMemory(file_);
  return Corrupt(absl::StrFormat("the index is not valid: %s", simdjson::error_message(error)));
}

absl::StatusOr<IndexFile> IndexParser::Parse() {
  KEYLOAD_RETURN_IF_ERROR(reader_.Prepare(file_));
  ondemand::document document;
  if (auto error = reader_.Begin(document)) return BadJson(error);
  KEYLOAD_RETURN_IF_ERROR(ParseRoot(document));
  KEYLOAD_RETURN_IF_ERROR(StoreKeys());
  SortShards();
  return std::move(result_);
}

absl::Status IndexParser::ParseRoot(ondemand::document& document) {
  ondemand::object root;
  if (auto error = document.get_object().get(root)) return BadJson(error);
  bool has_weight_map = false;
  for (auto item : root) {
    ondemand::field field;
    if (auto error = std::move(item).get(field)) return BadJson(error);
    std::string_view name;
    if (auto error = reader_.Unescape(field.key(), name)) return BadJson(error);
    if (name == "metadata") {
      KEYLOAD_RETURN_IF_ERROR(ParseMetadata(field.value()));
      continue;
    }
    if (name != "weight_map") {
      if (auto error = reader_.CheckedSkip(field.value())) return BadJson(error);
      continue;
    }
    if (std::exchange(has_weight_map, true)) return Corrupt("weight_map comes twice");
    KEYLOAD_RETURN_IF_ERROR(ParseWeightMap(field.value()));
  }
  const char* rest;
  if (!document.current_location().get(rest)) {
    return Corrupt("text follows the index's object", {{"offset", std::to_string(rest - json_.data())}});
  }
  if (!has_weight_map) return Corrupt("the index has no weight_map");
  return absl::OkStatus();
}

absl::Status IndexParser::ParseMetadata(ondemand::value value) {
  ondemand::json_type type;
  if (auto error = value.type().get(type)) return BadJson(error);
  if (type != ondemand::json_type::object) {
    const auto error = reader_.CheckedSkip(value);
    return error ? BadJson(error) : absl::OkStatus();
  }
  ondemand::object metadata;
  if (auto error = value.get_object().get(metadata)) return BadJson(error);
  for (auto item : metadata) {
    ondemand::field field;
    if (auto error = std::move(item).get(field)) return BadJson(error);
    std::string_view name;
    if (auto error = reader_.Unescape(field.key(), name)) return BadJson(error);
    ondemand::value content = field.value();
    uint64_t size = 0;
    if (name == "total_size" && !content.get_uint64().get(size)) {
      result_.total_size = size;
    } else if (auto error = reader_.CheckedSkip(content)) {
      return BadJson(error);
    }
  }
  return absl::OkStatus();
}

absl::Status IndexParser::ParseWeightMap(ondemand::value value) {
  ondemand::object map;
  if (value.get_object().get(map)) return Corrupt("weight_map is not an object");
  KEYLOAD_RETURN_IF_ERROR(ReserveCounted(result_.entries, json_.size() / kTypicalIndexEntryBytes, charge_, file_));
  for (auto item : map) {
    ondemand::field field;
    if (auto error = std::move(item).get(field)) return BadJson(error);
    const char* start = field.key().raw() - 1;
    std::string_view key, shard;
    if (auto error = reader_.Unescape(field.key(), key)) return BadJson(error);
    const std::string_view shown = key.substr(0, kMaxKeyBytes);
    if (const char* problem = KeyProblem(key)) {
      return Corrupt(absl::StrFormat("key \"%s\": %s", Shortened(shown), problem),
                     {{"offset", std::to_string(start - json_.data())}});
    }
    if (auto error = reader_.GetString(field.value(), shard)) {
      if (error == simdjson::MEMALLOC) return BadJson(error);
      return Corrupt(absl::StrFormat("key \"%s\": the shard is not a string", Shortened(key)),
                     {{"key", Shortened(key)}, {"offset", std::to_string(start - json_.data())}});
    }
    if (result_.entries.size() == result_.entries.capacity()) {
      KEYLOAD_RETURN_IF_ERROR(ReserveCounted(result_.entries, result_.entries.size() + 1, charge_, file_));
    }
    IndexFile::Entry& entry = result_.entries.emplace_back();
    entry.key = key;
    if (shard == last_shard_ && last_shard_.data() != nullptr) {
      entry.shard = last_id_;
      continue;
    }
    KEYLOAD_ASSIGN_OR_RETURN(entry.shard, ShardOf(key, shard, std::to_string(start - json_.data())));
    last_shard_ = shard;
    last_id_ = entry.shard;
  }
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> IndexParser::ShardOf(std::string_view key, std::string_view name,
                                              const std::string& position) {
  if (auto known = shard_ids_.find(name); known != shard_ids_.end()) return known->second;
  const ErrorMetadata metadata = {{"key", Shortened(key)}, {"shard", Shortened(name)}, {"offset", position}};
  if (std::string problem = ShardPathProblem(name); !problem.empty()) {
    return Corrupt(absl::StrFormat("key \"%s\": the shard name \"%s\" %s", Shortened(key), Shortened(name), problem),
                   metadata);
  }
  if (name.ends_with(".bin") || name.ends_with(".pt")) {
    return MakeError(Reason::kFormatNotSupported,
                     absl::StrFormat("%s: shard \"%s\" is a pickle file; only safetensors is read", file_, name),
                     {{"file", std::string(file_)}, {"shard", std::string(name)}});
  }
  if (shard_ids_.size() >= kMaxShards) return Corrupt(absl::StrFormat("more than %d shards", kMaxShards), metadata);
  const auto id = static_cast<uint32_t>(shard_ids_.size());
  shard_ids_.emplace(name, id);
  result_.shards.emplace_back(name);
  return id;
}

absl::Status IndexParser::StoreKeys() {
  size_t bytes = 0;
  for (const IndexFile::Entry& entry : result_.entries) bytes += entry.key.size();
  if (charge_ != nullptr) KEYLOAD_RETURN_IF_ERROR(charge_->Add(bytes, file_));
  result_.names = std::make_unique<std::string>();
  result_.names->reserve(bytes);
  for (IndexFile::Entry& entry : result_.entries) {
    const size_t begin = result_.names->size();
    result_.names->append(entry.key);
    entry.key = std::string_view(result_.names->data() + begin, entry.key.size());
  }
  return absl::OkStatus();
}

void IndexParser::SortShards() {
  std::vector<uint32_t> order(result_.shards.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return result_.shards[a] < result_.shards[b]; });
  std::vector<uint32_t> rank(order.size());
  std::vector<std::string> sorted(order.size());
  for (uint32_t i = 0; i < order.size(); ++i) {
    rank[order[i]] = i;
    sorted[i] = std::move(result_.shards[order[i]]);
  }
  result_.shards = std::move(sorted);
  for (IndexFile::Entry& entry : result_.entries) entry.shard = rank[entry.shard];
}

}  // namespace

std::string FileNameProblem(std::string_view name) {
  if (name.empty()) return "is empty";
  if (name == "." || name == "..") return "is not a file";
  if (name.find('/') != std::string_view::npos) return "is not a plain file name: it has a '/'";
  if (name.find('\0') != std::string_view::npos) return "has a NUL in it";
  if (name.size() > kMaxFileNameBytes) return "is longer than 255 bytes";
  if (!simdjson::validate_utf8(name.data(), name.size())) return "is not valid Unicode";
  return "";
}

std::string ShardPathProblem(std::string_view path) {
  if (path.size() > kMaxShardPathBytes) return absl::StrFormat("is longer than %d bytes", kMaxShardPathBytes);
  if (path.starts_with('/')) return "is not below the checkpoint: it begins with a '/'";
  while (true) {
    const size_t slash = path.find('/');
    const std::string_view name = path.substr(0, slash);
    if (name == "..") return "is not below the checkpoint: it has a '..'";
    if (std::string problem = FileNameProblem(name); !problem.empty()) return problem;
    if (slash == std::string_view::npos) return "";
    path.remove_prefix(slash + 1);
  }
}

absl::StatusOr<IndexFile> ParseIndexFile(const JsonBuffer& json, std::string_view file, HeaderCharge* charge) {
  return IndexParser(json, file, charge).Parse();
}

}  // namespace keyload
