#include <dlfcn.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"
#include "server/tensor/torch_plugin.h"

namespace keyload {
namespace {

// Empty when it is in neither place.
std::string FindPlugin() {
  std::error_code error;
  const std::filesystem::path executable = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return "";
  const std::filesystem::path folder = executable.parent_path();
  for (const std::filesystem::path& candidate :
       {folder / kTorchPluginFile, folder.parent_path() / "lib" / kTorchPluginFile}) {
    if (::access(candidate.c_str(), R_OK) == 0) return candidate.string();
  }
  return "";
}

absl::StatusOr<TorchConvertFunction> Open() {
  const std::string path = FindPlugin();
  if (path.empty()) {
    return MakeError(Reason::kDtypeNotSupported,
                     absl::StrCat(kTorchPluginFile, " is neither beside the executable nor in ../lib"));
  }
  // RTLD_LOCAL: nothing else in the process may resolve a symbol against LibTorch.
  void* const plugin = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* const symbol = plugin == nullptr ? nullptr : ::dlsym(plugin, kTorchConvertSymbol);
  if (symbol == nullptr) {
    const char* const reason = ::dlerror();
    return MakeError(Reason::kDtypeNotSupported,
                     absl::StrCat(path, ": ", reason == nullptr ? "no reason given" : reason), {{"file", path}});
  }
  return reinterpret_cast<TorchConvertFunction>(symbol);
}

}  // namespace

bool TorchPluginExists() { return !FindPlugin().empty(); }

absl::StatusOr<TorchConvertFunction> LoadTorchPlugin() {
  static const auto* const opened = new absl::StatusOr<TorchConvertFunction>(Open());
  return *opened;
}

}  // namespace keyload
