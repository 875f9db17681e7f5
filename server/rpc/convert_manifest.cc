#include "server/rpc/convert_manifest.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "server/base/error.h"
#include "server/base/file_kind.h"
#include "server/base/json_marks.h"
#include "server/base/strings.h"
#include "server/rpc/parsed_bytes.h"
#include "server/rpc/strict_request.h"

namespace keyload {
namespace {

absl::StatusOr<TensorSpec> TensorFrom(const v1::TensorSpec& message) {
  TensorSpec tensor;
  tensor.name = message.name();
  switch (message.kind()) {
    case v1::TensorSpec::KIND_UNSPECIFIED:
    case v1::TensorSpec::KIND_PARAMETER:
      tensor.kind = TensorKind::kParameter;
      break;
    case v1::TensorSpec::KIND_BUFFER:
      tensor.kind = TensorKind::kBuffer;
      break;
    case v1::TensorSpec::KIND_NON_PERSISTENT_BUFFER:
      tensor.kind = TensorKind::kNonPersistentBuffer;
      break;
    default:
      return MakeError(Reason::kManifestInvalid, StrCat("manifest: tensor ", message.name(), " has an unknown kind"),
                       {{"key", message.name()}});
  }
  const std::optional<DType> dtype = ParseDType(message.dtype());
  if (!dtype) {
    return MakeError(
        Reason::kManifestInvalid,
        StrCat("manifest: tensor ", message.name(), " has no safetensors dtype: \"", message.dtype(), "\""),
        {{"key", message.name()}, {"dtype", message.dtype()}});
  }
  tensor.dtype = *dtype;
  tensor.shape.assign(message.shape().begin(), message.shape().end());
  return tensor;
}

v1::TensorSpec::Kind KindOf(TensorKind kind) {
  switch (kind) {
    case TensorKind::kParameter:
      return v1::TensorSpec::KIND_PARAMETER;
    case TensorKind::kBuffer:
      return v1::TensorSpec::KIND_BUFFER;
    case TensorKind::kNonPersistentBuffer:
      return v1::TensorSpec::KIND_NON_PERSISTENT_BUFFER;
  }
  return v1::TensorSpec::KIND_UNSPECIFIED;
}

template <typename Field>
std::vector<std::string> Strings(const Field& field) {
  return {field.begin(), field.end()};
}

constexpr std::pair<v1::Conversion::Operation::Kind, OperationKind> kOperations[] = {
    {v1::Conversion::Operation::KIND_STACK, OperationKind::kStack},
    {v1::Conversion::Operation::KIND_CONCATENATE, OperationKind::kConcatenate},
    {v1::Conversion::Operation::KIND_CHUNK, OperationKind::kChunk},
    {v1::Conversion::Operation::KIND_TRANSPOSE, OperationKind::kTranspose},
    {v1::Conversion::Operation::KIND_PERMUTE, OperationKind::kPermute}};

v1::Conversion::Operation::Kind KindOf(OperationKind kind) {
  for (const auto& [message, own] : kOperations) {
    if (own == kind) return message;
  }
  return v1::Conversion::Operation::KIND_UNSPECIFIED;
}

// `number` is its place in the manifest.
absl::StatusOr<Conversion> ConversionFrom(const v1::Conversion& message, size_t number) {
  Conversion conversion = {
      .sources = Strings(message.sources()), .targets = Strings(message.targets()), .operations = {}};
  for (const v1::Conversion::Operation& operation : message.operations()) {
    const auto known = std::find_if(std::begin(kOperations), std::end(kOperations),
                                    [&](const auto& entry) { return entry.first == operation.kind(); });
    if (known == std::end(kOperations)) {
      return MakeError(Reason::kManifestInvalid,
                       StrCat("manifest: ", ConversionLabel(conversion, number), ": its operation ",
                              static_cast<int>(operation.kind()), " is not known to this server"),
                       {{"field", StrCat("manifest.conversions[", number, "]")}});
    }
    conversion.operations.push_back({known->second, {operation.dims().begin(), operation.dims().end()}});
  }
  return conversion;
}

constexpr size_t kMostJsonLevels = 32;  // a manifest has five; protobuf's parser takes memory for each level

bool IsJson(std::string_view bytes) {
  return absl::StartsWith(absl::StripLeadingAsciiWhitespace(ToAbsl(WithoutByteOrderMark(bytes))), "{");
}

template <typename Field>
void FillStrings(const std::vector<std::string>& values, Field* field) {
  field->Add(values.begin(), values.end());
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Manifest>> FromProto(const v1::ModelManifest& message) {
  if (message.tensors_size() == 0) {
    return MakeError(Reason::kManifestInvalid, "manifest: it names no tensor: nothing could be missing");
  }
  auto manifest = std::make_shared<Manifest>();
  manifest->architecture = message.architecture();
  manifest->base_model_prefix = message.base_model_prefix();
  for (const v1::Module& module : message.modules()) manifest->modules.push_back({module.name(), module.class_name()});
  manifest->tensors.reserve(message.tensors_size());
  for (const v1::TensorSpec& tensor : message.tensors()) {
    KEYLOAD_ASSIGN_OR_RETURN(TensorSpec converted, TensorFrom(tensor));
    manifest->tensors.push_back(std::move(converted));
  }
  for (const v1::TiedGroup& group : message.tied_groups()) {
    manifest->tied_groups.push_back({group.source(), Strings(group.targets())});
  }
  manifest->no_split_modules = Strings(message.no_split_modules());
  manifest->keep_in_fp32 = Strings(message.keep_in_fp32());
  manifest->ignore_missing = Strings(message.ignore_missing());
  manifest->ignore_unexpected = Strings(message.ignore_unexpected());
  for (const v1::Rename& rename : message.renames())
    manifest->renames.push_back({rename.pattern(), rename.replacement()});
  for (const v1::Conversion& conversion : message.conversions()) {
    KEYLOAD_ASSIGN_OR_RETURN(Conversion converted, ConversionFrom(conversion, manifest->conversions.size()));
    manifest->conversions.push_back(std::move(converted));
  }
  KEYLOAD_RETURN_IF_ERROR(ValidateManifest(*manifest));
  return manifest;
}

v1::ModelManifest ToProto(const Manifest& manifest) {
  v1::ModelManifest message;
  message.set_architecture(manifest.architecture);
  message.set_base_model_prefix(manifest.base_model_prefix);
  for (const ModuleSpec& module : manifest.modules) {
    v1::Module& added = *message.add_modules();
    added.set_name(module.name);
    added.set_class_name(module.class_name);
  }
  for (const TensorSpec& tensor : manifest.tensors) {
    v1::TensorSpec& added = *message.add_tensors();
    added.set_name(tensor.name);
    added.set_kind(KindOf(tensor.kind));
    added.set_dtype(std::string(DTypeName(tensor.dtype)));
    added.mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
  }
  for (const TiedGroup& group : manifest.tied_groups) {
    v1::TiedGroup& added = *message.add_tied_groups();
    added.set_source(group.source);
    FillStrings(group.targets, added.mutable_targets());
  }
  FillStrings(manifest.no_split_modules, message.mutable_no_split_modules());
  FillStrings(manifest.keep_in_fp32, message.mutable_keep_in_fp32());
  FillStrings(manifest.ignore_missing, message.mutable_ignore_missing());
  FillStrings(manifest.ignore_unexpected, message.mutable_ignore_unexpected());
  for (const Rename& rename : manifest.renames) {
    v1::Rename& added = *message.add_renames();
    added.set_pattern(rename.pattern);
    added.set_replacement(rename.replacement);
  }
  for (const Conversion& conversion : manifest.conversions) {
    v1::Conversion& added = *message.add_conversions();
    FillStrings(conversion.sources, added.mutable_sources());
    FillStrings(conversion.targets, added.mutable_targets());
    for (const ConversionOperation& operation : conversion.operations) {
      v1::Conversion::Operation& converted = *added.add_operations();
      converted.set_kind(KindOf(operation.kind));
      converted.mutable_dims()->Add(operation.dims.begin(), operation.dims.end());
    }
  }
  return message;
}

namespace {

// What `bytes` are instead of a manifest, or else why they are none.
absl::Status NoManifest(std::string_view bytes, std::string_view problem) {
  if (const auto kind = RecognizeInsteadOfJson(bytes, bytes.size()))
    return WrongKind(Reason::kManifestInvalid, "the manifest", *kind);
  return MakeError(Reason::kManifestInvalid, StrCat("manifest: ", problem));
}

}  // namespace

uint64_t ManifestParseBytes(std::string_view bytes) {
  // The message, and the manifest that is made of it while the message is there: no larger than that.
  if (!IsJson(bytes)) return 2 * ParsedBytes(bytes, *v1::ModelManifest::descriptor());
  // The text, and what protobuf makes of it before it makes messages.
  constexpr uint64_t kTexts = 3;
  constexpr uint64_t kPerObject = sizeof(v1::TensorSpec) + 2 * sizeof(void*);
  constexpr uint64_t kPerValue = sizeof(std::string) + 2 * sizeof(void*);
  const JsonMarks marks = CountJsonMarks(bytes);
  return kTexts * bytes.size() + 2 * (bytes.size() + marks.objects * kPerObject + marks.values * kPerValue);
}

absl::StatusOr<std::shared_ptr<const Manifest>> ParseManifest(std::string_view bytes) {
  v1::ModelManifest message;
  bytes = WithoutByteOrderMark(bytes);
  if (IsJson(bytes)) {
    if (CountJsonMarks(bytes).depth > kMostJsonLevels) {
      return MakeError(Reason::kManifestInvalid, StrCat("manifest: its JSON has over ", kMostJsonLevels, " levels"));
    }
    const auto parsed = google::protobuf::util::JsonStringToMessage(std::string(bytes), &message);
    if (!parsed.ok()) return NoManifest(bytes, std::string(parsed.message()));
  } else if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return NoManifest(bytes, "neither JSON nor a binary ModelManifest");
  }
  KEYLOAD_RETURN_IF_ERROR(Annotate(CheckKnownFields(message), "manifest"));
  return FromProto(message);
}

}  // namespace keyload
