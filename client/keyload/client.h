#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload {

// Why a call failed, in the server's words. `reason` is one of docs/errors.md; empty when the error was not made by a
// keyload server (no connection, a proxy, this library).
struct ErrorInfo {
  std::string reason;
  std::string domain;
  std::map<std::string, std::string> metadata;
};

// What a status that this library returned carries; all fields empty if it carries nothing. Thread-safe.
ErrorInfo GetErrorInfo(const absl::Status& status);

// After what time the server expects that the same call may succeed (LOAD_QUEUE_FULL, DRAINING); nullopt where it said
// nothing. Also for the error in a load's stream. Thread-safe.
std::optional<absl::Duration> GetRetryDelay(const absl::Status& status);

// `status` with `info` attached, for programs that make their own errors in the same shape.
absl::Status WithErrorInfo(absl::Status status, const ErrorInfo& info);

// How the server and this client prove who they are. PEM text, not file names.
struct TlsOptions {
  std::string ca;    // authorities that the server's certificate is checked against
  std::string cert;  // this client's certificate and its key; both empty: it has none
  std::string key;
};

struct ClientOptions {
  std::string address;            // "unix:PATH" or "HOST:PORT"
  std::optional<TlsOptions> tls;  // of HOST:PORT; a Unix socket takes none
  std::string token;              // sent with every call as a bearer token; empty: none
};

// Bounds of one call, and what it belongs to. All are optional.
struct CallOptions {
  absl::Duration timeout = absl::InfiniteDuration();  // from the call's start; then DEADLINE_EXCEEDED
  std::stop_token stop;                               // a stop request ends the call with CANCELLED
  // W3C trace context, which the server writes into its log beside what the call did. Sent as it is; the server ignores
  // one that is not valid. What cannot be metadata (over 256 bytes, not printable ASCII) is not sent.
  std::string traceparent;
};

// Called on the thread that called Load, in the order of the server's messages. Each may be empty.
struct LoadCallbacks {
  std::function<void(const v1::LoadAccepted&)> on_accepted;
  std::function<void(const v1::LoadReport&)> on_plan;  // the plan, once, before any tensor byte is read
  std::function<void(const v1::LoadProgress&)> on_progress;
};

// What grpc.health.v1 answers.
enum class ServingStatus { kUnknown = 0, kServing = 1, kNotServing = 2, kServiceUnknown = 3 };

// A connection to one keyload server.
//
// Thread-safe: any number of calls may run at the same time. Every call blocks until it is answered, its timeout has
// passed or a stop is requested. A failed call returns the server's status code and message, with GetErrorInfo() for
// its reason; UNAVAILABLE without a reason means that the server could not be reached. The client must outlive its
// calls.
class Client {
 public:
  // Does not connect yet: the first call does. INVALID_ARGUMENT if the address is empty, if one of certificate and key
  // is missing, and for a token that would go unencrypted to another machine.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const ClientOptions& options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // One load over its own stream. Any report that ends the load is OK, also REJECTED, CANCELLED and FAILED: read
  // `outcome`. A load that never got a plan is a status with the server's reason. A stop request asks the server to
  // cancel and waits for the report, at most five seconds; with `spec.detach` the load stays alive if this program
  // dies, but a stop request cancels it all the same.
  absl::StatusOr<v1::LoadReport> Load(const v1::LoadSpec& spec, const LoadCallbacks& callbacks = {},
                                      const CallOptions& options = {});
  // Starts the load and returns as soon as the server has accepted it; `spec.detach` must be set (INVALID_ARGUMENT).
  absl::StatusOr<v1::LoadAccepted> StartLoad(const v1::LoadSpec& spec, const CallOptions& options = {});
  // One load as a unary call, without progress. FAILED and CANCELLED are a status here.
  absl::StatusOr<v1::LoadReport> LoadModel(const v1::LoadSpec& spec, const CallOptions& options = {});
  // What Load would do: outcome PLANNED or REJECTED.
  absl::StatusOr<v1::LoadReport> PlanLoad(const v1::LoadSpec& spec, const CallOptions& options = {});

