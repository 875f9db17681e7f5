#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/alarm.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "keyload/client.h"
#include "keyload/v1/model_loader.grpc.pb.h"

namespace keyload::client_internal {

// One load on one bidirectional stream, driven by the thread that calls Run: start, the server's events, half-close,
// end. A stop request first asks the server to cancel, so that the report still arrives, and breaks the call off when
// the grace has passed. Single use; confined to one thread, but for the stop request, which may come from any.
//
//   started ─▶ write start ─▶ [write cancel] ─▶ half-close
//           └▶ read event ─▶ read event ─▶ ... ─▶ last ─▶ finish
class LoadCall {
 public:
  enum class Until { kReport, kAccepted };

  LoadCall(v1::ModelLoaderService::Stub& stub, const LoadCallbacks& callbacks, const CallOptions& options, Until until,
           absl::Duration cancel_grace = absl::Seconds(5));
  ~LoadCall();
  LoadCall(const LoadCall&) = delete;

  // Blocks until the load has ended. OK: the server sent what `until` waits for.
  absl::Status Run(const v1::LoadSpec& spec);

  const std::optional<v1::LoadReport>& report() const { return report_; }
  const std::optional<v1::LoadAccepted>& accepted() const { return accepted_; }

 private:
  enum class Event : intptr_t { kStarted = 1, kRead, kWritten, kFinished, kStopRequested };
  static void* Tag(Event event) { return reinterpret_cast<void*>(event); }

  bool WaitEvent(Event& event, bool& ok);
  void OnEvent(Event event, bool ok);
  void OnMessage();
  void WriteNext();
  void RequestCancel();
  bool Satisfied() const;
  absl::Status Result() const;

  v1::ModelLoaderService::Stub& stub_;
  const LoadCallbacks& callbacks_;
  const CallOptions& options_;
  const Until until_;
  const absl::Duration cancel_grace_;

  grpc::CompletionQueue queue_;
  grpc::ClientContext context_;
  grpc::Alarm stop_alarm_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<v1::LoadRequest, v1::LoadResponse>> stream_;

  v1::LoadRequest start_;
  v1::LoadRequest cancel_;
  v1::LoadResponse incoming_;
  bool started_ = false;
  bool writing_ = false;
  bool start_written_ = false;
  bool half_closed_ = false;
  bool stop_requested_ = false;
  bool cancel_written_ = false;
  bool finished_ = false;
  absl::Time break_off_ = absl::InfiniteFuture();

  std::optional<v1::LoadAccepted> accepted_;
  std::optional<v1::LoadReport> report_;
  std::optional<v1::LoadError> error_;
  grpc::Status status_;
};

}  // namespace keyload::client_internal
