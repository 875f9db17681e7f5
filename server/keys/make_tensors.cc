#include "server/keys/make_tensors.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_join.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

struct Value {
  Shape shape;
  uint64_t bytes = 0;
  std::vector<KeyPart> parts;
};

std::string Describe(const Shape& shape) { return StrCat("[", absl::StrJoin(shape, ", "), "]"); }

class Maker {
 public:
  Maker(const CheckpointIndex& index, std::span<const Conversion> conversions, size_t number)
      : index_(index), conversions_(conversions), number_(number), targets_(conversions[number].targets.size()) {}

  absl::StatusOr<MadeTensors> Make(std::span<const std::vector<uint32_t>> inputs) {
    const StoredTensor& first = index_.tensors()[inputs.front().front()];
    made_.tensors.resize(targets_, {.shape = first.shape, .dtype = first.dtype});
    const std::vector<ConversionOperation>& operations = conversions_[number_].operations;
    Take(inputs);
    for (size_t i = 0; i < operations.size() && made_.misfit.empty(); ++i) {
      KEYLOAD_RETURN_IF_ERROR(Run(operations[i], i));
    }
    if (!made_.misfit.empty()) return std::move(made_);
    for (size_t i = 0; i < values_.size(); ++i) {
      if (values_[i].size() > 1) {
        Misfit(StrCat(values_[i].size(), " stored tensors become one"), values_[i][1]);
        return std::move(made_);
      }
    }
    for (size_t i = 0; i < targets_; ++i) {
      Value& value = values_[i].front();
      made_.tensors[i].shape = std::move(value.shape);
      made_.tensors[i].bytes = value.bytes;
      made_.tensors[i].parts = std::move(value.parts);
    }
    return std::move(made_);
  }

 private:
  void Take(std::span<const std::vector<uint32_t>> inputs) {
    for (const std::vector<uint32_t>& input : inputs) {
      values_.emplace_back();
      for (const uint32_t stored : input) {
        const StoredTensor& tensor = index_.tensors()[stored];
        values_.back().push_back({.shape = tensor.shape, .bytes = tensor.bytes, .parts = {{stored, 0, tensor.bytes}}});
        if (tensor.dtype != made_.tensors.front().dtype && made_.misfit.empty()) {
          Misfit(StrCat("it is ", DTypeName(tensor.dtype), ", others are ", DTypeName(made_.tensors.front().dtype)),
                 values_.back().back());
        }
      }
    }
  }

  // `value` is why nothing can be made.
  void Misfit(std::string_view why, const Value& value) {
    const StoredTensor& stored = index_.tensors()[value.parts.front().stored];
    made_.misfit = StrCat(stored.name, ": ", why);
    for (MadeTensor& tensor : made_.tensors) {
      tensor.shape = stored.shape;
      tensor.dtype = stored.dtype;
      tensor.parts.clear();
    }
  }

  absl::Status NotSupported(size_t operation, std::string_view why) const {
    const ConversionOperation& op = conversions_[number_].operations[operation];
    const std::string field = StrCat("manifest.conversions[", number_, "].operations[", operation, "]");
    return MakeError(Reason::kFieldNotSupported,
                     StrCat("manifest: ", ConversionLabel(conversions_[number_], number_), ": ", OperationName(op.kind),
                            "(", absl::StrJoin(op.dims, ", "), ") ", why),
                     {{"field", field}});
  }

  absl::Status Run(const ConversionOperation& operation, size_t number) {
    switch (operation.kind) {
      case OperationKind::kStack:
        for (std::vector<Value>& values : values_) KEYLOAD_RETURN_IF_ERROR(Join(values, operation, number));
        return absl::OkStatus();
      case OperationKind::kConcatenate:
        for (size_t i = 1; i < values_.size(); ++i) {
          std::move(values_[i].begin(), values_[i].end(), std::back_inserter(values_.front()));
        }
        values_.resize(1);
        return Join(values_.front(), operation, number);
      case OperationKind::kChunk:
        return Chunk(operation, number);
      default:
        return NotSupported(number, "reorders the bytes inside stored tensors, and only whole ranges are placed");
    }
  }

  // The dimension that dims[0] names among `rank`; nothing where there is none.
  std::optional<size_t> Dimension(const ConversionOperation& operation, size_t rank) const {
    const int64_t dim = operation.dims.front();
    const auto ranks = static_cast<int64_t>(rank);
    if (dim < -ranks || dim >= ranks) return std::nullopt;
    return static_cast<size_t>(dim < 0 ? dim + ranks : dim);
  }

  // How often the bytes of one step of dimension `dim` are met: 1 when the dimension is the outermost with a size.
  // Saturates.
  static uint64_t Outer(const Shape& shape, size_t dim) {
    uint64_t outer = 1;
    for (size_t i = 0; i < dim; ++i) {
      if (shape[i] != 0 && outer > std::numeric_limits<uint64_t>::max() / shape[i]) {
        return std::numeric_limits<uint64_t>::max();
      }
      outer *= shape[i];
    }
    return outer;
  }

