#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/audit/numbered_lists.h"

namespace keyload {

// The keys of a checkpoint, by hand.
class KeySet {
 public:
  KeySet& Add(std::string name, Shape shape = {4, 4}) {
    names_->push_back(std::move(name));
    tensors_.push_back({.name = names_->back(), .shape = std::move(shape)});
    return *this;
  }
  // Layers as most models have them, without what `lacks` says is not there.
  KeySet& AddLayers(
      const std::string& list, int count,
      const std::function<bool(const std::string&)>& lacks = [](const std::string&) { return false; }) {
    for (int layer = 0; layer < count; ++layer) {
      for (const char* rest : {"attn.q.weight", "attn.k.weight", "attn.v.weight", "mlp.up.weight", "mlp.up.bias",
                               "mlp.down.weight", "mlp.down.bias", "norm.weight"}) {
        const std::string name = absl::StrCat(list, ".", layer, ".", rest);
        if (!lacks(name)) Add(name);
      }
    }
    return *this;
  }
  NumberedLists Lists() const {
    absl::StatusOr<NumberedLists> lists = NumberedLists::Collect(tensors_, RequestContext());
    EXPECT_TRUE(lists.ok()) << lists.status();
    return *std::move(lists);
  }

 private:
  // Which stay where they are, also for copies.
  std::shared_ptr<std::deque<std::string>> names_ = std::make_shared<std::deque<std::string>>();
  std::vector<StoredTensor> tensors_;
};

}  // namespace keyload
