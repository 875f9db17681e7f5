#include "server/expected/derive_manifest.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "server/base/error.h"
#include "server/base/fd.h"
#include "server/base/strings.h"
#include "server/base/whole_file.h"
#include "server/checkpoint/json_checks.h"
#include "server/expected/expand.h"
#include "server/expected/stored_layers.h"

namespace keyload {
namespace {

constexpr std::string_view kBaseHead = "base";

absl::Status NotSupported(std::string_view file, std::string_view problem, ErrorMetadata metadata = {}) {
  metadata["file"] = std::string(file);
  return MakeError(Reason::kConfigNotSupported, StrCat(file, ": ", problem), metadata);
}
absl::Status Invalid(std::string_view file, std::string_view problem) {
  return MakeError(Reason::kConfigInvalid, StrCat(file, ": ", problem), {{"file", std::string(file)}});
}

// The content of a template's file; nothing where it is absent.
absl::StatusOr<std::optional<std::string>> ReadTemplateFile(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd && (errno == ENOENT || errno == ENOTDIR)) return std::nullopt;
  if (!fd) return TemplateError(path, 1, std::strerror(errno));
  absl::StatusOr<std::string> text = ReadWholeFile(fd.get(), path, kMaxTemplateBytes);
  if (!text.ok()) return TemplateError(path, 1, ToStd(text.status().message()));
  return *std::move(text);
}

// Names become file names: nothing else is looked for.
bool IsTemplateName(std::string_view name) {
  return !name.empty() && name.size() <= 100 && name[0] != '.' && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '-' || c == '.';
  });
}

absl::StatusOr<std::optional<KeyTemplate>> FindTemplate(std::string_view name, TemplateKind kind,
                                                        const TemplateDirectories& directories) {
  if (!IsTemplateName(name)) return std::nullopt;
  const std::string_view folder = kind == TemplateKind::kQuantization ? "quantization/" : "";
  for (const std::string& directory : directories) {
    const std::string path = StrCat(directory, "/", folder, name, ".toml");
    KEYLOAD_ASSIGN_OR_RETURN(const std::optional<std::string> text, ReadTemplateFile(path));
    if (text) return ParseTemplate(*text, path, kind);
  }
  return std::nullopt;
}

// One config.json becomes one manifest.
class Deriver {
 public:
  Deriver(const ConfigValue& config, std::string_view file, const TemplateDirectories& directories,
          const RequestContext* context)
      : config_(config), file_(file), directories_(directories), context_(context) {}

  // Whether the configuration names a quantization, known or not.
  bool NamesQuantization() const { return QuantizationConfig() != nullptr; }

  enum class Layers { kPlain, kQuantised };
  absl::StatusOr<std::shared_ptr<const Manifest>> Run(Layers layers) {
    KEYLOAD_RETURN_IF_ERROR(FindFamily());
    KEYLOAD_ASSIGN_OR_RETURN(const std::string_view head, FindHead());
    if (layers == Layers::kQuantised) KEYLOAD_RETURN_IF_ERROR(FindQuantization());
    KEYLOAD_ASSIGN_OR_RETURN(const DType dtype, FindDType());
    KEYLOAD_ASSIGN_OR_RETURN(std::vector<Value> values, FindValues(*family_, config_, file_, head));
    auto manifest = std::make_shared<Manifest>();
    manifest->architecture = std::string(architecture_);
    manifest->base_model_prefix = family_->base_model_prefix;
    manifest->no_split_modules = family_->no_split_modules;
    manifest->renames = family_->renames;
    KEYLOAD_RETURN_IF_ERROR(ExpandNames(family_->ignore_missing, *family_, values, file_, manifest->ignore_missing));
    KEYLOAD_RETURN_IF_ERROR(
        ExpandNames(family_->ignore_unexpected, *family_, values, file_, manifest->ignore_unexpected));
    if (quantization_) {
      KEYLOAD_RETURN_IF_ERROR(ExpandNames(method_->ignore_unexpected, *method_, quantization_->values(), file_,
                                          manifest->ignore_unexpected));
    }
    KEYLOAD_RETURN_IF_ERROR(AddTies(values, *manifest));
    KEYLOAD_RETURN_IF_ERROR(ExpandTree({.family = *family_,
                                        .values = std::move(values),
                                        .quantization = quantization_ ? &*quantization_ : nullptr,
                                        .dtype = dtype,
                                        .base_only = head == kBaseHead,
                                        .config_file = file_,
                                        .context = context_},
                                       *manifest));
    // Sizes are checked: what is left is a contradiction of the template.
    if (const absl::Status status = ValidateManifest(*manifest); !status.ok())
      return TemplateError(family_->file, 1, ToStd(status.message()));
    return std::shared_ptr<const Manifest>(std::move(manifest));
  }

