#include "tests/unit/service/loader_node.h"

#include <cstdlib>
#include <future>
#include <utility>

#include "absl/strings/str_split.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

FakeDevice* MakeGpu(const LoaderNode::Options& options) {
  return new FakeDevice({.name = "cuda:0",
                         .capacity_bytes = options.gpu_bytes,
                         .host_visible = false,
                         .fail_copy = 0,
                         .fail_allocation = options.fail_allocation});
}

std::vector<std::unique_ptr<Device>> Devices(FakeDevice* gpu) {
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(MakeHostDevice({.capacity_bytes = 1ull << 30}));
  devices.emplace_back(gpu);
  return devices;
}

}  // namespace

std::vector<ListedKey> ListedKeys(const ModelHandle& model, KeySelection selection, KeyCursor::Of of) {
  KeyCursor cursor(model, std::move(selection), of);
  const std::vector<Residency::State> states = model->residency().states();
  std::vector<ListedKey> keys;
  while (true) {
    const absl::StatusOr<std::vector<uint32_t>> next = cursor.Next(2, RequestContext());
    if (!next.ok() || next->empty()) return keys;
    for (const uint32_t number : *next) keys.push_back(DescribeKey(*model, &states, number));
  }
}

void RecordingObserver::OnAccepted(const std::string& load, bool joined) {
  Add(load.empty() ? "accepted without a name" : joined ? "joined" : "accepted");
}

void RecordingObserver::OnPlanned(const LoadReport& /*report*/) { Add("planned"); }

void RecordingObserver::OnProgress(const LoadProgress& progress) {
  MutexLock lock(mutex_);
  last_phase_ = progress.phase;
  if (end_) events_.emplace_back("progress after the end");
  ++progress_;
  changed_.NotifyAll();
}

void RecordingObserver::OnEnd(absl::StatusOr<LoadReport> result) {
  MutexLock lock(mutex_);
  events_.emplace_back("end");
  end_ = std::move(result);
  changed_.NotifyAll();
}

absl::StatusOr<LoadReport> RecordingObserver::WaitForEnd() {
  MutexLock lock(mutex_);
  while (!end_) changed_.Wait(mutex_);
  return *end_;
}

void RecordingObserver::WaitForProgress() {
  MutexLock lock(mutex_);
  const uint64_t before = progress_;
  while (progress_ == before) changed_.Wait(mutex_);
}

std::string RecordingObserver::last_phase() const {
  MutexLock lock(mutex_);
  return last_phase_;
}

std::vector<std::string> RecordingObserver::events() const {
  MutexLock lock(mutex_);
  return events_;
}

void RecordingObserver::Add(std::string event) {
  MutexLock lock(mutex_);
  events_.push_back(std::move(event));
}

LoaderNode::LoaderNode(const Options& options)
    : gpu_(MakeGpu(options)),
      devices_(Devices(gpu_)),
      held_(options.hold_bytes, [] { return uint64_t{1} << 40; }),
      documents_({.max_document_bytes = options.max_document_bytes, .max_total_bytes = options.request_memory},
                 ParseLines),
      roots_(*ModelRoots::Create({dir_.path()})),
      io_(std::make_unique<Executor>(Executor::Options{.name = "io", .threads = 2, .queue_limit = 64})),
      loads_(std::make_unique<LoadQueue>(LoadQueue::Options{.threads = options.load_threads,
                                                            .limit = options.load_queue,
                                                            .devices = &devices_,
                                                            .progress_interval = absl::ZeroDuration()})),
      queries_(std::make_unique<Executor>(Executor::Options{.name = "query", .threads = 2, .queue_limit = 64})),
      service_(std::make_unique<LoaderService>(LoaderService::Dependencies{
          .roots = &roots_,
          .documents = &documents_,
          .registry = &registry_,
          .held = &held_,
          .loads = loads_.get(),
          .queries = queries_.get(),
          .templates = {dir_.File("templates")},
          .transfer = {.devices = &devices_,
                       .io = io_.get(),
                       .scratch = &scratch_,
                       .make_reader = [this](const Shard& shard) { return MakeReader(shard); }},
          .metrics = &metrics_})) {}

LoaderNode::~LoaderNode() {
  gpu_->ReleaseCopies();
  reads_.Release();
  queries_.reset();
  loads_.reset();
  io_.reset();
}

