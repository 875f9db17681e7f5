#include <grpcpp/create_channel.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "keyload/v1/model_loader.grpc.pb.h"
#include "tests/mock_client/rpc_caller.h"

// What open Load streams cost a daemon: how fast it answers others meanwhile, and what a client that does not read
// takes of its memory. bench/streams.py runs it.

namespace {

namespace v1 = keyload::v1;
using Clock = std::chrono::steady_clock;
using Stub = v1::ModelLoaderService::Stub;

struct Options {
  std::string server;
  std::string source;  // a checkpoint that takes the daemon long to put on cuda:0
  int pid = 0;         // of the daemon
  size_t streams = 64;
  size_t calls = 2000;
  uint64_t bytes = 0;  // of the tensor "w", which is all that the checkpoint has
  int names = 100;     // missing keys in the plan and in the report
  bool reads = false;
};

// With a connection of its own.
std::shared_ptr<grpc::Channel> Connect(const std::string& server) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A stream holds little of what its client does not take, and that does not grow.
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
}

// What the daemon has resident, in KiB; 0 where /proc does not tell.
int64_t MemoryKiB(const Options& options) {
  std::ifstream status(absl::StrCat("/proc/", options.pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::strtoll(line.c_str() + 6, nullptr, 10);
  }
  return 0;
}

v1::LoadRequest StartRequest(const Options& options, const std::string& model) {
  v1::LoadRequest request;
  request.set_load_id(model);
  v1::LoadSpec& spec = *request.mutable_start();
  spec.set_model(model);
  spec.mutable_source()->set_path(options.source);
  spec.mutable_device_map()->set_policy("cuda:0");
  return request;
}

// One client with one load on its stream.
class Stream {
 public:
  Stream(const Options& options, const v1::LoadRequest& start)
      : stub_(v1::ModelLoaderService::NewStub(Connect(options.server))) {
    stream_ = stub_->Load(&context_);
    ok_ = stream_->Write(start);
  }
  ~Stream() {
    context_.TryCancel();
    if (reader_.joinable()) reader_.join();
    v1::LoadResponse ignored;
    while (stream_->Read(&ignored)) continue;
    stream_->Finish();
  }
  // The next event; nothing when the stream has ended.
  std::optional<v1::LoadResponse> Read() {
    v1::LoadResponse event;
    return ok_ && stream_->Read(&event) ? std::optional(std::move(event)) : std::nullopt;
  }
  // Takes what comes on a thread of its own.
  void ReadAlong() {
    reader_ = std::thread([this] {
      while (Read()) continue;
    });
  }

 private:
  const std::unique_ptr<Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::LoadRequest, v1::LoadResponse>> stream_;
  bool ok_ = false;
  std::thread reader_;
};

struct Measured {
  std::string name;
  std::function<bool()> call;
  std::vector<double> milliseconds = {};
};

double Percentile(const std::vector<double>& sorted, double part) {
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(part * static_cast<double>(sorted.size())))];
}

template <typename Request, typename Response>
std::function<bool()> Unary(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                            const Request& request) {
  return [&stub, method, request] {
    grpc::ClientContext context;
    Response response;
    return (stub.*method)(&context, request, &response).ok();
  };
}

bool CheckHealth(const std::shared_ptr<grpc::Channel>& channel) {
  return keyload::mock::CallMethod(channel, "/grpc.health.v1.Health/Check", "", absl::Seconds(30)).status.ok();
}

