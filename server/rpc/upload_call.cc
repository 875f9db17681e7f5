#include "server/rpc/upload_call.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>

#include "server/base/error.h"
#include "server/base/no_throw.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/strict_request.h"

namespace keyload {
namespace {

// Receives a document chunk by chunk. The end of the client's messages and the end of its call look the same to a read:
// nothing more comes. So the headers of the answer are sent before the document is kept, which only works on a call
// that is still open: a document that was cut is never taken for a whole one.
class UploadDocumentCall : public grpc::ServerReadReactor<grpc::ByteBuffer>, public LiveCall {
 public:
  UploadDocumentCall(const RpcContext& rpc, grpc::CallbackServerContext& context, v1::UploadDocumentResponse* response)
      : rpc_(rpc),
        context_(context),
        response_(*response),
        upload_(rpc.service->documents().BeginUpload(CallerOf(rpc.access, context)->share())),
        entry_(*rpc.calls, this, PeerOf(*CallerOf(rpc.access, context))) {
    upload_.ok() ? StartRead(&bytes_) : Finish(ToGrpcStatus(upload_.status()));
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      last_chunk_ = Clock::time_point::max();
      return StartSendInitialMetadata();
    }
    last_chunk_ = Clock::now();
    const absl::Status kept = NoThrow([this] { return TakeChunk(); });
    if (!kept.ok()) return End(kept);
    StartRead(&bytes_);
  }
  void OnSendInitialMetadataDone(bool ok) override {
    if (!ok) return End(ClientIsGone());
    const absl::Status queued = NoThrow([this] {
      return rpc_.keys->Submit({.caller = CallerOf(rpc_.access, context_)->share(),
                                .run = [this] { End(Store()); },
                                .fail = [this](const absl::Status& thrown) { End(thrown); }});
    });
    if (!queued.ok()) End(queued);
  }
  void OnDone() override { delete this; }
  void Drain() override {}
  void Cancel() override { context_.TryCancel(); }
  // Only so many uploads may be under way, and an answer that is not taken keeps its call.
  void CancelIfUnread(Clock::time_point now, Clock::duration limit) override {
    if (last_chunk_.load() < now - limit) Cancel();
  }

 private:
  ~UploadDocumentCall() override = default;

  absl::Status TakeChunk() {
    v1::UploadDocumentRequest chunk;
    KEYLOAD_ASSIGN_OR_RETURN(const HeapCharge charge, ParseRequestInto(bytes_, rpc_.service->request_memory(), chunk));
    KEYLOAD_RETURN_IF_ERROR(CheckKnownFields(chunk));
    if (!kind_) kind_ = chunk.kind();
    return (*upload_)->Append(chunk.data());
  }

  absl::Status Store() {
    const auto kind = kind_.value_or(v1::UploadDocumentRequest::KIND_UNSPECIFIED);
    if (kind != v1::UploadDocumentRequest::KIND_MANIFEST && kind != v1::UploadDocumentRequest::KIND_KEY_LIST) {
      return MakeError(Reason::kBadRequest, "the first chunk must say the kind of the document", {{"field", "kind"}});
    }
    DocumentStore& documents = rpc_.service->documents();
    const std::string_view bytes = (*upload_)->bytes();
    KEYLOAD_ASSIGN_OR_RETURN(const DocumentStore::Stored stored, kind == v1::UploadDocumentRequest::KIND_MANIFEST
                                                                     ? documents.AddManifest(bytes)
                                                                     : documents.AddKeyList(bytes));
    response_.set_digest(stored.digest);
    response_.set_known(stored.known);
    return absl::OkStatus();
  }

  // Another upload may begin before this answer is taken.
  void End(const absl::Status& status) {
    upload_ = nullptr;
    last_chunk_ = Clock::now();
    Finish(ToGrpcStatus(status));
  }

  const RpcContext rpc_;
  grpc::CallbackServerContext& context_;
  v1::UploadDocumentResponse& response_;
  absl::StatusOr<std::unique_ptr<DocumentStore::Upload>> upload_;
  grpc::ByteBuffer bytes_;  // the read in flight
  std::optional<v1::UploadDocumentRequest::Kind> kind_;
  std::atomic<Clock::time_point> last_chunk_ = Clock::now();
  const LiveCalls::Entry entry_;
};

}  // namespace

grpc::ServerReadReactor<grpc::ByteBuffer>* StartUploadDocument(const RpcContext& rpc,
                                                               grpc::CallbackServerContext* context,
                                                               v1::UploadDocumentResponse* response) {
  return new UploadDocumentCall(rpc, *context, response);
}

}  // namespace keyload