  // STACK or CONCATENATE of `values` into the first.
  absl::Status Join(std::vector<Value>& values, const ConversionOperation& operation, size_t number) {
    const bool stacks = operation.kind == OperationKind::kStack;
    Shape shape = values.front().shape;
    const std::optional<size_t> dim = Dimension(operation, shape.size() + (stacks ? 1 : 0));
    if (!dim) {
      Misfit(StrCat(OperationName(operation.kind), " needs a dimension ", operation.dims.front(), ", but it has shape ",
                    Describe(shape)),
             values.front());
      return absl::OkStatus();
    }
    uint64_t length = 0;
    for (const Value& value : values) {
      Shape same = value.shape;
      if (!stacks && same.size() == shape.size()) same[*dim] = shape[*dim];
      const uint64_t added = stacks ? 1 : same.size() == shape.size() ? value.shape[*dim] : 0;
      if (same != shape || added > std::numeric_limits<uint64_t>::max() - length) {
        Misfit(StrCat("it has shape ", Describe(value.shape), ", others have ", Describe(shape)), value);
        return absl::OkStatus();
      }
      length += added;
    }
    const uint64_t outer = Outer(shape, *dim);
    if (stacks) shape.insert(shape.begin() + static_cast<ptrdiff_t>(*dim), length);
    shape[*dim] = length;
    std::optional<Value> joined = outer <= 1 ? Append(values) : Interleave(values, outer);
    if (!joined) {
      return NotSupported(number, StrCat("would cut ", index_.tensors()[values.front().parts.front().stored].name,
                                         " into ranges that are apart: only whole stored tensors are put together"));
    }
    joined->shape = std::move(shape);
    values.clear();
    values.push_back(*std::move(joined));
    return absl::OkStatus();
  }

  static Value Append(std::vector<Value>& values) {
    Value joined = std::move(values.front());
    for (size_t i = 1; i < values.size(); ++i) {
      joined.bytes += values[i].bytes;
      joined.parts.insert(joined.parts.end(), values[i].parts.begin(), values[i].parts.end());
    }
    return joined;
  }

  // `outer` times the next of as many equal pieces of each value; nothing where a piece does not end with a part.
  static std::optional<Value> Interleave(std::vector<Value>& values, uint64_t outer) {
    Value joined;
    for (const Value& value : values) {
      joined.bytes += value.bytes;
      if (value.bytes > 0 && (value.parts.size() < outer || value.bytes % outer != 0)) return std::nullopt;
    }
    if (joined.bytes == 0) return Append(values);
    std::vector<size_t> next(values.size());
    for (uint64_t round = 0; round < outer; ++round) {
      for (size_t i = 0; i < values.size(); ++i) {
        const uint64_t piece = values[i].bytes / outer;
        for (uint64_t taken = 0; taken < piece;) {
          const KeyPart& part = values[i].parts[next[i]++];
          if (part.bytes > piece - taken) return std::nullopt;
          taken += part.bytes;
          joined.parts.push_back(part);
        }
      }
    }
    return joined;
  }

  absl::Status Chunk(const ConversionOperation& operation, size_t number) {
    std::vector<Value>& values = values_.front();
    if (values.size() > 1) {
      Misfit(StrCat(values.size(), " stored tensors become one"), values[1]);
      return absl::OkStatus();
    }
    const Value whole = std::move(values.front());
    const std::optional<size_t> dim = Dimension(operation, whole.shape.size());
    if (!dim || whole.shape[*dim] % targets_ != 0 || whole.bytes % targets_ != 0) {
      Misfit(StrCat("shape ", Describe(whole.shape), " cannot be cut into ", targets_, " equal parts along dimension ",
                    operation.dims.front()),
             whole);
      return absl::OkStatus();
    }
    if (whole.bytes > 0 && Outer(whole.shape, *dim) > 1) {
      return NotSupported(number, StrCat("would cut ", index_.tensors()[whole.parts.front().stored].name,
                                         " into ranges that are apart: only the outermost dimension is cut"));
    }
    values_.assign(targets_, {});
    Value piece = {.shape = whole.shape, .bytes = whole.bytes / targets_, .parts = {}};
    piece.shape[*dim] /= targets_;
    size_t next = 0;
    uint64_t used = 0;  // of the next part
    for (std::vector<Value>& target : values_) {
      target.push_back(piece);
      uint64_t lacking = piece.bytes;
      do {
        const KeyPart& part = whole.parts[next];
        const uint64_t taken = std::min(lacking, part.bytes - used);
        target.front().parts.push_back({.stored = part.stored, .offset = part.offset + used, .bytes = taken});
        lacking -= taken;
        used += taken;
        if (used == part.bytes && next + 1 < whole.parts.size()) {
          ++next;
          used = 0;
        }
      } while (lacking > 0);
    }
    return absl::OkStatus();
  }

  const CheckpointIndex& index_;
  const std::span<const Conversion> conversions_;
  const size_t number_;
  const size_t targets_;
  std::vector<std::vector<Value>> values_;  // per source, later per target
  MadeTensors made_;
};

}  // namespace

absl::StatusOr<MadeTensors> MakeTensors(const CheckpointIndex& index, std::span<const Conversion> conversions,
                                        size_t number, std::span<const std::vector<uint32_t>> inputs) {
  return Maker(index, conversions, number).Make(inputs);
}

}  // namespace keyload
