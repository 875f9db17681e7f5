#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "absl/time/time.h"
#include "keyload/v1/model_loader.grpc.pb.h"
#include "server/rpc/request_ptr.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// The contract's handlers: check, convert, delegate, convert. guarded_service.h has settled before that the caller may
// make the call and that the request has no unknown field. What a client streams comes here as bytes: a message that
// gRPC cannot parse would look like the end of the stream. Thread-safe; no handler blocks a gRPC thread.
class ModelLoaderServiceImpl final {
 public:
  explicit ModelLoaderServiceImpl(const RpcContext& rpc);

  // What requests are charged to.
  const std::shared_ptr<HeapAccount>& request_memory() const { return rpc_.service->request_memory(); }

  grpc::ServerBidiReactor<grpc::ByteBuffer, v1::LoadResponse>* Load(grpc::CallbackServerContext* context);
  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* context,
                                      const RequestPtr<v1::LoadModelRequest>& request, v1::LoadModelResponse* response);
  grpc::ServerUnaryReactor* PlanLoad(grpc::CallbackServerContext* context,
                                     const RequestPtr<v1::PlanLoadRequest>& request, v1::PlanLoadResponse* response);
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context, const RequestPtr<v1::GetLoadRequest>& request,
                                    v1::GetLoadResponse* response);
  grpc::ServerUnaryReactor* ListLoads(grpc::CallbackServerContext* context,
                                      const RequestPtr<v1::ListLoadsRequest>& request, v1::ListLoadsResponse* response);
  grpc::ServerWriteReactor<v1::WatchLoadResponse>* WatchLoad(grpc::CallbackServerContext* context,
                                                             const RequestPtr<v1::WatchLoadRequest>& request);
  grpc::ServerUnaryReactor* CancelLoad(grpc::CallbackServerContext* context,
                                       const RequestPtr<v1::CancelLoadRequest>& request,
                                       v1::CancelLoadResponse* response);
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const RequestPtr<v1::GetModelRequest>& request, v1::GetModelResponse* response);
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const RequestPtr<v1::ListModelsRequest>& request,
                                       v1::ListModelsResponse* response);
  grpc::ServerWriteReactor<v1::WatchModelsResponse>* WatchModels(grpc::CallbackServerContext* context,
                                                                 const RequestPtr<v1::WatchModelsRequest>& request);
  grpc::ServerWriteReactor<v1::ListKeysResponse>* ListKeys(grpc::CallbackServerContext* context,
                                                           const RequestPtr<v1::ListKeysRequest>& request);
  grpc::ServerWriteReactor<v1::ReadTensorsResponse>* ReadTensors(grpc::CallbackServerContext* context,
                                                                 const RequestPtr<v1::ReadTensorsRequest>& request);
  grpc::ServerUnaryReactor* Materialize(grpc::CallbackServerContext* context,
                                        const RequestPtr<v1::MaterializeRequest>& request,
                                        v1::MaterializeResponse* response);
  grpc::ServerUnaryReactor* Evict(grpc::CallbackServerContext* context, const RequestPtr<v1::EvictRequest>& request,
                                  v1::EvictResponse* response);
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context,
                                        const RequestPtr<v1::UnloadModelRequest>& request,
                                        v1::UnloadModelResponse* response);
  grpc::ServerUnaryReactor* SetDeviceMap(grpc::CallbackServerContext* context,
                                         const RequestPtr<v1::SetDeviceMapRequest>& request,
                                         v1::SetDeviceMapResponse* response);
  grpc::ServerUnaryReactor* GetDeviceMap(grpc::CallbackServerContext* context,
                                         const RequestPtr<v1::GetDeviceMapRequest>& request,
                                         v1::GetDeviceMapResponse* response);
  grpc::ServerUnaryReactor* ListDeviceMaps(grpc::CallbackServerContext* context,
                                           const RequestPtr<v1::ListDeviceMapsRequest>& request,
                                           v1::ListDeviceMapsResponse* response);
  grpc::ServerUnaryReactor* DeleteDeviceMap(grpc::CallbackServerContext* context,
                                            const RequestPtr<v1::DeleteDeviceMapRequest>& request,
                                            v1::DeleteDeviceMapResponse* response);
  grpc::ServerReadReactor<grpc::ByteBuffer>* UploadDocument(grpc::CallbackServerContext* context,
                                                            v1::UploadDocumentResponse* response);
  grpc::ServerUnaryReactor* ListDevices(grpc::CallbackServerContext* context,
                                        const RequestPtr<v1::ListDevicesRequest>& request,
                                        v1::ListDevicesResponse* response);
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const RequestPtr<v1::GetServerInfoRequest>& request,
                                          v1::GetServerInfoResponse* response);

  // Not supported yet: METHOD_NOT_SUPPORTED with metadata method=<name>.
  grpc::ServerUnaryReactor* AcquireLease(grpc::CallbackServerContext* context,
                                         const RequestPtr<v1::AcquireLeaseRequest>&, v1::AcquireLeaseResponse*);
  grpc::ServerUnaryReactor* RenewLease(grpc::CallbackServerContext* context, const RequestPtr<v1::RenewLeaseRequest>&,
                                       v1::RenewLeaseResponse*);
  grpc::ServerUnaryReactor* ReleaseLease(grpc::CallbackServerContext* context,
                                         const RequestPtr<v1::ReleaseLeaseRequest>&, v1::ReleaseLeaseResponse*);
  grpc::ServerUnaryReactor* ListLeases(grpc::CallbackServerContext* context, const RequestPtr<v1::ListLeasesRequest>&,
                                       v1::ListLeasesResponse*);

 private:
  const RpcContext rpc_;
  const absl::Time start_time_;
};

}  // namespace keyload
