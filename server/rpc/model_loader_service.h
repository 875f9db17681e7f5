#pragma once

#include "absl/time/time.h"
#include "keyload/v1/model_loader.grpc.pb.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// The contract's handlers: check, convert, delegate, convert. Who calls has been settled: see guarded_service.h.
// Thread-safe; no handler blocks a gRPC thread.
class ModelLoaderServiceImpl final : public v1::ModelLoaderService::CallbackService {
 public:
  explicit ModelLoaderServiceImpl(const RpcContext& rpc);

  grpc::ServerBidiReactor<v1::LoadRequest, v1::LoadResponse>* Load(grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* context, const v1::LoadModelRequest* request,
                                      v1::LoadModelResponse* response) override;
  grpc::ServerUnaryReactor* PlanLoad(grpc::CallbackServerContext* context, const v1::PlanLoadRequest* request,
                                     v1::PlanLoadResponse* response) override;
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context, const v1::GetLoadRequest* request,
                                    v1::GetLoadResponse* response) override;
  grpc::ServerUnaryReactor* ListLoads(grpc::CallbackServerContext* context, const v1::ListLoadsRequest* request,
                                      v1::ListLoadsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchLoadResponse>* WatchLoad(grpc::CallbackServerContext* context,
                                                             const v1::WatchLoadRequest* request) override;
  grpc::ServerUnaryReactor* CancelLoad(grpc::CallbackServerContext* context, const v1::CancelLoadRequest* request,
                                       v1::CancelLoadResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchModelsResponse>* WatchModels(grpc::CallbackServerContext* context,
                                                                 const v1::WatchModelsRequest* request) override;
  grpc::ServerWriteReactor<v1::ListKeysResponse>* ListKeys(grpc::CallbackServerContext* context,
                                                           const v1::ListKeysRequest* request) override;
  grpc::ServerWriteReactor<v1::ReadTensorsResponse>* ReadTensors(grpc::CallbackServerContext* context,
                                                                 const v1::ReadTensorsRequest* request) override;
  grpc::ServerUnaryReactor* Materialize(grpc::CallbackServerContext* context, const v1::MaterializeRequest* request,
                                        v1::MaterializeResponse* response) override;
  grpc::ServerUnaryReactor* Evict(grpc::CallbackServerContext* context, const v1::EvictRequest* request,
                                  v1::EvictResponse* response) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context, const v1::UnloadModelRequest* request,
                                        v1::UnloadModelResponse* response) override;
  grpc::ServerUnaryReactor* SetDeviceMap(grpc::CallbackServerContext* context, const v1::SetDeviceMapRequest* request,
                                         v1::SetDeviceMapResponse* response) override;
  grpc::ServerUnaryReactor* GetDeviceMap(grpc::CallbackServerContext* context, const v1::GetDeviceMapRequest* request,
                                         v1::GetDeviceMapResponse* response) override;
  grpc::ServerUnaryReactor* ListDeviceMaps(grpc::CallbackServerContext* context,
                                           const v1::ListDeviceMapsRequest* request,
                                           v1::ListDeviceMapsResponse* response) override;
  grpc::ServerUnaryReactor* DeleteDeviceMap(grpc::CallbackServerContext* context,
                                            const v1::DeleteDeviceMapRequest* request,
                                            v1::DeleteDeviceMapResponse* response) override;
  grpc::ServerReadReactor<v1::UploadDocumentRequest>* UploadDocument(grpc::CallbackServerContext* context,
                                                                     v1::UploadDocumentResponse* response) override;
  grpc::ServerUnaryReactor* ListDevices(grpc::CallbackServerContext* context, const v1::ListDevicesRequest* request,
                                        v1::ListDevicesResponse* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context, const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;

  // Not supported yet: METHOD_NOT_SUPPORTED with metadata method=<name>.
  grpc::ServerUnaryReactor* AcquireLease(grpc::CallbackServerContext* context, const v1::AcquireLeaseRequest*,
                                         v1::AcquireLeaseResponse*) override;
  grpc::ServerUnaryReactor* RenewLease(grpc::CallbackServerContext* context, const v1::RenewLeaseRequest*,
                                       v1::RenewLeaseResponse*) override;
  grpc::ServerUnaryReactor* ReleaseLease(grpc::CallbackServerContext* context, const v1::ReleaseLeaseRequest*,
                                         v1::ReleaseLeaseResponse*) override;
  grpc::ServerUnaryReactor* ListLeases(grpc::CallbackServerContext* context, const v1::ListLeasesRequest*,
                                       v1::ListLeasesResponse*) override;

 private:
  const RpcContext rpc_;
  const absl::Time start_time_;
};

}  // namespace keyload
