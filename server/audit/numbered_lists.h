#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/checkpoint/checkpoint_headers.h"

namespace keyload {

// The rules below look at names of a usual length only, so that what a name costs is bounded.
inline constexpr size_t kMaxAuditedNameBytes = 512;
inline constexpr size_t kMaxAuditedComponents = 24;
bool IsAuditable(std::string_view name);

// What model code numbers: "model.layers" with its members 0 to 31, "model.layers.3.mlp.experts" with its experts. Each
// member has what stands behind its number, "self_attn.q_proj.weight", which is what makes members comparable. Borrows
// the tensors and their names. Immutable.
class NumberedLists {
 public:
  // One key below one member; a key counts in up to four lists, as experts are members of members.
  struct Entry {
    uint32_t list = 0;
    uint32_t number = 0;
    uint32_t rest = 0;    // equal for equal text behind the number
    uint32_t tensor = 0;  // position in the tensors
  };
  struct Member {
    uint32_t number = 0;
    std::span<const Entry> entries;  // by rest
  };
  struct List {
    std::string_view name;        // "model.layers"; empty: the numbers come first
    std::vector<Member> members;  // by number, at least one
    bool composed = false;        // most members have modules below them, and not just tensors
  };

  // Heap that the rules take for these tensors, about.
  static uint64_t MemoryBytes(std::span<const StoredTensor> tensors);
  // The context's errors.
  static absl::StatusOr<NumberedLists> Collect(std::span<const StoredTensor> tensors, const RequestContext& context);

  // The members of the lists one after the other: a list at a time, as all of them would take memory again.
  size_t size() const { return first_entry_.size() - 1; }
  List At(size_t list) const;
  std::string_view Rest(uint32_t rest) const { return rests_[rest]; }
  std::span<const StoredTensor> tensors() const { return tensors_; }

 private:
  std::span<const StoredTensor> tensors_;
  std::vector<Entry> entries_;       // by list, number and rest
  std::vector<size_t> first_entry_;  // per list, and the end
  std::vector<std::string_view> names_;
  std::vector<std::string_view> rests_;
};

// "model.layers" and 5: "model.layers.5".
std::string MemberName(std::string_view list, uint32_t number);

}  // namespace keyload
