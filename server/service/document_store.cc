#include "server/service/document_store.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "server/base/digest.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr size_t kMinUploadBuffer = 64 << 10;
constexpr std::string_view kUpload = "the upload";
constexpr std::string_view kManifest = "the manifest";
constexpr std::string_view kKeyList = "the key list";

}  // namespace

absl::StatusOr<std::unique_ptr<DocumentStore::Upload>> DocumentStore::BeginUpload(std::string share) {
  std::optional<ShareSlots::Slot> slot = uploads_.TryTake(std::move(share));
  if (!slot) return TooManyWaiting();
  return std::unique_ptr<Upload>(new Upload(*this, *std::move(slot)));
}

absl::Status DocumentStore::Upload::Append(std::string_view chunk) {
  const size_t size = bytes_.size() + chunk.size();
  KEYLOAD_RETURN_IF_ERROR(store_.CheckSize(size, "document"));
  if (size > bytes_.capacity()) {
    // While it moves, both buffers are there.
    const size_t capacity = std::max({size, 2 * bytes_.capacity(), kMinUploadBuffer});
    KEYLOAD_RETURN_IF_ERROR(charge_.Resize(bytes_.capacity() + capacity, kUpload));
    bytes_.reserve(capacity);
    KEYLOAD_RETURN_IF_ERROR(charge_.Resize(bytes_.capacity(), kUpload));
  }
  bytes_ += chunk;
  return absl::OkStatus();
}

absl::StatusOr<DocumentStore::Stored> DocumentStore::AddManifest(std::string_view bytes) {
  return Add(bytes, "manifest", &DocumentStore::ParseManifest);
}

absl::StatusOr<DocumentStore::Stored> DocumentStore::AddKeyList(std::string_view bytes) {
  return Add(bytes, "key list", &DocumentStore::ParseKeyList);
}

absl::Status DocumentStore::CheckSize(uint64_t bytes, std::string_view kind) const {
  if (bytes <= options_.max_document_bytes) return absl::OkStatus();
  return MakeError(Reason::kDocumentTooLarge,
                   StrCat("the ", kind, " has over ", options_.max_document_bytes, " bytes, which is the limit"),
                   {{"limit_bytes", StrCat(options_.max_document_bytes)}});
}

bool DocumentStore::ForgetOne() {
  Document forgotten;  // freed outside the lock
  MutexLock lock(mutex_);
  for (auto it = documents_.rbegin(); it != documents_.rend(); ++it) {
    if (it->is_used()) continue;
    forgotten = std::move(*it);
    by_digest_.erase(forgotten.digest);
    documents_.erase(std::next(it).base());
    return true;
  }
  return false;
}

absl::StatusOr<DocumentStore::Stored> DocumentStore::Add(std::string_view bytes, std::string_view kind, Parse parse) {
  KEYLOAD_RETURN_IF_ERROR(CheckSize(bytes.size(), kind));
  Document document = {.digest = Sha256Digest(bytes), .manifest = nullptr, .key_list = nullptr};
  if (const absl::StatusOr<Document> known = Find(document.digest); known.ok()) document = *known;
  const bool known = document.manifest != nullptr || document.key_list != nullptr;
  KEYLOAD_RETURN_IF_ERROR((this->*parse)(bytes, document));
  Stored stored = {.digest = document.digest, .known = known, .manifest = document.manifest};
  MutexLock lock(mutex_);
  if (const auto it = by_digest_.find(document.digest); it != by_digest_.end()) {
    *it->second = std::move(document);
    return stored;
  }
  documents_.push_front(std::move(document));
  by_digest_.emplace(stored.digest, documents_.begin());
  return stored;
}

absl::Status DocumentStore::ParseManifest(std::string_view bytes, Document& document) {
  if (document.manifest != nullptr) return absl::OkStatus();
  HeapCharge parsing(account_);
  KEYLOAD_RETURN_IF_ERROR(parsing.Resize(cost_(bytes), kManifest));
  KEYLOAD_ASSIGN_OR_RETURN(std::shared_ptr<const Manifest> manifest, parse_(bytes));
  KEYLOAD_ASSIGN_OR_RETURN(document.manifest, Count(std::move(manifest)));
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const Manifest>> DocumentStore::Count(std::shared_ptr<const Manifest> manifest) const {
  HeapCharge charge(account_);
  KEYLOAD_RETURN_IF_ERROR(charge.Resize(MemoryBytes(*manifest), kManifest));
  return WithCharge(std::move(manifest), std::move(charge));
}

absl::Status DocumentStore::ParseKeyList(std::string_view bytes, Document& document) {
  if (document.key_list != nullptr) return absl::OkStatus();
  HeapCharge parsing(account_);
  KEYLOAD_RETURN_IF_ERROR(parsing.Resize(KeyList::ParseBytes(bytes), kKeyList));
  KEYLOAD_ASSIGN_OR_RETURN(KeyList keys, KeyList::Parse(bytes, options_.max_list_keys));
  // What stays is less than what parsing took.
  KEYLOAD_RETURN_IF_ERROR(parsing.Resize(std::min(keys.memory_bytes(), parsing.bytes()), kKeyList));
  document.key_list = WithCharge<KeyList>(std::make_shared<const KeyList>(std::move(keys)), std::move(parsing));
  return absl::OkStatus();
}

absl::StatusOr<DocumentStore::Document> DocumentStore::Find(std::string_view digest) {
  MutexLock lock(mutex_);
  const auto it = by_digest_.find(ToAbsl(digest));
  if (it == by_digest_.end()) {
    return MakeError(Reason::kDocumentNotFound,
                     StrCat("no document with digest ", digest.substr(0, 80), "; upload it again"),
                     {{"digest", std::string(digest.substr(0, 80))}});
  }
  documents_.splice(documents_.begin(), documents_, it->second);
  return documents_.front();
}

absl::StatusOr<std::shared_ptr<const Manifest>> DocumentStore::FindManifest(std::string_view digest) {
  KEYLOAD_ASSIGN_OR_RETURN(const Document document, Find(digest));
  if (document.manifest != nullptr) return document.manifest;
  return MakeError(Reason::kBadRequest, StrCat(digest, " names a key list, not a manifest"));
}

absl::StatusOr<std::shared_ptr<const KeyList>> DocumentStore::FindKeyList(std::string_view digest) {
  KEYLOAD_ASSIGN_OR_RETURN(const Document document, Find(digest));
  if (document.key_list != nullptr) return document.key_list;
  return MakeError(Reason::kBadRequest, StrCat(digest, " names a manifest, not a key list"));
}

}  // namespace keyload
