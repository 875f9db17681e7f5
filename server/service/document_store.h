#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/keys/manifest.h"

namespace keyload {

using KeyList = std::vector<std::string>;
// Turns bytes (binary or JSON ModelManifest) into a validated manifest. MANIFEST_INVALID.
using ManifestParser = std::function<absl::StatusOr<std::shared_ptr<const Manifest>>(std::string_view bytes)>;

// Large inputs that clients upload once and name by digest afterwards. The least recently used go when the total passes
// the bound; whoever holds one keeps it. Thread-safe.
class DocumentStore {
 public:
  struct Options {
    uint64_t max_document_bytes = 256ull << 20;
    uint64_t max_total_bytes = 1ull << 30;
    size_t max_list_keys = 10'000'000;  // of one key list
    size_t max_uploads = 8;             // at a time; each holds up to a document in memory
  };
  DocumentStore(const Options& options, ManifestParser parse) : options_(options), parse_(std::move(parse)) {}

  struct Stored {
    std::string digest;  // "sha256:<hex>"
    bool known = false;  // was there before
  };
  // A document that is being received, from Begin to its destruction. Must not outlive the store.
  class Upload {
   public:
    ~Upload() { --store_.uploads_; }
    Upload(const Upload&) = delete;

   private:
    friend class DocumentStore;
    explicit Upload(DocumentStore& store) : store_(store) {}
    DocumentStore& store_;
  };
  // LOAD_QUEUE_FULL while max_uploads are under way.
  absl::StatusOr<std::unique_ptr<Upload>> BeginUpload();

  // Parses and keeps a document; what does not parse is not kept. DOCUMENT_TOO_LARGE (in bytes or keys),
  // MANIFEST_INVALID, BAD_REQUEST (a key list with NUL or names over 4096 bytes).
  absl::StatusOr<Stored> AddManifest(std::string_view bytes);
  absl::StatusOr<Stored> AddKeyList(std::string_view bytes);

  // DOCUMENT_NOT_FOUND: upload it again.
  absl::StatusOr<std::shared_ptr<const Manifest>> FindManifest(std::string_view digest);
  absl::StatusOr<std::shared_ptr<const KeyList>> FindKeyList(std::string_view digest);

  const Options& options() const { return options_; }

 private:
  struct Document {
    std::string digest;
    uint64_t bytes = 0;
    std::shared_ptr<const Manifest> manifest;
    std::shared_ptr<const KeyList> key_list;
  };
  using Parse = absl::Status (DocumentStore::*)(std::string_view, Document&) const;

  absl::StatusOr<Stored> Add(std::string_view bytes, std::string_view kind, Parse parse);
  absl::Status ParseManifest(std::string_view bytes, Document& document) const;
  absl::Status ParseKeyList(std::string_view bytes, Document& document) const;
  absl::StatusOr<Document> Find(std::string_view digest);

  const Options options_;
  const ManifestParser parse_;
  std::atomic<size_t> uploads_ = 0;
  Mutex mutex_;
  std::list<Document> documents_ ABSL_GUARDED_BY(mutex_);  // most recently used first
  absl::flat_hash_map<std::string, std::list<Document>::iterator> by_digest_ ABSL_GUARDED_BY(mutex_);
  uint64_t total_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace keyload
