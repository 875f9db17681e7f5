#pragma once

#include "absl/status/statusor.h"
#include "keyload/v1/model_loader.pb.h"
#include "server/service/device_map_table.h"
#include "server/service/load_spec.h"

namespace keyload {

// A request's spec, every field either taken over or refused. FIELD_NOT_SUPPORTED with metadata field=<path> for what
// this server does not do yet; BAD_REQUEST, DTYPE_NOT_SUPPORTED and MANIFEST_INVALID for what can never be right. A
// device map that it names is taken out of `maps` (null: none is kept), as if it were written out:
// DEVICE_MAP_NOT_FOUND.
absl::StatusOr<LoadSpec> FromProto(const v1::LoadSpec& request, const DeviceMapTable* maps = nullptr);

KeySelectionSpec FromProto(const v1::KeySelection& message);
Limits FromProto(const v1::Limits& message);

}  // namespace keyload