 private:
  std::string_view TextAt(const ConfigValue* value) const {
    return value != nullptr && value->text() != nullptr ? std::string_view(*value->text()) : std::string_view();
  }

  absl::Status FindFamily() {
    const std::string_view model_type = TextAt(config_.Find("model_type"));
    if (!model_type.empty()) {
      KEYLOAD_ASSIGN_OR_RETURN(family_, FindTemplate(model_type, TemplateKind::kFamily, directories_));
    }
    if (family_) return absl::OkStatus();
    const std::string problem = model_type.empty()
                                    ? "there is no model_type"
                                    : StrCat("no template for model_type \"", Shortened(model_type), "\"");
    return NotSupported(file_, problem, {{"model_type", Shortened(model_type)}});
  }

  absl::StatusOr<std::string_view> FindHead() {
    const ConfigValue* architectures = config_.Find("architectures");
    if (architectures != nullptr && !architectures->is_null()) {
      const ConfigValue::List* list = architectures->list();
      const bool names = list != nullptr && (list->empty() || !TextAt(&list->front()).empty());
      if (!names) return Invalid(file_, "architectures is not a list of names");
      if (!list->empty()) architecture_ = TextAt(&list->front());
    }
    if (architecture_.empty()) return std::string_view(family_->default_head);
    const auto known = family_->heads.find(architecture_);
    if (known != family_->heads.end()) return std::string_view(known->second);
    return NotSupported(file_,
                        StrCat(family_->file, " does not know the architecture \"", Shortened(architecture_), "\""));
  }

  // compressed-tensors had a name of its own for it, and so has MLX.
  const ConfigValue* QuantizationConfig() const {
    for (const std::string_view name : {"quantization_config", "compression_config", "quantization"}) {
      const ConfigValue* given = config_.Find(name);
      if (given != nullptr && !given->is_null() && (name == "quantization_config" || given->object() != nullptr))
        return given;
    }
    return nullptr;
  }

  absl::Status FindQuantization() {
    const ConfigValue* given = QuantizationConfig();
    if (given == nullptr) return absl::OkStatus();
    if (given->object() == nullptr) return Invalid(file_, "quantization_config is not an object");
    const std::string_view method = TextAt(given->Find("quant_method"));
    KEYLOAD_ASSIGN_OR_RETURN(method_, FindTemplate(method, TemplateKind::kQuantization, directories_));
    if (!method_) {
      const std::string problem =
          method.empty() ? "the quantization has no quant_method"
                         : StrCat("no template for quantization_config.quant_method \"", Shortened(method), "\"");
      return NotSupported(file_, problem);
    }
    KEYLOAD_ASSIGN_OR_RETURN(quantization_, Quantization::Create(*method_, *given, file_));
    return absl::OkStatus();
  }

  absl::StatusOr<DType> FindDType() const {
    static constexpr std::pair<std::string_view, DType> kNames[] = {
        {"float64", DType::kF64},   {"float32", DType::kF32},          {"float16", DType::kF16},
        {"bfloat16", DType::kBF16}, {"float8_e4m3fn", DType::kF8E4M3}, {"float8_e5m2", DType::kF8E5M2}};
    for (const std::string_view key : {"dtype", "torch_dtype"}) {
      const ConfigValue* value = config_.Find(key);
      if (value == nullptr || value->is_null()) continue;
      std::string_view name = TextAt(value);
      if (name == "auto") continue;
      if (name.starts_with("torch.")) name.remove_prefix(6);
      for (const auto& [known, dtype] : kNames) {
        if (name == known) return dtype;
      }
      return Invalid(file_, StrCat(key, " \"", Shortened(name), "\" is no floating dtype"));
    }
    return DType::kF32;
  }

