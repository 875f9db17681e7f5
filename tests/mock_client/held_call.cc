#include "tests/mock_client/held_call.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/generic/generic_stub.h"

namespace keyload::mock {

HeldCall::HeldCall(const std::shared_ptr<grpc::Channel>& channel, const Options& options) {
  if (options.daemon_keeps_time) {
    context_.AddMetadata("grpc-timeout", absl::StrCat(absl::ToInt64Milliseconds(options.timeout), "m"));
  } else {
    context_.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(options.timeout));
  }
  thread_ = std::thread([this, channel, options] { Run(channel, options); });
}

HeldCall::~HeldCall() {
  context_.TryCancel();
  thread_.join();
}

HeldCall::Received HeldCall::received() const {
  MutexLock lock(mutex_);
  return received_;
}

void HeldCall::Run(const std::shared_ptr<grpc::Channel>& channel, const Options& options) {
  grpc::CompletionQueue queue;
  // Every operation ends with the call, which has a deadline.
  const auto next_event = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  grpc::GenericStub stub(channel);
  const auto call = stub.PrepareCall(&context_, options.method, &queue);
  call->StartCall(nullptr);
  bool open = next_event();
  if (open && options.request.has_value()) {
    const grpc::Slice slice(options.request->data(), options.request->size());
    const grpc::ByteBuffer buffer(&slice, 1);
    options.stays_open ? call->Write(buffer, nullptr) : call->WriteLast(buffer, grpc::WriteOptions(), nullptr);
    open = next_event();
  }
  while (open) {
    grpc::ByteBuffer message;
    call->Read(&message, nullptr);
    open = next_event();
    if (!open) break;
    MutexLock lock(mutex_);
    received_.result.messages.push_back(Flatten(message));
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  next_event();
  queue.Shutdown();
  MutexLock lock(mutex_);
  received_.result.status = status;
  received_.end = absl::Now();
}

}  // namespace keyload::mock
