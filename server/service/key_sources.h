#pragma once

#include <memory>
#include <string>
#include <utility>

#include "server/checkpoint/checkpoint_index.h"
#include "server/expected/derive_manifest.h"
#include "server/io/storage_threads.h"
#include "server/service/document_store.h"

namespace keyload {

// What keys are prepared from.
struct KeySources {
  std::shared_ptr<const ModelRoots> roots;
  DocumentStore& documents;
  HeaderReading headers;
  const TemplateDirectories& templates;
  StorageThreads* storage = nullptr;  // where files are opened; null: on the calling thread

  // What `step` returns, which touches `path`; see StorageThreads::Run.
  template <typename Step>
  auto Touch(const std::string& path, const RequestContext& context, Step step) const -> decltype(step()) {
    return storage == nullptr ? step() : storage->Run(path, context, std::move(step));
  }
};

}  // namespace keyload
