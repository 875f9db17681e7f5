#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "server/placement/placement.h"

namespace keyload {

// Builds models of torch.nn layers in registration order, 4 bytes per element unless Half.
// Of the letters that the cases use: M is linear1 Linear(3,4), batchnorm BatchNorm(4), linear2 Linear(4,5): 64, 72, 100
// bytes.
class ModelBuilder {
 public:
  ModelBuilder& Module(std::string_view name, std::string_view class_name = "Module");
  ModelBuilder& Linear(std::string_view name, uint64_t in, uint64_t out);
  ModelBuilder& BatchNorm(std::string_view name,
                          uint64_t features);  // five tensors; the count of batches takes 8 bytes
  ModelBuilder& Param(std::string_view name, uint64_t elements) { return Add(name, elements, false); }
  ModelBuilder& Buffer(std::string_view name, uint64_t elements) { return Add(name, elements, true); }
  ModelBuilder& Tie(const std::vector<std::string>& names);
  ModelBuilder& NoSplit(std::string_view class_name);
  ModelBuilder& Half();  // floats take 2 bytes
  ModelBuilder& Resize(std::string_view name, uint64_t bytes);

  ModelBuilder& M(const std::string& module = "");  // under a module of class ModelForTest; "" is the root
  ModelBuilder& MB();                               // M with 20, 30 and 30 floats of buffers
  ModelBuilder& ThreeM();                           // layers "0", "1", "2"
  ModelBuilder& S3();                               // layers layer1..layer3
  ModelBuilder& F();                                // module{linear1 176, linear2 80, linear3 160 bytes}
  ModelBuilder& LM();                               // embed 160, layers.0..11 of 80, lm_head 160 bytes

  const PlacementModel& model() const { return model_; }  // borrows its names from the builder

 private:
  ModelBuilder& Add(std::string_view name, uint64_t elements, bool buffer);
  uint32_t IndexOf(std::string_view name) const;

  std::deque<std::string> names_;
  PlacementModel model_;
};

struct MapRequest {
  std::string limits;  // "0=200 1=200 cpu=1000"; empty: none given
  std::string policy = "sequential";
  bool offload_buffers = false;
  bool fallback_allocation = false;
};

DeviceMapSpec MakeSpec(const MapRequest& request);
std::vector<PlacementDevice> EightGpus();  // cuda:0 to cuda:7 and cpu, 1 TiB each

// The map in one line, in its order: "linear1:0 batchnorm:1 linear2:cpu", GPUs by number and the root as "/"; an error
// as its text.
std::string Map(const ModelBuilder& builder, const MapRequest& request);
std::string MapText(const std::vector<MapEntry>& map);
// "buffers" and "nothing on 0", in the order of the warnings.
std::string Warnings(const ModelBuilder& builder, const MapRequest& request);
std::string DeviceOf(const ModelBuilder& builder, const MapRequest& request, std::string_view tensor);

}  // namespace keyload
