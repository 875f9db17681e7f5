#include "server/rpc/key_streams.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "server/base/error.h"
#include "server/base/no_throw.h"
#include "server/base/strings.h"
#include "server/rpc/chunk_stream.h"
#include "server/rpc/convert_report.h"
#include "server/rpc/convert_spec.h"
#include "server/service/model_keys.h"

namespace keyload {
namespace {

constexpr size_t kListBytes = 256 << 10;  // of a chunk of keys, roughly
constexpr uint64_t kReadBytes = 1 << 20;  // of a chunk of tensor data

class ListKeysStream : public ChunkStream<v1::ListKeysResponse> {
 public:
  ListKeysStream(const RpcContext& rpc, grpc::CallbackServerContext& context, const v1::ListKeysRequest& request)
      : ChunkStream(rpc, *rpc.keys, context), request_(request) {
    Continue();
  }

 private:
  absl::StatusOr<bool> Next(v1::ListKeysResponse& response) override {
    if (model_ == nullptr) KEYLOAD_RETURN_IF_ERROR(Prepare());
    size_t bytes = 0;
    for (; next_ < keys_.size() && bytes < kListBytes; ++next_) {
      v1::KeyInfo info = ToProto(keys_[next_]);
      if (!states_.empty() && !states_.contains(info.state())) continue;
      bytes += info.key().size() + 100;
      *response.add_keys() = std::move(info);
    }
    return response.keys_size() > 0;
  }

  absl::Status Prepare() {
    KEYLOAD_ASSIGN_OR_RETURN(model_, rpc_.service->registry().Use(request_.model()));
    KEYLOAD_ASSIGN_OR_RETURN(
        const KeySelection selection,
        CompileSelection(FromProto(request_.select()), request_.select().key_list_digest(), rpc_.service->documents()));
    for (const int state : request_.states()) states_.insert(state);
    KEYLOAD_ASSIGN_OR_RETURN(keys_, ListKeys(*model_, selection, &request_context()));
    return absl::OkStatus();
  }

  const v1::ListKeysRequest request_;
  ModelHandle model_;
  std::vector<ListedKey> keys_;  // views into *model_
  absl::flat_hash_set<int> states_;
  size_t next_ = 0;
};

class ReadTensorsStream : public ChunkStream<v1::ReadTensorsResponse> {
 public:
  ReadTensorsStream(const RpcContext& rpc, grpc::CallbackServerContext& context, const v1::ReadTensorsRequest& request)
      : ChunkStream(rpc, *rpc.reads, context), request_(request) {
    Continue();
  }

 private:
  absl::StatusOr<bool> Next(v1::ReadTensorsResponse& response) override {
    if (model_ == nullptr) KEYLOAD_RETURN_IF_ERROR(Prepare());
    if (next_ == keys_.size()) return false;
    const std::string_view key = keys_[next_].key.substr(0, kNameInMessage);
    KEYLOAD_RETURN_IF_ERROR(Annotate(ReadChunk(response), StrCat("model ", request_.model(), ": ", key),
                                     {{"model", request_.model()}, {"key", std::string(key)}}));
    return true;
  }

  absl::Status ReadChunk(v1::ReadTensorsResponse& response) {
    ListedKey& key = keys_[next_];
    if (offset_ == 0) {
      if (next_ == ahead_) {
        ahead_ += rpc_.service->ReadAhead(*model_, std::span(keys_).subspan(next_), request_context());
      }
      KEYLOAD_ASSIGN_OR_RETURN(bytes_,
                               rpc_.service->OpenTensor(*model_, static_cast<uint32_t>(key.index), request_context()));
      if (model_->TensorOf(static_cast<uint32_t>(key.index)) != ResidentModel::kInFile)
        key.state = ListedState::kResident;
      *response.mutable_tensor() = ToProto(key);
    }
    response.set_offset(offset_);
    const uint64_t length = std::min(kReadBytes, key.bytes - offset_);
    std::string& data = *response.mutable_data();
    data.resize(length);
    KEYLOAD_RETURN_IF_ERROR(bytes_->Read(offset_, std::as_writable_bytes(std::span(data))));
    offset_ += length;
    if (offset_ == key.bytes) {
      bytes_.reset();
      offset_ = 0;
      ++next_;
    }
    return absl::OkStatus();
  }

  absl::Status Prepare() {
    KEYLOAD_ASSIGN_OR_RETURN(const ModelHandle model, rpc_.service->registry().Use(request_.model()));
    if (request_.generation() != 0 && request_.generation() != model->report().generation) {
      return MakeError(Reason::kGenerationMismatch,
                       StrCat("model ", request_.model(), " is at generation ", model->report().generation, ", not ",
                              request_.generation()),
                       {{"model", request_.model()}, {"generation", StrCat(model->report().generation)}});
    }
    KEYLOAD_ASSIGN_OR_RETURN(
        const KeySelection selection,
        CompileSelection(FromProto(request_.select()), request_.select().key_list_digest(), rpc_.service->documents()));
    KEYLOAD_ASSIGN_OR_RETURN(keys_, KeysToRead(*model, selection, &request_context()));
    model_ = model;
    return absl::OkStatus();
  }

