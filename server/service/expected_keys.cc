#include "server/service/expected_keys.h"

#include <algorithm>
#include <utility>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/base/whole_file.h"
#include "server/checkpoint/json_checks.h"
#include "server/expected/config_value.h"

namespace keyload {
namespace {

constexpr std::string_view kConfigFile = "config.json";

// Other sets of a directory (adapters, weights under the names of other programs) are not what config.json describes.
bool IsModelFile(std::string_view file) { return file.starts_with("model.") || file.starts_with("model-"); }

bool AreModelWeights(const CheckpointIndex& index) {
  if (!index.index_file().empty()) return IsModelFile(index.index_file());
  return std::all_of(index.shards().begin(), index.shards().end(),
                     [](const Shard& shard) { return IsModelFile(shard.file); });
}

// No keys but the checkpoint's own, and why.
ExpectedKeys OwnKeys(std::string_view why, std::string warning = "") {
  return {.manifest = nullptr,
          .from = ExpectedFrom::kCheckpoint,
          .warning = std::move(warning),
          .compared_with = StrCat("nothing: ", why)};
}

// Why there are no keys from config.json although a request leaves it open; empty: nothing to say.
std::string WarningFrom(const absl::Status& status) {
  if (ErrorDetails(status).contains("model_type")) return "";  // most model types have no template
  return StrCat("the expected keys are the checkpoint's own: ", ToStd(status.message()));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Manifest>> FindManifest(const ExpectedSpec& expected, const KeySources& sources,
                                                             const RequestContext& context) {
  DocumentStore& documents = sources.documents;
  if (expected.manifest != nullptr) return documents.Count(expected.manifest);
  if (!expected.manifest_digest.empty()) return documents.FindManifest(expected.manifest_digest);
  if (expected.manifest_path.empty()) return nullptr;
  const auto read = [roots = sources.roots, path = expected.manifest_path, context,
                     most = documents.options().max_document_bytes]() -> absl::StatusOr<std::string> {
    KEYLOAD_ASSIGN_OR_RETURN(const OpenedPath file, roots->Open(path));
    if (file.is_directory) return MakeError(Reason::kBadRequest, StrCat(path, " is a directory, not a manifest"));
    KEYLOAD_ASSIGN_OR_RETURN(const FileIdentity identity, IdentifyFile(file.fd.get(), path));
    KEYLOAD_RETURN_IF_ERROR(context.TakeHeap(std::min<uint64_t>(identity.size, most), path));
    return ReadWholeFile(file.fd.get(), file.resolved, most);
  };
  KEYLOAD_ASSIGN_OR_RETURN(const std::string bytes, sources.Touch(expected.manifest_path, context, read));
  KEYLOAD_ASSIGN_OR_RETURN(const DocumentStore::Stored stored, documents.AddManifest(bytes));
  return stored.manifest;
}

absl::StatusOr<ExpectedKeys> FindExpectedKeys(const LoadSpec& spec, const CheckpointIndex& index,
                                              const KeySources& sources, const RequestContext& context,
                                              PhaseClock& clock) {
  const bool demanded = spec.expected.from == ExpectedSpec::From::kConfig;
  if (spec.expected.from == ExpectedSpec::From::kCheckpoint) return OwnKeys("the checkpoint's own keys were asked for");
  if (!demanded && !AreModelWeights(index))
    return OwnKeys("config.json describes model.safetensors and its shards, and these weights have another name");
  const std::shared_ptr<const CheckpointDirectory> directory = index.source_directory();
  const std::string path =
      directory == nullptr ? StrCat(spec.source.path, "/", kConfigFile) : directory->PathOf(kConfigFile);
  struct ConfigFile {
    FileIdentity identity;
    absl::StatusOr<std::string> json;
  };
  const auto read = [roots = sources.roots, path, directory]() -> absl::StatusOr<ConfigFile> {
    KEYLOAD_ASSIGN_OR_RETURN(const OpenedPath file, directory == nullptr
                                                        ? roots->Open(path)
                                                        : directory->Open(*roots, std::string(kConfigFile)));
    KEYLOAD_ASSIGN_OR_RETURN(const FileIdentity identity, IdentifyFile(file.fd.get(), path));
    return ConfigFile{.identity = identity, .json = ReadWholeFile(file.fd.get(), path, kMaxConfigBytes)};
  };
  const absl::StatusOr<ConfigFile> file = sources.Touch(path, context, read);
  if (!file.ok()) {
    const bool absent = ErrorReason(file.status()) == Reason::kCheckpointNotFound;
    if (demanded) return absent ? Annotate(file.status(), "expected keys from config.json") : file.status();
    return absent ? OwnKeys("there is no config.json beside the weights")
                  : OwnKeys(ToStd(file.status().message()), WarningFrom(file.status()));
  }
  clock.Enter("expected");
  const absl::StatusOr<std::string>& json = file->json;
  if (json.ok()) KEYLOAD_RETURN_IF_ERROR(context.TakeHeap(ConfigParseBytes(*json), path));
  const absl::StatusOr<ConfigValue> config = json.ok() ? ParseConfigJson(*json, path) : json.status();
  absl::StatusOr<DerivedKeys> derived =
      config.ok() ? DeriveKeys(*config, path, sources.templates, index, &context) : config.status();
  if (directory != nullptr) {
    // The file is one more of the checkpoint: all of them must have been there at one time.
    KEYLOAD_RETURN_IF_ERROR(directory->CheckEntry(std::string(kConfigFile), file->identity));
    KEYLOAD_RETURN_IF_ERROR(index.CheckEntries());
  }
  if (derived.ok()) {
    KEYLOAD_ASSIGN_OR_RETURN(std::shared_ptr<const Manifest> manifest,
                             sources.documents.Count(std::move(derived->manifest)));
    const std::string compared_with = StrCat("config.json (", Shortened(manifest->architecture), ")");
    return ExpectedKeys{.manifest = std::move(manifest),
                        .from = ExpectedFrom::kConfig,
                        .warning = std::move(derived->warning),
                        .compared_with = compared_with};
  }
  // One that no template knows is for another program; one that is broken, or contradicts its template, is for nobody.
  if (demanded || ErrorReason(derived.status()) != Reason::kConfigNotSupported) return derived.status();
  return OwnKeys(ToStd(derived.status().message()), WarningFrom(derived.status()));
}

}  // namespace keyload