int MeasureAnswers(const Options& options) {
  const std::shared_ptr<grpc::Channel> channel = Connect(options.server);
  const auto stub = v1::ModelLoaderService::NewStub(channel);
  const int64_t before = MemoryKiB(options);
  std::vector<std::unique_ptr<Stream>> streams;
  for (size_t i = 0; i < options.streams; ++i) {
    streams.push_back(std::make_unique<Stream>(options, StartRequest(options, absl::StrCat("held-", i))));
    const auto accepted = streams.back()->Read();
    if (!accepted || !accepted->has_accepted()) return std::fprintf(stderr, "a load is not accepted\n"), 1;
    streams.back()->ReadAlong();
  }
  v1::GetModelRequest get;
  get.set_model("held-0");
  std::vector<Measured> measured;
  measured.push_back({"Health.Check", [&] { return CheckHealth(channel); }});
  if (!streams.empty()) measured.push_back({"GetModel", Unary(*stub, &Stub::GetModel, get)});
  measured.push_back({"ListModels", Unary(*stub, &Stub::ListModels, v1::ListModelsRequest())});
  measured.push_back({"ListLoads", Unary(*stub, &Stub::ListLoads, v1::ListLoadsRequest())});
  for (size_t i = 0; i < options.calls; ++i) {
    for (Measured& one : measured) {
      const Clock::time_point start = Clock::now();
      if (!one.call()) return std::fprintf(stderr, "%s fails\n", one.name.c_str()), 1;
      one.milliseconds.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    }
  }
  absl::PrintF("%d open streams, %d calls of each kind, daemon's memory +%.1f MiB\n", streams.size(), options.calls,
               static_cast<double>(MemoryKiB(options) - before) / 1024);
  for (Measured& one : measured) {
    std::sort(one.milliseconds.begin(), one.milliseconds.end());
    absl::PrintF("%-14s p50 %6.2f ms   p99 %6.2f ms   max %6.2f ms\n", one.name, Percentile(one.milliseconds, 0.5),
                 Percentile(one.milliseconds, 0.99), one.milliseconds.back());
  }
  return 0;
}

// A load that takes its time, and a client that takes nothing of what it is told, or all of it, to compare.
int MeasureUnread(const Options& options) {
  v1::LoadRequest start = StartRequest(options, "told");
  start.mutable_start()->set_name_limit(static_cast<uint32_t>(options.names));
  v1::ModelManifest& manifest = *start.mutable_start()->mutable_expected()->mutable_manifest();
  for (int i = 0; i < options.names; ++i) {
    v1::TensorSpec& missing = *manifest.add_tensors();
    missing.set_name(absl::StrFormat("model.layers.%d.mlp.experts.0.down_proj.weight", i));
    missing.set_dtype("F32");
  }
  v1::TensorSpec& tensor = *manifest.add_tensors();
  tensor.set_name("w");
  tensor.set_dtype("U8");
  tensor.add_shape(options.bytes);

  const auto stub = v1::ModelLoaderService::NewStub(Connect(options.server));
  v1::GetLoadRequest get;
  v1::GetLoadResponse status;
  const int64_t before = MemoryKiB(options);
  const Clock::time_point begin = Clock::now();
  Stream stream(options, start);
  const auto accepted = stream.Read();
  if (!accepted || !accepted->has_accepted()) return std::fprintf(stderr, "the load is not accepted\n"), 1;
  get.set_load(accepted->accepted().load());
  std::optional<v1::LoadReport> report;
  size_t events = 1;
  const auto read = [&] {
    const auto event = stream.Read();
    if (!event) return false;
    ++events;
    if (event->has_report()) report = event->report();
    return true;
  };
  while (!status.status().done()) {
    if (options.reads) {
      if (!report && !read()) break;
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    grpc::ClientContext context;
    if (!stub->GetLoad(&context, get, &status).ok()) return std::fprintf(stderr, "GetLoad fails\n"), 1;
  }
  const int64_t growth = MemoryKiB(options) - before;
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  while (!report) {
    if (!read()) return std::fprintf(stderr, "the stream ended without a report\n"), 1;
  }
  absl::PrintF("%d %.0f %d %d %d\n", growth, seconds, events, report->keys().loaded(), report->missing_keys_size());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("What open Load streams cost a daemon.", "streams_bench");
  app.require_subcommand(1);
  app.add_option("--server", options.server, "unix:PATH or HOST:PORT")->required();
  app.add_option("--source", options.source, "the checkpoint")->required();
  app.add_option("--pid", options.pid, "the daemon's process")->required();
  CLI::App* answers = app.add_subcommand("answers", "how fast others are answered while loads are held");
  answers->add_option("--streams", options.streams, "loads, each with a connection of its own")->capture_default_str();
  answers->add_option("--calls", options.calls, "of each kind")->capture_default_str();
  CLI::App* unread = app.add_subcommand("unread", "what a client costs that does not read");
  unread->add_option("--bytes", options.bytes, "of the checkpoint's one tensor")->required();
  unread->add_option("--names", options.names, "missing keys that the report names")->capture_default_str();
  unread->add_flag("--reads", options.reads, "it reads all the same, to compare");
  CLI11_PARSE(app, argc, argv);
  return answers->parsed() ? MeasureAnswers(options) : MeasureUnread(options);
}