  const v1::ReadTensorsRequest request_;
  ModelHandle model_;
  std::vector<ListedKey> keys_;       // views into *model_
  std::optional<TensorBytes> bytes_;  // of keys_[next_]; keeps them while they are sent
  size_t next_ = 0;
  size_t ahead_ = 0;     // up to here keys have been read ahead
  uint64_t offset_ = 0;  // in keys_[next_]
};

class UploadDocumentStream : public grpc::ServerReadReactor<v1::UploadDocumentRequest>, public LiveCall {
 public:
  UploadDocumentStream(const RpcContext& rpc, grpc::CallbackServerContext& context,
                       v1::UploadDocumentResponse* response)
      : rpc_(rpc), context_(context), response_(*response), upload_(rpc.service->documents().BeginUpload()) {
    rpc_.calls->Add(this);
    upload_.ok() ? StartRead(&chunk_) : Finish(ToGrpcStatus(upload_.status()));
  }

  void OnReadDone(bool ok) override {
    if (!ok) return cancelled_ ? Finish(grpc::Status::CANCELLED) : Store();
    last_chunk_ = std::chrono::steady_clock::now();
    if (!kind_) kind_ = chunk_.kind();
    const uint64_t limit = rpc_.service->documents().options().max_document_bytes;
    if (bytes_.size() + chunk_.data().size() > limit) {
      return Finish(ToGrpcStatus(MakeError(Reason::kDocumentTooLarge, StrCat("a document may have ", limit, " bytes"),
                                           {{"limit_bytes", StrCat(limit)}})));
    }
    const absl::Status kept = NoThrow([&] { bytes_ += chunk_.data(); });
    if (!kept.ok()) return Finish(ToGrpcStatus(kept));
    StartRead(&chunk_);
  }
  void OnCancel() override { cancelled_ = true; }
  void OnDone() override { delete this; }
  void Drain() override {}
  void Cancel() override { context_.TryCancel(); }
  // Only so many uploads may be under way.
  void CancelIfUnread(std::chrono::steady_clock::time_point time) override {
    if (last_chunk_.load() < time) Cancel();
  }

 private:
  ~UploadDocumentStream() override { rpc_.calls->Remove(this); }

  void Store() {
    last_chunk_ = std::chrono::steady_clock::time_point::max();
    const absl::Status queued = NoThrow([this] {
      return rpc_.keys->Submit({.caller = CallerOf(rpc_.access, context_)->share(),
                                .run = [this] { Finish(ToGrpcStatus(StoreNow())); },
                                .fail = [this](const absl::Status& thrown) { Finish(ToGrpcStatus(thrown)); }});
    });
    if (!queued.ok()) Finish(ToGrpcStatus(queued));
  }

  absl::Status StoreNow() {
    const auto kind = kind_.value_or(v1::UploadDocumentRequest::KIND_UNSPECIFIED);
    if (kind != v1::UploadDocumentRequest::KIND_MANIFEST && kind != v1::UploadDocumentRequest::KIND_KEY_LIST) {
      return MakeError(Reason::kBadRequest, "the first chunk must say the kind of the document", {{"field", "kind"}});
    }
    DocumentStore& documents = rpc_.service->documents();
    KEYLOAD_ASSIGN_OR_RETURN(const DocumentStore::Stored stored, kind == v1::UploadDocumentRequest::KIND_MANIFEST
                                                                     ? documents.AddManifest(bytes_)
                                                                     : documents.AddKeyList(bytes_));
    response_.set_digest(stored.digest);
    response_.set_known(stored.known);
    return absl::OkStatus();
  }

  const RpcContext rpc_;
  grpc::CallbackServerContext& context_;
  v1::UploadDocumentResponse& response_;
  const absl::StatusOr<std::unique_ptr<DocumentStore::Upload>> upload_;
  v1::UploadDocumentRequest chunk_;
  std::optional<v1::UploadDocumentRequest::Kind> kind_;
  std::string bytes_;
  std::atomic<bool> cancelled_ = false;
  std::atomic<std::chrono::steady_clock::time_point> last_chunk_ = std::chrono::steady_clock::now();
};

}  // namespace

grpc::ServerWriteReactor<v1::ListKeysResponse>* StartListKeys(const RpcContext& rpc,
                                                              grpc::CallbackServerContext* context,
                                                              const v1::ListKeysRequest* request) {
  return new ListKeysStream(rpc, *context, *request);
}

grpc::ServerWriteReactor<v1::ReadTensorsResponse>* StartReadTensors(const RpcContext& rpc,
                                                                    grpc::CallbackServerContext* context,
                                                                    const v1::ReadTensorsRequest* request) {
  return new ReadTensorsStream(rpc, *context, *request);
}

grpc::ServerReadReactor<v1::UploadDocumentRequest>* StartUploadDocument(const RpcContext& rpc,
                                                                        grpc::CallbackServerContext* context,
                                                                        v1::UploadDocumentResponse* response) {
  return new UploadDocumentStream(rpc, *context, response);
}

}  // namespace keyload
