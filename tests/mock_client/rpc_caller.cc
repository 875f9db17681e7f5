#include "tests/mock_client/rpc_caller.h"

#include <chrono>

#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"

namespace keyload::mock {
namespace {

// Every operation of the call is bounded by the call's deadline, so that waiting for its event is too.
bool NextEvent(grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  return queue.Next(&tag, &ok) && ok;
}

}  // namespace

std::string Flatten(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return bytes;
}

RpcResult CallMethod(const std::shared_ptr<grpc::Channel>& channel, const std::string& method, std::string_view request,
                     absl::Duration timeout) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout));
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(channel);
  const auto call = stub.PrepareCall(&context, method, &queue);
  RpcResult result;
  call->StartCall(nullptr);
  bool open = NextEvent(queue);
  if (open) {
    const grpc::Slice slice(request.data(), request.size());
    call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
    open = NextEvent(queue);
  }
  // A refused write does not mean that there is no answer: the status follows in any case.
  while (open) {
    grpc::ByteBuffer message;
    call->Read(&message, nullptr);
    open = NextEvent(queue);
    if (open) result.messages.push_back(Flatten(message));
  }
  call->Finish(&result.status, nullptr);
  NextEvent(queue);
  queue.Shutdown();
  return result;
}

}  // namespace keyload::mock
