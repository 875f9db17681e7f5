#include "server/service/document_store.h"

#include "absl/strings/str_split.h"
#include "server/base/digest.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {

absl::StatusOr<std::unique_ptr<DocumentStore::Upload>> DocumentStore::BeginUpload() {
  if (++uploads_ <= options_.max_uploads) return std::unique_ptr<Upload>(new Upload(*this));
  --uploads_;
  return TooManyWaiting();
}

absl::StatusOr<DocumentStore::Stored> DocumentStore::AddManifest(std::string_view bytes) {
  return Add(bytes, "manifest", &DocumentStore::ParseManifest);
}

absl::StatusOr<DocumentStore::Stored> DocumentStore::AddKeyList(std::string_view bytes) {
  return Add(bytes, "key list", &DocumentStore::ParseKeyList);
}

absl::StatusOr<DocumentStore::Stored> DocumentStore::Add(std::string_view bytes, std::string_view kind, Parse parse) {
  if (bytes.size() > options_.max_document_bytes) {
    return MakeError(
        Reason::kDocumentTooLarge,
        StrCat("the ", kind, " has ", bytes.size(), " bytes, at most ", options_.max_document_bytes, " are taken"),
        {{"limit_bytes", StrCat(options_.max_document_bytes)}});
  }
  Document document = {.digest = Sha256Digest(bytes), .bytes = bytes.size(), .manifest = nullptr, .key_list = nullptr};
  if (const absl::StatusOr<Document> known = Find(document.digest); known.ok()) document = *known;
  const bool known = document.manifest != nullptr || document.key_list != nullptr;
  KEYLOAD_RETURN_IF_ERROR((this->*parse)(bytes, document));
  const Stored stored = {.digest = document.digest, .known = known};
  MutexLock lock(mutex_);
  if (const auto it = by_digest_.find(document.digest); it != by_digest_.end()) {
    *it->second = std::move(document);
    return stored;
  }
  total_bytes_ += document.bytes;
  documents_.push_front(std::move(document));
  by_digest_.emplace(stored.digest, documents_.begin());
  while (total_bytes_ > options_.max_total_bytes && documents_.size() > 1) {
    total_bytes_ -= documents_.back().bytes;
    by_digest_.erase(documents_.back().digest);
    documents_.pop_back();
  }
  return stored;
}

absl::Status DocumentStore::ParseManifest(std::string_view bytes, Document& document) const {
  if (document.manifest != nullptr) return absl::OkStatus();
  KEYLOAD_ASSIGN_OR_RETURN(document.manifest, parse_(bytes));
  return absl::OkStatus();
}

absl::Status DocumentStore::ParseKeyList(std::string_view bytes, Document& document) const {
  if (document.key_list != nullptr) return absl::OkStatus();
  auto keys = std::make_shared<KeyList>();
  for (const absl::string_view piece : absl::StrSplit(ToAbsl(bytes), '\n', absl::SkipEmpty())) {
    std::string_view line = ToStd(piece);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.size() > 4096 || line.find('\0') != std::string_view::npos) {
      return MakeError(Reason::kBadRequest, StrCat("line ", keys->size() + 1, " of the key list is no key"));
    }
    if (!line.empty()) keys->emplace_back(line);
    if (keys->size() > options_.max_list_keys) {
      return MakeError(Reason::kDocumentTooLarge,
                       StrCat("the key list has more than ", options_.max_list_keys, " keys"));
    }
  }
  document.key_list = std::move(keys);
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
