#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/base/heap_account.h"
#include "server/base/mutex.h"
#include "server/base/share_slots.h"
#include "server/keys/key_list.h"
#include "server/keys/manifest.h"

namespace keyload {

// Turns bytes (binary or JSON ModelManifest) into a validated manifest. MANIFEST_INVALID.
using ManifestParser = std::function<absl::StatusOr<std::shared_ptr<const Manifest>>(std::string_view bytes)>;
// The memory that the parser takes at most for `bytes` while it works.
using ManifestCost = std::function<uint64_t(std::string_view bytes)>;

// Large inputs that clients upload once and name by digest afterwards. All memory for them is counted before it is
// taken: what is being received, what parsing takes, and the documents themselves as long as anybody uses one, a loaded
// model its manifest for example. It is the memory for all that requests bring, and for what work on them makes; when
// there is no room, the least recently used documents that nobody uses go. Requests share a document and never copy it.
// Outlives every request. Thread-safe.
class DocumentStore {
 public:
  struct Options {
    uint64_t max_document_bytes = 256ull << 20;
    uint64_t max_total_bytes = 1ull << 30;  // of memory, not of what was sent; for all that requests bring and make
    size_t max_list_keys = 10'000'000;      // of one key list
    size_t max_uploads = 8;                 // at a time
  };
  DocumentStore(
      const Options& options, ManifestParser parse, ManifestCost cost = [](std::string_view) { return 0; })
      : options_(options),
        parse_(std::move(parse)),
        cost_(std::move(cost)),
        account_(std::make_shared<HeapAccount>(options.max_total_bytes)),
        uploads_(options.max_uploads) {
    account_->set_reclaim([this] { return ForgetOne(); });
  }

  struct Stored {
    std::string digest;                        // "sha256:<hex>"
    bool known = false;                        // was there before
    std::shared_ptr<const Manifest> manifest;  // of AddManifest
  };
  // A document that is being received, from BeginUpload to its destruction. Must not outlive the store. Confine to one
  // thread at a time.
  class Upload {
   public:
    Upload(const Upload&) = delete;
    // DOCUMENT_TOO_LARGE, MEMORY_EXHAUSTED.
    absl::Status Append(std::string_view chunk);
    std::string_view bytes() const { return bytes_; }

   private:
    friend class DocumentStore;
    Upload(DocumentStore& store, ShareSlots::Slot slot)
        : store_(store), slot_(std::move(slot)), charge_(store.account_) {}
    DocumentStore& store_;
    const ShareSlots::Slot slot_;
    std::string bytes_;
    HeapCharge charge_;
  };
  // LOAD_QUEUE_FULL while max_uploads are under way, or half of them of this caller (Caller::share).
  absl::StatusOr<std::unique_ptr<Upload>> BeginUpload(std::string share);

  // Parses and keeps a document; what does not parse is not kept. DOCUMENT_TOO_LARGE (in bytes or keys),
  // MANIFEST_INVALID, MEMORY_EXHAUSTED, BAD_REQUEST (a key list with names over 4096 bytes, NUL, or other than UTF-8).
  absl::StatusOr<Stored> AddManifest(std::string_view bytes);
  absl::StatusOr<Stored> AddKeyList(std::string_view bytes);

  // DOCUMENT_NOT_FOUND: upload it again.
  absl::StatusOr<std::shared_ptr<const Manifest>> FindManifest(std::string_view digest);
  absl::StatusOr<std::shared_ptr<const KeyList>> FindKeyList(std::string_view digest);

  // `manifest`, which came another way than by an upload, counted as long as anybody uses it. MEMORY_EXHAUSTED.
  absl::StatusOr<std::shared_ptr<const Manifest>> Count(std::shared_ptr<const Manifest> manifest) const;

  const Options& options() const { return options_; }
  const std::shared_ptr<HeapAccount>& account() const { return account_; }
  // What all documents, uploads and other requests take now.
  uint64_t used_bytes() const { return account_->used_bytes(); }

 private:
  struct Document {
    std::string digest;
    std::shared_ptr<const Manifest> manifest;
    std::shared_ptr<const KeyList> key_list;

    bool is_used() const { return manifest.use_count() > 1 || key_list.use_count() > 1; }
  };
  using Parse = absl::Status (DocumentStore::*)(std::string_view, Document&);

  absl::StatusOr<Stored> Add(std::string_view bytes, std::string_view kind, Parse parse);
  absl::Status ParseManifest(std::string_view bytes, Document& document);
  absl::Status ParseKeyList(std::string_view bytes, Document& document);
  absl::StatusOr<Document> Find(std::string_view digest);
  absl::Status CheckSize(uint64_t bytes, std::string_view kind) const;
  // Forgets the least recently used document that nobody uses; false: there is none.
  bool ForgetOne();

  const Options options_;
  const ManifestParser parse_;
  const ManifestCost cost_;
  const std::shared_ptr<HeapAccount> account_;
  ShareSlots uploads_;
  Mutex mutex_;
  std::list<Document> documents_ ABSL_GUARDED_BY(mutex_);  // most recently used first
  absl::flat_hash_map<std::string, std::list<Document>::iterator> by_digest_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
