#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "keyload/v1/model_loader.pb.h"
#include "server/keys/manifest.h"

namespace keyload {

// A validated manifest out of its message. MANIFEST_INVALID.
absl::StatusOr<std::shared_ptr<const Manifest>> FromProto(const v1::ModelManifest& message);

// The message that such a manifest came from, or one that says the same.
v1::ModelManifest ToProto(const Manifest& manifest);

// The same out of bytes: proto3 JSON when the first character is '{', binary otherwise.
// FIELD_NOT_SUPPORTED: it has a field that this server does not know.
absl::StatusOr<std::shared_ptr<const Manifest>> ParseManifest(std::string_view bytes);
// The memory that ParseManifest takes at most for `bytes` while it works; a few bytes can become large messages.
uint64_t ManifestParseBytes(std::string_view bytes);

}  // namespace keyload
