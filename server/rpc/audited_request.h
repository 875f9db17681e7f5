#pragma once

#include <optional>

#include "keyload/v1/model_loader.pb.h"
#include "server/base/log.h"

namespace keyload {

// How the audit line of a request begins. Those of a load's stream have theirs in LoadStream.

inline AuditEntry AuditOf(const v1::LoadModelRequest& request) {
  return {.action = "load", .model = request.spec().model()};
}
inline AuditEntry AuditOf(const v1::UnloadModelRequest& request) {
  return {.action = "unload", .model = request.model()};
}
inline AuditEntry AuditOf(const v1::MaterializeRequest& request) {
  return {.action = "materialize", .model = request.model()};
}
inline AuditEntry AuditOf(const v1::EvictRequest& request) { return {.action = "evict", .model = request.model()}; }
inline AuditEntry AuditOf(const v1::CancelLoadRequest& request) { return {.action = "cancel", .load = request.load()}; }
inline AuditEntry AuditOf(const v1::SetDeviceMapRequest& request) {
  return {.action = "set_device_map", .map = request.device_map().name()};
}
inline AuditEntry AuditOf(const v1::DeleteDeviceMapRequest& request) {
  return {.action = "delete_device_map", .map = request.name()};
}

template <typename Request>
concept AuditedRequest = requires(const Request& request) { AuditOf(request); };

}  // namespace keyload