  absl::StatusOr<v1::UnloadModelResponse> UnloadModel(std::string_view model, const CallOptions& options = {});
  absl::StatusOr<v1::Model> GetModel(std::string_view model, const CallOptions& options = {});
  // All pages; the timeout is for all of them together.
  absl::StatusOr<std::vector<v1::Model>> ListModels(const CallOptions& options = {});

  // What is there, and then every change until `on_change` returns an error, which is returned, or the call ends: see
  // WatchModelsResponse. Calls it on this thread. UNAVAILABLE / DRAINING when the server shuts down.
  absl::Status WatchModels(const v1::WatchModelsRequest& request,
                           absl::FunctionRef<absl::Status(const v1::WatchModelsResponse&)> on_change,
                           const CallOptions& options = {});

  // Calls `on_chunk` for each message, on this thread. An error from it ends the call and is returned.
  absl::Status ListKeys(const v1::ListKeysRequest& request,
                        absl::FunctionRef<absl::Status(const v1::ListKeysResponse&)> on_chunk,
                        const CallOptions& options = {});
  absl::Status ReadTensors(const v1::ReadTensorsRequest& request,
                           absl::FunctionRef<absl::Status(const v1::ReadTensorsResponse&)> on_chunk,
                           const CallOptions& options = {});

  // Makes the selected keys resident, each read once however many ask, and returns when they are. COMPLETE, INCOMPLETE
  // and REJECTED are OK with the report. A failure, a timeout or a stop is a status; what was resident before stays.
  absl::StatusOr<v1::LoadReport> Materialize(const v1::MaterializeRequest& request, const CallOptions& options = {});
  // Makes the selected keys lazy and frees their memory, but for what is leased.
  absl::StatusOr<v1::EvictResponse> Evict(const v1::EvictRequest& request, const CallOptions& options = {});

  // Sends `document` in chunks of 1 MiB and returns its digest, to be named in a LoadSpec. MANIFEST is a binary
  // ModelManifest, KEY_LIST is names, one a line.
  absl::StatusOr<v1::UploadDocumentResponse> UploadDocument(v1::UploadDocumentRequest::Kind kind,
                                                            std::string_view document, const CallOptions& options = {});

  absl::StatusOr<v1::ListDevicesResponse> ListDevices(const CallOptions& options = {});
  absl::StatusOr<v1::GetServerInfoResponse> GetServerInfo(const CallOptions& options = {});
  // The standard health check of one service; "" is the whole server. kServiceUnknown if the server does not know it.
  absl::StatusOr<ServingStatus> Health(std::string_view service = "", const CallOptions& options = {});

  // Loads that run or ended lately, in the order of their start.
  absl::StatusOr<std::vector<v1::LoadStatus>> ListLoads(const CallOptions& options = {});
  // Ends the load for everybody who waits for it; fine for one that has ended.
  absl::Status CancelLoad(std::string_view load, const CallOptions& options = {});
  // Follows a load to its end. INTERNAL if the server ends the stream before that.
  absl::StatusOr<v1::LoadStatus> WatchLoad(std::string_view load, const LoadCallbacks& callbacks = {},
                                           const CallOptions& options = {});

  // All pages; the timeout is for all of them together. A server that does not have it yet answers UNIMPLEMENTED,
  // reason METHOD_NOT_SUPPORTED.
  absl::StatusOr<v1::ListLeasesResponse> ListLeases(std::string_view model, const CallOptions& options = {});

  // Device maps that the server keeps by name. Set with an etag changes the map only if it is still that one. List
  // takes all pages; the timeout is for all of them together.
  absl::StatusOr<v1::NamedDeviceMap> SetDeviceMap(const v1::NamedDeviceMap& map, const CallOptions& options = {});
  absl::StatusOr<v1::NamedDeviceMap> GetDeviceMap(std::string_view name, const CallOptions& options = {});
  absl::StatusOr<v1::ListDeviceMapsResponse> ListDeviceMaps(const CallOptions& options = {});
  absl::Status DeleteDeviceMap(std::string_view name, const CallOptions& options = {});

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace keyload
