#pragma once

#include "keyload/v1/model_loader.pb.h"
#include "server/lifecycle/model_registry.h"
#include "server/report/load_report.h"
#include "server/service/loader_service.h"
#include "server/service/model_keys.h"

namespace keyload {

v1::LoadReport::Outcome ToProto(Outcome outcome);
v1::ExpectedKeys::From ToProto(ExpectedFrom from);
v1::LoadReport ToProto(const LoadReport& report);
v1::LoadProgress ToProto(const LoadProgress& progress);
v1::LoadStatus ToProto(const LoadStatus& status);
v1::Model ToProto(const ModelInfo& info);
v1::Model ToProto(const ModelRegistry::Change& change);
v1::KeyInfo ToProto(const ListedKey& key);
v1::KeyState ToProto(ListedState state);
v1::Device ToProto(Device& device);

}  // namespace keyload
