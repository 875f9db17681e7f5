#include "server/base/error.h"
#include "server/tensor/torch_plugin.h"

namespace keyload {

bool TorchPluginExists() { return false; }

absl::StatusOr<TorchConvertFunction> LoadTorchPlugin() {
  return MakeError(Reason::kDtypeNotSupported, "this build of keyload has no LibTorch and cannot convert dtypes");
}

}  // namespace keyload
