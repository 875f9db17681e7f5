#include "server/keys/manifest.h"

#include <limits>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/checkpoint/json_checks.h"

namespace keyload {
namespace {

using TensorsByName = absl::flat_hash_map<std::string_view, const TensorSpec*>;

absl::Status InvalidManifest(std::string_view message, std::string_view key) {
  return MakeError(Reason::kManifestInvalid, absl::StrFormat("manifest: %s", message), {{"key", std::string(key)}});
}

absl::Status FillSizes(Manifest& manifest) {
  uint64_t total = 0;
  for (TensorSpec& tensor : manifest.tensors) {
    const TensorSize size = ComputeTensorSize(tensor.dtype, tensor.shape);
    if (size.error == TensorSizeError::kMisaligned) {
      return InvalidManifest(
          absl::StrFormat("tensor %s: elements of %s do not fill whole bytes", tensor.name, DTypeName(tensor.dtype)),
          tensor.name);
    }
    if (size.error.has_value() || size.bytes > std::numeric_limits<uint64_t>::max() - total) {
      return InvalidManifest(
          absl::StrFormat("tensor %s: its size exceeds 64 bits, alone or with those before it", tensor.name),
          tensor.name);
    }
    tensor.bytes = size.bytes;
    total += size.bytes;
  }
  return absl::OkStatus();
}

absl::Status CheckTiedMember(const TensorsByName& tensors, std::string_view name, const TensorSpec*& source) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) return InvalidManifest(absl::StrFormat("tied name %s is not a tensor", name), name);
  if (source == nullptr) {
    source = found->second;
  } else if (found->second->shape != source->shape || found->second->dtype != source->dtype) {
    return InvalidManifest(absl::StrFormat("tied tensors %s and %s differ in shape or dtype", source->name, name),
                           name);
  }
  return absl::OkStatus();
}

absl::Status CheckTiedGroups(const Manifest& manifest, const TensorsByName& tensors) {
  absl::flat_hash_map<std::string_view, std::string_view> group_of;
  auto claim = [&](std::string_view name, const TiedGroup& group) {
    const auto [entry, inserted] = group_of.emplace(name, group.source);
    if (inserted) return absl::OkStatus();
    return InvalidManifest(
        absl::StrFormat("tensor %s is tied twice, to %s and to %s", name, entry->second, group.source), name);
  };
  for (const TiedGroup& group : manifest.tied_groups) {
    const TensorSpec* source = nullptr;
    KEYLOAD_RETURN_IF_ERROR(CheckTiedMember(tensors, group.source, source));
    KEYLOAD_RETURN_IF_ERROR(claim(group.source, group));
    for (const std::string& target : group.targets) {
      KEYLOAD_RETURN_IF_ERROR(CheckTiedMember(tensors, target, source));
      KEYLOAD_RETURN_IF_ERROR(claim(target, group));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckModules(const Manifest& manifest) {
  absl::flat_hash_set<std::string_view> names;
  names.reserve(manifest.modules.size());
  for (const ModuleSpec& module : manifest.modules) {
    const char* problem = module.name.empty() ? "it has no name" : KeyProblem(module.name);
    if (problem != nullptr) {
      return InvalidManifest(absl::StrFormat("module %d, \"%s\": %s", names.size(), Shortened(module.name), problem),
                             module.name);
    }
    if (!names.insert(module.name).second) {
      return InvalidManifest(absl::StrFormat("module %s appears twice", module.name), module.name);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateManifest(Manifest& manifest, size_t max_tensors) {
  if (manifest.tensors.size() > max_tensors) {
    return MakeError(Reason::kManifestInvalid, absl::StrFormat("manifest: %d tensors, at most %d are taken",
                                                               manifest.tensors.size(), max_tensors));
  }
  TensorsByName tensors;
  tensors.reserve(manifest.tensors.size());
  for (const TensorSpec& tensor : manifest.tensors) {
    if (tensor.name.empty()) {
      return InvalidManifest(absl::StrFormat("tensor %d has no name", &tensor - manifest.tensors.data()), tensor.name);
    }
    if (const char* problem = KeyProblem(tensor.name)) {
      return InvalidManifest(
          absl::StrFormat("tensor %d, \"%s\": %s", &tensor - manifest.tensors.data(), Shortened(tensor.name), problem),
          Shortened(tensor.name));
    }
    if (!tensors.emplace(tensor.name, &tensor).second) {
      return InvalidManifest(absl::StrFormat("tensor %s appears twice", tensor.name), tensor.name);
    }
  }
  KEYLOAD_RETURN_IF_ERROR(CheckModules(manifest));
  KEYLOAD_RETURN_IF_ERROR(FillSizes(manifest));
  KEYLOAD_RETURN_IF_ERROR(CheckConversions(manifest.conversions));
  return CheckTiedGroups(manifest, tensors);
}

uint64_t MemoryBytes(const Manifest& manifest) {
  const auto of_text = [](const std::string& text) {
    constexpr size_t kInPlace = 15;  // bytes that libstdc++ keeps in the string itself
    return sizeof(std::string) + (text.capacity() > kInPlace ? text.capacity() + 1 : 0);
  };
  const auto of_texts = [&](const std::vector<std::string>& texts) {
    uint64_t bytes = 0;
    for (const std::string& text : texts) bytes += of_text(text);
    return bytes;
  };
  uint64_t bytes = sizeof(Manifest) + of_text(manifest.architecture) + of_text(manifest.base_model_prefix);
  for (const ModuleSpec& module : manifest.modules) bytes += of_text(module.name) + of_text(module.class_name);
  for (const TensorSpec& tensor : manifest.tensors) {
    bytes += sizeof(TensorSpec) - sizeof(std::string) + of_text(tensor.name);
    if (tensor.shape.capacity() > Shape().capacity()) bytes += tensor.shape.capacity() * sizeof(uint64_t);
  }
  for (const TiedGroup& group : manifest.tied_groups) {
    bytes += sizeof(TiedGroup) + of_text(group.source) + of_texts(group.targets);
  }
  for (const auto* texts :
       {&manifest.no_split_modules, &manifest.keep_in_fp32, &manifest.ignore_missing, &manifest.ignore_unexpected}) {
    bytes += of_texts(*texts);
  }
  for (const Rename& rename : manifest.renames) bytes += of_text(rename.pattern) + of_text(rename.replacement);
  for (const Conversion& conversion : manifest.conversions) {
    bytes += sizeof(Conversion) + of_texts(conversion.sources) + of_texts(conversion.targets);
    for (const ConversionOperation& operation : conversion.operations) {
      bytes += sizeof(operation) + operation.dims.capacity() * sizeof(int64_t);
    }
  }
  return bytes;
}

}  // namespace keyload
