#include "tests/unit/placement/model_builder.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr uint64_t kTebibyte = 1ull << 40;

std::string Joined(std::string_view module, std::string_view name) {
  return module.empty() ? std::string(name) : StrCat(module, ".", name);
}

std::string ShortDevice(const std::string& device) { return device.starts_with("cuda:") ? device.substr(5) : device; }

}  // namespace

ModelBuilder& ModelBuilder::Module(std::string_view name, std::string_view class_name) {
  if (!name.empty()) model_.modules.push_back({.name = std::string(name), .class_name = std::string(class_name)});
  return *this;
}

ModelBuilder& ModelBuilder::Linear(std::string_view name, uint64_t in, uint64_t out) {
  return Module(name, "Linear").Param(Joined(name, "weight"), in * out).Param(Joined(name, "bias"), out);
}

ModelBuilder& ModelBuilder::BatchNorm(std::string_view name, uint64_t features) {
  Module(name, "BatchNorm1d").Param(Joined(name, "weight"), features).Param(Joined(name, "bias"), features);
  Buffer(Joined(name, "running_mean"), features).Buffer(Joined(name, "running_var"), features);
  return Buffer(Joined(name, "num_batches_tracked"), 2);
}

ModelBuilder& ModelBuilder::Tie(const std::vector<std::string>& names) {
  std::vector<uint32_t> group;
  for (const std::string& name : names) group.push_back(IndexOf(name));
  model_.tied_groups.push_back(group);
  return *this;
}

ModelBuilder& ModelBuilder::NoSplit(std::string_view class_name) {
  model_.no_split_classes.emplace_back(class_name);
  return *this;
}

ModelBuilder& ModelBuilder::Half() {
  for (PlacementTensor& tensor : model_.tensors) {
    if (!tensor.name.ends_with("num_batches_tracked")) tensor.bytes /= 2;
  }
  return *this;
}

ModelBuilder& ModelBuilder::Resize(std::string_view name, uint64_t bytes) {
  model_.tensors[IndexOf(name)].bytes = bytes;
  return *this;
}

ModelBuilder& ModelBuilder::M(const std::string& module) {
  Module(module, "ModelForTest");
  return Linear(Joined(module, "linear1"), 3, 4)
      .BatchNorm(Joined(module, "batchnorm"), 4)
      .Linear(Joined(module, "linear2"), 4, 5);
}

ModelBuilder& ModelBuilder::MB() {
  return M().Buffer("linear1.buffer", 20).Buffer("batchnorm.buffer", 30).Buffer("linear2.buffer", 30);
}

ModelBuilder& ModelBuilder::ThreeM() { return M("0").M("1").M("2"); }

ModelBuilder& ModelBuilder::S3() { return M("layer1").M("layer2").M("layer3"); }

ModelBuilder& ModelBuilder::F() {
  return Module("module").Linear("module.linear1", 10, 4).Linear("module.linear2", 4, 4).Linear("module.linear3", 4, 8);
}

ModelBuilder& ModelBuilder::LM() {
  Module("embed", "Embedding").Param("embed.weight", 40).Module("layers", "ModuleList");
  for (int i = 0; i < 12; ++i) Linear(StrCat("layers.", i), 4, 4);
  return Module("lm_head", "Linear").Param("lm_head.weight", 40);
}

ModelBuilder& ModelBuilder::Add(std::string_view name, uint64_t elements, bool buffer) {
  names_.emplace_back(name);
  model_.tensors.push_back({.name = names_.back(), .bytes = 4 * elements, .buffer = buffer});
  return *this;
}

uint32_t ModelBuilder::IndexOf(std::string_view name) const {
  const auto& tensors = model_.tensors;
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&](const auto& tensor) { return tensor.name == name; });
  if (found == tensors.end()) std::abort();
  return static_cast<uint32_t>(found - tensors.begin());
}

DeviceMapSpec MakeSpec(const MapRequest& request) {
  DeviceMapSpec spec = {.policy = request.policy,
                        .offload_buffers = request.offload_buffers,
                        .fallback_allocation = request.fallback_allocation};
  std::istringstream limits(request.limits);
  for (std::string limit; limits >> limit;) {
    const size_t equals = limit.find('=');
    spec.max_memory.emplace_back(limit.substr(0, equals), std::stoull(limit.substr(equals + 1)));
  }
  return spec;
}

std::vector<PlacementDevice> EightGpus() {
  std::vector<PlacementDevice> devices;
  for (int i = 0; i < 8; ++i) {
    devices.push_back({.name = StrCat("cuda:", i), .uuid = StrCat("GPU-", i, i, i), .free_bytes = kTebibyte});
  }
  devices.push_back({.name = "cpu", .uuid = "", .free_bytes = kTebibyte});
  return devices;
}

std::string MapText(const std::vector<MapEntry>& map) {
  std::string text;
  for (const MapEntry& entry : map) {
    StrAppend(&text, text.empty() ? "" : " ", entry.module.empty() ? "/" : entry.module, ":",
              ShortDevice(entry.device));
  }
  return text;
}

std::string Map(const ModelBuilder& builder, const MapRequest& request) {
  const absl::StatusOr<Placement> placement = Place(builder.model(), MakeSpec(request), EightGpus());
  return placement.ok() ? MapText(placement->device_map) : std::string(placement.status().message());
}

std::string Warnings(const ModelBuilder& builder, const MapRequest& request) {
  const absl::StatusOr<Placement> placement = Place(builder.model(), MakeSpec(request), EightGpus());
  if (!placement.ok()) return std::string(placement.status().message());
  std::string text;
  for (const std::string& warning : placement->warnings) {
    if (!text.empty()) text += "; ";
    constexpr std::string_view kNothing = "nothing was placed on ";
    if (warning.starts_with("the buffers of offloaded modules")) {
      text += "buffers";
    } else if (warning.starts_with(kNothing)) {
      const std::string rest = warning.substr(kNothing.size());
      const size_t needs = rest.find("needs ") + 6;
      StrAppend(&text, ShortDevice(rest.substr(0, rest.find(": "))), " needs ",
                rest.substr(needs, rest.find(' ', needs) - needs));
    } else {
      text += warning;
    }
  }
  return text;
}

std::string DeviceOf(const ModelBuilder& builder, const MapRequest& request, std::string_view tensor) {
  const absl::StatusOr<Placement> placement = Place(builder.model(), MakeSpec(request), EightGpus());
  if (!placement.ok()) return std::string(placement.status().message());
  const auto& tensors = builder.model().tensors;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].name == tensor) return ShortDevice(placement->devices[placement->device_of[i]]);
  }
  return "no such tensor";
}

}  // namespace keyload