  absl::Status AddTies(const std::vector<Value>& values, Manifest& manifest) const {
    for (const TemplateTie& tie : family_->ties) {
      if (tie.condition) {
        const absl::StatusOr<Value> holds = tie.condition->Evaluate(values);
        if (!holds.ok()) return ConfigError(file_, ToStd(holds.status().message()), family_->file, tie.line);
        if (!IsTrue(*holds)) continue;
      }
      manifest.tied_groups.push_back({.source = tie.source, .targets = tie.targets});
    }
    return absl::OkStatus();
  }

  const ConfigValue& config_;
  const std::string_view file_;
  const TemplateDirectories& directories_;
  const RequestContext* const context_;
  std::optional<KeyTemplate> family_, method_;
  std::optional<Quantization> quantization_;
  std::string_view architecture_;
};

absl::StatusOr<DerivedKeys> AsKeys(absl::StatusOr<std::shared_ptr<const Manifest>> manifest) {
  if (!manifest.ok()) return manifest.status();
  return DerivedKeys{.manifest = *std::move(manifest), .warning = ""};
}

}  // namespace

std::string BuiltInTemplateDirectory() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return (program.parent_path().parent_path() / "share/keyload/templates").string();
}

absl::StatusOr<std::shared_ptr<const Manifest>> DeriveManifest(const ConfigValue& config, std::string_view file,
                                                               const TemplateDirectories& directories,
                                                               const RequestContext* context) {
  return Deriver(config, file, directories, context).Run(Deriver::Layers::kQuantised);
}

absl::StatusOr<DerivedKeys> DeriveKeys(const ConfigValue& config, std::string_view file,
                                       const TemplateDirectories& directories, const CheckpointIndex& index,
                                       const RequestContext* context) {
  using Verdict = StoredLayers::Verdict;
  absl::StatusOr<std::shared_ptr<const Manifest>> derived = DeriveManifest(config, file, directories, context);
  const bool supported = derived.ok() || ErrorReason(derived.status()) == Reason::kConfigNotSupported;
  if (!supported || !StoresQuantisedTensors(index)) return AsKeys(std::move(derived));
  Deriver plain_deriver(config, file, directories, context);
  const absl::StatusOr<std::shared_ptr<const Manifest>> plain = plain_deriver.Run(Deriver::Layers::kPlain);
  if (!plain.ok()) return AsKeys(std::move(derived));  // the model itself is not known
  const bool named = plain_deriver.NamesQuantization();
  const Manifest* quantised = named && derived.ok() ? derived->get() : nullptr;
  KEYLOAD_ASSIGN_OR_RETURN(StoredLayers stored, FollowStoredLayers(**plain, quantised, named, index, context));
  if (stored.verdict == Verdict::kAsDerived) return AsKeys(std::move(derived));
  const std::string problem =
      !derived.ok() ? std::string(derived.status().message())
      : named       ? StrCat(file, ": the checkpoint's layers do not store what the template of its quantization says")
                    : StrCat(file, " does not say that weights are quantised");
  if (stored.verdict == Verdict::kNotUnderstood)
    return MakeError(Reason::kConfigNotSupported, StrCat(problem, "; ", stored.summary), {{"file", std::string(file)}});
  auto manifest = std::make_shared<Manifest>(std::move(stored.manifest));
  if (const absl::Status status = ValidateManifest(*manifest); !status.ok())
    return MakeError(Reason::kConfigNotSupported, StrCat(problem, "; ", ToStd(status.message())),
                     {{"file", std::string(file)}});
  return DerivedKeys{.manifest = std::move(manifest), .warning = StrCat(problem, "; ", stored.summary)};
}

}  // namespace keyload