void LoaderNode::WaitForIdleReader() {
  std::promise<void> idle;
  if (!io_->TrySubmit([&] { idle.set_value(); })) std::abort();
  idle.get_future().wait();
}

std::unique_ptr<ShardReader> LoaderNode::MakeReader(const Shard& shard) {
  ++readers_made_;
  std::unique_ptr<ShardReader> reader = reads_.Guard(MakeFileReader(shard.fd, shard.file));
  MutexLock lock(mutex_);
  const auto faults = faults_.find(shard.file);
  if (faults == faults_.end()) return reader;
  return std::make_unique<FaultyReader>(std::move(reader), faults->second);
}

void LoaderNode::SetFaults(const std::string& file, const FaultyReader::Faults& faults) {
  MutexLock lock(mutex_);
  faults_[file] = faults;
}

void LoaderNode::ClearFaults() {
  MutexLock lock(mutex_);
  faults_.clear();
}

LoadSpec LoaderNode::Spec(const std::string& model) const {
  LoadSpec spec;
  spec.model = model;
  spec.source.path = dir_.path();
  spec.device_map.policy = "cuda:0";
  spec.fingerprint = "one";
  return spec;
}

LoaderNode::Started LoaderNode::Start(LoadSpec spec, Deadline deadline) {
  Started started = {.observer = std::make_shared<RecordingObserver>(), .ticket = std::make_shared<LoadTicket>()};
  service_->StartLoad(std::move(spec), deadline, started.observer, started.ticket);
  return started;
}

absl::StatusOr<LoadReport> LoaderNode::Materialize(const KeySelectionSpec& select, const RequestContext& context,
                                                   const Limits& limits) {
  PhaseClock clock;
  return service_->Materialize({.model = "m", .select = select, .key_list_digest = ""}, limits, context, clock);
}

absl::StatusOr<Residency::Evicted> LoaderNode::Evict(const KeySelectionSpec& select) {
  return service_->Evict({.model = "m", .select = select, .key_list_digest = ""});
}

absl::StatusOr<ModelRegistry::Unloaded> LoaderNode::Unload(const std::string& model) {
  std::promise<ModelRegistry::Unloaded> unloaded;
  KEYLOAD_RETURN_IF_ERROR(
      service_->Unload(model, [&unloaded](const ModelRegistry::Unloaded& result) { unloaded.set_value(result); }));
  return unloaded.get_future().get();
}

std::string LoaderNode::ReadKey(const std::string& model, const std::string& key) {
  const absl::StatusOr<ModelHandle> handle = registry_.Use(model);
  if (!handle.ok() || (*handle)->FindKey(key) < 0) return "";
  const auto index = static_cast<uint32_t>((*handle)->FindKey(key));
  if (!(*handle)->CheckHasBytes(index).ok()) return "";
  const uint32_t tensor = (*handle)->TensorOf(index);
  std::string bytes(tensor == ResidentModel::kInFile ? (*handle)->content().keys->keys[index].bytes
                                                     : (*handle)->content().plan->tensors[tensor].bytes,
                    '\0');
  const absl::StatusOr<TensorBytes> opened = service_->OpenTensor(**handle, index, {});
  return opened.ok() && opened->Read(0, std::as_writable_bytes(std::span(bytes))).ok() ? bytes : "";
}

std::shared_ptr<const Manifest> ManifestOf(const std::vector<std::string>& keys, const Shape& shape,
                                           const std::vector<TiedGroup>& tied) {
  auto manifest = std::make_shared<Manifest>();
  for (const std::string& key : keys) {
    TensorSpec tensor;
    tensor.name = key;
    tensor.shape = shape;
    manifest->tensors.push_back(std::move(tensor));
  }
  manifest->tied_groups = tied;
  if (!ValidateManifest(*manifest).ok()) std::abort();
  return manifest;
}

absl::StatusOr<std::shared_ptr<const Manifest>> ParseLines(std::string_view bytes) {
  if (bytes == "!") return MakeError(Reason::kManifestInvalid, "no manifest");
  const std::vector<std::string> keys = absl::StrSplit(ToAbsl(bytes), '\n', absl::SkipEmpty());
  return ManifestOf(keys, {});
}

}  // namespace keyload
