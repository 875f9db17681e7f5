#include "tests/unit/load/transfer_case.h"

#include <utility>

#include "server/checkpoint/checkpoint_index.h"

namespace keyload {

TransferCase::TransferCase(const std::vector<TestTensor>& tensors, Options options)
    : shard_path_(dir_.File("model.safetensors")), options_(std::move(options)), scratch_(options_.scratch_bytes) {
  WriteSafetensors(shard_path_, tensors);
  auto gpu = std::make_unique<FakeDevice>(options_.gpu);
  gpu_ = gpu.get();
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(std::move(gpu));
  if (options_.fake_host) {
    devices.push_back(std::make_unique<FakeDevice>(FakeDevice::Options{.name = "cpu", .host_visible = true}));
  } else {
    devices.push_back(MakeHostDevice({.capacity_bytes = 1ull << 30}));
  }
  devices_ = std::make_unique<DeviceSet>(std::move(devices));
}

absl::StatusOr<TransferResult> TransferCase::Run(const std::string& device, const RequestContext& context,
                                                 std::function<void(const LoadProgress&)> progress) {
  const ModelRoots roots = *ModelRoots::Create({dir_.path()});
  auto keys = std::make_shared<KeyReport>();
  keys->index = *OpenCheckpoint(roots, {.path = dir_.path()}, {});
  for (size_t i = 0; i < keys->index->tensors().size(); ++i) {
    const StoredTensor& stored = keys->index->tensors()[i];
    keys->keys.push_back({.name = stored.name,
                          .shape = stored.shape,
                          .bytes = stored.bytes,
                          .stored = static_cast<int64_t>(i),
                          .dtype = stored.dtype});
  }
  for (const std::vector<std::string>& group : tied) {
    keys->tied_groups.emplace_back();
    for (const std::string& name : group)
      keys->tied_groups.back().push_back(static_cast<uint32_t>(keys->index->Find(name)));
  }
  AddMadeKeys(made, *keys);
  const PlacementInput input = MakePlacementInput(*keys, {}, {});
  plan_ = BuildLoadPlan(*keys, input, {.devices = {device}, .device_of = std::vector<uint16_t>(input.keys.size())},
                        {.map_host_tensors = !options_.copy});
  keys_ = keys;
  report.devices = {{.device = device}};
  report.shards = {{.file = "model.safetensors"}};
  absl::StatusOr<std::vector<MemoryReservation>> reserved = ReserveForPlan(*plan_, *devices_);
  if (!reserved.ok()) return reserved.status();
  const TransferResources resources = {.devices = devices_.get(),
                                       .io = &io_,
                                       .scratch = &scratch_,
                                       .make_reader = [this](const Shard& shard) -> std::unique_ptr<ShardReader> {
                                         std::unique_ptr<ShardReader> file = MakeFileReader(shard.fd, shard.file);
                                         if (!options_.faults) return file;
                                         auto faulty =
                                             std::make_unique<FaultyReader>(std::move(file), *options_.faults);
                                         reader_ = faulty.get();
                                         return faulty;
                                       }};
  absl::StatusOr<std::vector<Segment>> segments = AllocateSegments(*plan_, *devices_, *reserved);
  if (!segments.ok()) return segments.status();
  return Transfer(
      *plan_, *keys_->index, *std::move(segments), resources, context,
      [&](const LoadProgress& event) {
        if (progress) progress(event);
      },
      report);
}

std::string TransferCase::SegmentBytes(const TransferResult& result, size_t segment) const {
  std::string bytes(plan_->segments[segment].bytes, '\0');
  const Segment& filled = result.segments[segment];
  if (!filled.device->Read(*filled.memory, 0, std::as_writable_bytes(std::span(bytes))).ok()) return "unreadable";
  return bytes;
}

std::string TransferCase::Bytes(const TransferResult& result, const std::string& key) const {
  for (const PlannedTensor& tensor : plan_->tensors) {
    if (keys_->keys[tensor.key].name != key) continue;
    const Segment& segment = result.segments[tensor.segment];
    std::string bytes(tensor.bytes, '\0');
    if (segment.kind == SegmentKind::kFile) return ReadFile(shard_path_).substr(tensor.file_offset, tensor.bytes);
    if (!segment.device->Read(*segment.memory, tensor.segment_offset, std::as_writable_bytes(std::span(bytes))).ok())
      return "unreadable";
    return bytes;
  }
  return "no such tensor";
}

}  // namespace keyload
