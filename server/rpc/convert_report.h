#pragma once

#include "keyload/v1/model_loader.pb.h"
#include "server/lifecycle/model_registry.h"
#include "server/report/load_report.h"
#include "server/service/loader_service.h"
#include "server/service/model_keys.h"

namespace keyload {

v1::LoadReport::Outcome ToProto(Outcome outcome);
v1::ExpectedKeys::From ToProto(ExpectedFrom from);
// Clients take messages of 4 MiB by default, and a report is not always alone in one.
inline constexpr uint64_t kMaxReportBytes = 3584 << 10;
// At most kMaxReportBytes: of long lists the ends are left out and counted.
v1::LoadReport ToProto(const LoadReport& report);
// Leaves out what makes `report` larger than `bytes`, of its lists only.
void CutReport(v1::LoadReport& report, uint64_t bytes);
v1::LoadProgress ToProto(const LoadProgress& progress);
v1::LoadStatus ToProto(const LoadStatus& status);
// Without the map its entries are counted as left out: a list of models would be too large with them.
v1::Model ToProto(const ModelInfo& info, bool with_map);
v1::Model ToProto(const ModelRegistry::Change& change);
v1::KeyInfo ToProto(const ListedKey& key);
v1::KeyState ToProto(ListedState state);
v1::Device ToProto(Device& device);

}  // namespace keyload
