#include "server/rpc/call_metrics.h"

#include <string_view>

#include "absl/time/clock.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload {
namespace {

// "/keyload.v1.ModelLoaderService/GetModel" is "GetModel"; methods of other services, health among them, have no name
// of their own.
std::string_view ShortName(std::string_view method) {
  static const std::string* const prefix = new std::string(
      "/" + v1::LoadRequest::descriptor()->file()->FindServiceByName("ModelLoaderService")->full_name() + "/");
  return method.starts_with(*prefix) ? method.substr(prefix->size()) : std::string_view();
}

// Confined to one call, whose batches gRPC shows one after the other.
class CallCounter : public grpc::experimental::Interceptor {
 public:
  CallCounter(Metrics& metrics, const char* method) : metrics_(metrics), method_(ShortName(method)) {
    metrics_.CallStarted(method_);
  }
  ~CallCounter() override { End(absl::StatusCode::kCancelled); }

  void Intercept(grpc::experimental::InterceptorBatchMethods* batch) override {
    if (batch->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_STATUS)) {
      End(static_cast<absl::StatusCode>(batch->GetSendStatus().error_code()));
    }
    batch->Proceed();
  }

 private:
  void End(absl::StatusCode code) {
    if (ended_) return;
    ended_ = true;
    metrics_.CallEnded(method_, code, absl::FromChrono(std::chrono::steady_clock::now() - start_));
  }

  Metrics& metrics_;
  const std::string method_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  bool ended_ = false;
};

class CallCounterFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CallCounterFactory(Metrics& metrics) : metrics_(metrics) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    return new CallCounter(metrics_, info->method());  // gRPC deletes it
  }

 private:
  Metrics& metrics_;
};

}  // namespace

std::vector<std::string> RpcMethodNames() {
  const auto* const service = v1::LoadRequest::descriptor()->file()->FindServiceByName("ModelLoaderService");
  std::vector<std::string> names;
  names.reserve(static_cast<size_t>(service->method_count()));
  for (int i = 0; i < service->method_count(); ++i) names.push_back(service->method(i)->name());
  return names;
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CountCalls(Metrics& metrics) {
  return std::make_unique<CallCounterFactory>(metrics);
}

}  // namespace keyload
