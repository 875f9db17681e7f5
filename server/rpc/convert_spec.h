#pragma once

#include "absl/status/statusor.h"
#include "keyload/v1/model_loader.pb.h"
#include "server/service/load_spec.h"

namespace keyload {

// A request's spec, every field either taken over or refused. FIELD_NOT_SUPPORTED with metadata field=<path> for what
// this server does not do yet; BAD_REQUEST, DTYPE_NOT_SUPPORTED and MANIFEST_INVALID for what can never be right.
absl::StatusOr<LoadSpec> FromProto(const v1::LoadSpec& message);

KeySelectionSpec FromProto(const v1::KeySelection& message);
Limits FromProto(const v1::Limits& message);

}  // namespace keyload
