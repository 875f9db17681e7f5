#include "tests/unit/keys/reconcile_case.h"

#include <cstdio>
#include <cstdlib>

#include "gtest/gtest.h"
#include "server/keys/name_arena.h"

namespace keyload {

std::shared_ptr<const CheckpointIndex> MakeIndex(const std::vector<StoredKey>& keys,
                                                 std::vector<std::string> index_only, StoredAliases aliases) {
  CheckpointIndex::Content content;
  CheckpointHeaders::Content headers;
  content.resolved = "/models/case";
  content.shards.resize(2);
  content.shards[0].file = "a.safetensors";
  content.shards[1].file = "b.safetensors";
  NameArena arena(nullptr);
  for (const StoredKey& key : keys) {
    const uint64_t bytes = ComputeTensorSize(key.dtype, key.shape).bytes;
    headers.tensors.push_back({.name = *arena.Add(key.name),
                               .shape = key.shape,
                               .offset = 0,
                               .bytes = bytes,
                               .shard = key.shard,
                               .dtype = key.dtype});
  }
  if (!aliases.empty()) {
    headers.shards.push_back({.file = "a.safetensors",
                              .identity = {},
                              .names = std::make_shared<const std::string>(),
                              .aliases = std::make_shared<const StoredAliases>(std::move(aliases))});
  }
  headers.index_only_keys = std::move(index_only);
  headers.name_blocks = arena.Release();
  content.headers = std::make_shared<const CheckpointHeaders>(std::move(headers));
  return std::make_shared<const CheckpointIndex>(std::move(content));
}

TensorSpec Parameter(std::string name, Shape shape, DType dtype) {
  return {.name = std::move(name), .kind = TensorKind::kParameter, .dtype = dtype, .shape = std::move(shape)};
}

TensorSpec NonPersistent(std::string name) {
  return {.name = std::move(name), .kind = TensorKind::kNonPersistentBuffer, .dtype = DType::kI64, .shape = {2}};
}

std::vector<TensorSpec> Parameters(const std::vector<std::string>& names) {
  std::vector<TensorSpec> tensors;
  for (const std::string& name : names) tensors.push_back(Parameter(name));
  return tensors;
}

absl::StatusOr<std::shared_ptr<const KeyReport>> ReconcileCase::Run() const {
  ReconcileInput input;
  input.index = MakeIndex(stored, index_only, aliases);
  if (has_manifest) {
    Manifest validated = manifest;
    EXPECT_TRUE(ValidateManifest(validated).ok());
    input.manifest = std::make_shared<const Manifest>(std::move(validated));
  }
  input.rules = rules;
  absl::StatusOr<KeySelection> compiled = KeySelection::Compile(selection);
  if (!compiled.ok()) return compiled.status();
  input.selection = &*compiled;
  input.widened = widened.get();
  input.context = context;
  return Reconcile(input);
}

std::shared_ptr<const KeyReport> ReconcileCase::Report() const {
  auto report = Run();
  if (!report.ok()) {
    std::fprintf(stderr, "reconcile: %s\n", report.status().ToString().c_str());
    std::abort();
  }
  return *std::move(report);
}

std::vector<std::string> NamesIn(const KeyReport& report, KeyState state) {
  std::vector<std::string> names;
  for (const ModelKey& key : report.keys) {
    if (key.state == state) names.emplace_back(key.name);
  }
  return names;
}

std::vector<std::string> Names(const KeyReport& report) {
  std::vector<std::string> names;
  for (const ModelKey& key : report.keys) names.emplace_back(key.name);
  return names;
}

std::vector<std::string> Unexpected(const KeyReport& report) {
  std::vector<std::string> names;
  for (const UnexpectedKey& key : report.unexpected) {
    if (!key.ignored) names.emplace_back(key.name);
  }
  return names;
}

std::vector<std::string> UnexpectedIgnored(const KeyReport& report) {
  std::vector<std::string> names;
  for (const UnexpectedKey& key : report.unexpected) {
    if (key.ignored) names.emplace_back(key.name);
  }
  return names;
}

const ModelKey& KeyNamed(const KeyReport& report, std::string_view name) {
  for (const ModelKey& key : report.keys) {
    if (key.name == name) return key;
  }
  std::fprintf(stderr, "no key %s\n", std::string(name).c_str());
  std::abort();
}

std::string StoredFor(const KeyReport& report, std::string_view name) {
  const int64_t stored = KeyNamed(report, name).stored;
  return stored < 0 ? "" : std::string(report.index->tensors()[stored].name);
}

}  // namespace keyload
