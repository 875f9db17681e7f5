#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "server/keys/reconcile.h"

namespace keyload {

struct CasePart {
  CasePart(std::string name) : stored(std::move(name)) {}  // NOLINT: a name alone is the whole stored tensor
  CasePart(const char* name) : stored(name) {}             // NOLINT
  CasePart(std::string name, uint64_t at, uint64_t length) : stored(std::move(name)), offset(at), bytes(length) {}

  std::string stored;
  uint64_t offset = 0;
  uint64_t bytes = UINT64_MAX;  // all
};
struct CaseMade {
  std::string name;
  std::vector<CasePart> parts;
};

// Adds keys that are made of stored tensors to `report`, which has the checkpoint's own keys; what they are made of is
// no key any more. Sizes are in elements of rank 1.
inline void AddMadeKeys(const std::vector<CaseMade>& made_keys, KeyReport& report) {
  for (const CaseMade& made_key : made_keys) {
    MadeTensor made;
    for (const CasePart& part : made_key.parts) {
      const int64_t stored = report.index->Find(part.stored);
      const StoredTensor& tensor = report.index->tensors()[stored];
      made.dtype = tensor.dtype;
      made.parts.push_back({.stored = static_cast<uint32_t>(stored),
                            .offset = part.offset,
                            .bytes = std::min(part.bytes, tensor.bytes - part.offset)});
      made.bytes += made.parts.back().bytes;
      std::erase_if(report.keys, [&](const ModelKey& key) { return key.stored == stored && key.made < 0; });
    }
    made.shape = {made.bytes * 8 / DTypeBits(made.dtype)};
    report.name_blocks.push_back(std::make_shared<std::string>(made_key.name));
    report.keys.push_back({.name = *report.name_blocks.back(),
                           .shape = made.shape,
                           .bytes = made.bytes,
                           .stored = made.parts.front().stored,
                           .made = static_cast<int64_t>(report.made.size()),
                           .dtype = made.dtype});
    report.made.push_back(std::move(made));
  }
}

}  // namespace keyload
