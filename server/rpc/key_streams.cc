#include "server/rpc/key_streams.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/rpc/chunk_stream.h"
#include "server/rpc/convert_report.h"
#include "server/rpc/convert_spec.h"
#include "server/service/model_keys.h"

namespace keyload {
namespace {

constexpr size_t kListBytes = 256 << 10;  // of a chunk of keys, roughly
constexpr uint64_t kReadBytes = 1 << 20;  // of a chunk of tensor data

constexpr size_t kBatch = 256;        // keys that are looked for at a time
constexpr size_t kReadBatch = 1024;   // of which lazy neighbours are read together
constexpr uint64_t kInfoBytes = 100;  // of a key in a list besides its name, roughly

absl::StatusOr<KeySelection> SelectionOf(const RpcContext& rpc, const v1::KeySelection& select,
                                         const RequestContext& context) {
  return CompileSelection(FromProto(select), select.key_list_digest(), rpc.service->documents(), context);
}

class ListKeysStream : public ChunkStream<v1::ListKeysResponse> {
 public:
  ListKeysStream(const RpcContext& rpc, grpc::CallbackServerContext& context, RequestPtr<v1::ListKeysRequest> request)
      : ChunkStream(rpc, *rpc.keys, context), request_(std::move(request)) {
    Continue();
  }

 private:
  uint64_t most_bytes() const override { return kListBytes; }

  absl::StatusOr<bool> Next(v1::ListKeysResponse& response, uint64_t bytes) override {
    if (!cursor_) KEYLOAD_RETURN_IF_ERROR(Prepare());
    const std::vector<Residency::State> states = model_->residency().states();
    uint64_t used = 0;
    while (used < bytes) {
      if (next_ == batch_.size()) {
        KEYLOAD_ASSIGN_OR_RETURN(batch_, cursor_->Next(kBatch, request_context()));
        next_ = 0;
        if (batch_.empty()) break;
      }
      v1::KeyInfo info = ToProto(DescribeKey(*model_, &states, batch_[next_++]));
      if (!states_.empty() && !states_.contains(info.state())) continue;
      used += info.key().size() + kInfoBytes;
      *response.add_keys() = std::move(info);
    }
    return response.keys_size() > 0;
  }

  absl::Status Prepare() {
    KEYLOAD_ASSIGN_OR_RETURN(model_, rpc_.service->registry().Use(request_->model()));
    KEYLOAD_ASSIGN_OR_RETURN(KeySelection selection, SelectionOf(rpc_, request_->select(), request_context()));
    for (const int state : request_->states()) states_.insert(state);
    KEYLOAD_RETURN_IF_ERROR(CheckWork(*model_->content().keys, selection));
    cursor_.emplace(model_, std::move(selection), KeyCursor::Of::kAll);
    return absl::OkStatus();
  }

  const RequestPtr<v1::ListKeysRequest> request_;
  ModelHandle model_;
  absl::flat_hash_set<int> states_;
  std::optional<KeyCursor> cursor_;
  std::vector<uint32_t> batch_;  // of the cursor, from next_ on not sent yet
  size_t next_ = 0;
};

class ReadTensorsStream : public ChunkStream<v1::ReadTensorsResponse> {
 public:
  ReadTensorsStream(const RpcContext& rpc, grpc::CallbackServerContext& context,
                    RequestPtr<v1::ReadTensorsRequest> request)
      : ChunkStream(rpc, *rpc.reads, context), request_(std::move(request)) {
    Continue();
  }

 private:
  uint64_t most_bytes() const override { return kReadBytes; }

  absl::StatusOr<bool> Next(v1::ReadTensorsResponse& response, uint64_t bytes) override {
    if (!cursor_) KEYLOAD_RETURN_IF_ERROR(Prepare());
    if (next_ == batch_.size()) {
      KEYLOAD_ASSIGN_OR_RETURN(batch_, cursor_->Next(kReadBatch, request_context()));
      next_ = ahead_ = 0;
      if (batch_.empty()) return false;
    }
    const std::string key(model_->content().keys->keys[batch_[next_]].name.substr(0, kNameInMessage));
    KEYLOAD_RETURN_IF_ERROR(Annotate(ReadChunk(response, bytes), StrCat("model ", request_->model(), ": ", key),
                                     {{"model", request_->model()}, {"key", key}}));
    return true;
  }

  absl::Status ReadChunk(v1::ReadTensorsResponse& response, uint64_t bytes) {
    const uint32_t key = batch_[next_];
    if (offset_ == 0) {
      if (next_ == ahead_) {
        ahead_ += rpc_.service->ReadAhead(*model_, std::span(batch_).subspan(next_), request_context());
      }
      KEYLOAD_ASSIGN_OR_RETURN(bytes_, rpc_.service->OpenTensor(*model_, key, request_context()));
      ListedKey listed = DescribeKey(*model_, nullptr, key);
      if (model_->TensorOf(key) != ResidentModel::kInFile) listed.state = ListedState::kResident;
      size_ = listed.bytes;
      *response.mutable_tensor() = ToProto(listed);
    }
    response.set_offset(offset_);
    const uint64_t length = std::min(bytes, size_ - offset_);
    std::string& data = *response.mutable_data();
    data.resize(length);
    KEYLOAD_RETURN_IF_ERROR(bytes_->Read(offset_, std::as_writable_bytes(std::span(data))));
    offset_ += length;
    if (offset_ == size_) {
      bytes_.reset();
      offset_ = 0;
      ++next_;
    }
    return absl::OkStatus();
  }

  absl::Status Prepare() {
    KEYLOAD_ASSIGN_OR_RETURN(model_, rpc_.service->registry().Use(request_->model()));
    if (request_->generation() != 0 && request_->generation() != model_->report().generation) {
      return MakeError(Reason::kGenerationMismatch,
                       StrCat("model ", request_->model(), " is at generation ", model_->report().generation, ", not ",
                              request_->generation()),
                       {{"model", request_->model()}, {"generation", StrCat(model_->report().generation)}});
    }
    KEYLOAD_ASSIGN_OR_RETURN(KeySelection selection, SelectionOf(rpc_, request_->select(), request_context()));
    KEYLOAD_RETURN_IF_ERROR(CheckWork(*model_->content().keys, selection));
    KEYLOAD_RETURN_IF_ERROR(CheckNamedKeys(*model_, selection, request_context()));
    cursor_.emplace(model_, std::move(selection), KeyCursor::Of::kWithBytes);
    return absl::OkStatus();
  }

  const RequestPtr<v1::ReadTensorsRequest> request_;
  ModelHandle model_;
  std::optional<KeyCursor> cursor_;
  std::vector<uint32_t> batch_;       // of the cursor
  std::optional<TensorBytes> bytes_;  // of batch_[next_]; keeps them while they are sent
  size_t next_ = 0;
  size_t ahead_ = 0;     // up to here keys have been read ahead
  uint64_t offset_ = 0;  // in batch_[next_]
  uint64_t size_ = 0;    // of batch_[next_]
};

}  // namespace

grpc::ServerWriteReactor<v1::ListKeysResponse>* StartListKeys(const RpcContext& rpc,
                                                              grpc::CallbackServerContext* context,
                                                              const RequestPtr<v1::ListKeysRequest>& request) {
  return new ListKeysStream(rpc, *context, request);
}

grpc::ServerWriteReactor<v1::ReadTensorsResponse>* StartReadTensors(const RpcContext& rpc,
                                                                    grpc::CallbackServerContext* context,
                                                                    const RequestPtr<v1::ReadTensorsRequest>& request) {
  return new ReadTensorsStream(rpc, *context, request);
}

}  // namespace keyload
