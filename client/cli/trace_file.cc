#include "client/cli/trace_file.h"

#include <utility>

#include "client/cli/enum_words.h"
#include "client/cli/output_file.h"
#include "google/protobuf/duration.pb.h"

namespace keyload::cli {
namespace {

constexpr int kProcess = 1;
constexpr int kLoadTrack = 1;
constexpr char kSummed[] = "a sum over threads; its start was not measured and is that of the transfer";

double Microseconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) * 1e6 + static_cast<double>(duration.nanos()) / 1e3;
}

Json NameEvent(const char* what, int track, const std::string& name) {
  return {{"ph", "M"}, {"name", what}, {"pid", kProcess}, {"tid", track}, {"args", {{"name", name}}}};
}

Json Slice(int track, const char* category, const std::string& name, double start, double duration, Json args) {
  return {{"ph", "X"},    {"name", name}, {"cat", category}, {"pid", kProcess},
          {"tid", track}, {"ts", start},  {"dur", duration}, {"args", std::move(args)}};
}

// The events of one report, track by track.
class Events {
 public:
  explicit Events(const v1::LoadReport& report) : report_(report) {
    list_.push_back(NameEvent("process_name", kLoadTrack, "keyload " + report.load() + " " + report.model()));
    AddLoad();
    for (const v1::Phase& phase : report.busy()) {
      AddSum("busy: " + phase.name(), "busy", phase.duration(), Json::object());
    }
    for (const v1::ShardUse& shard : report.shards()) {
      if (shard.engine().empty()) continue;  // no bytes of it came
      Json args = ToJson(shard);
      args.erase("seconds");
      AddSum("shard: " + shard.file(), "shard", shard.duration(), std::move(args));
    }
  }

  Json Take() { return std::move(list_); }

 private:
  void AddLoad() {
    list_.push_back(NameEvent("thread_name", kLoadTrack, "load"));
    Json args = {{"load", report_.load()},
                 {"model", report_.model()},
                 {"outcome", EnumWord(report_.outcome())},
                 {"keys", ToJson(report_.keys())},
                 {"bytes", ToJson(report_.bytes())}};
    if (report_.has_error()) args["error"] = ToJson(report_.error());
    list_.push_back(Slice(kLoadTrack, "load", "load", 0, Microseconds(report_.total_duration()), std::move(args)));
    for (const v1::Phase& phase : report_.phases()) {
      list_.push_back(Slice(kLoadTrack, "phase", phase.name(), Microseconds(phase.start()),
                            Microseconds(phase.duration()), Json::object()));
    }
  }

  void AddSum(const std::string& name, const char* category, const google::protobuf::Duration& duration, Json args) {
    const int track = ++last_track_;
    list_.push_back(NameEvent("thread_name", track, name));
    args["note"] = kSummed;
    list_.push_back(Slice(track, category, name, TransferStart(), Microseconds(duration), std::move(args)));
  }

  double TransferStart() const {
    for (const v1::Phase& phase : report_.phases()) {
      if (phase.name() == "transfer") return Microseconds(phase.start());
    }
    return 0;
  }

  const v1::LoadReport& report_;
  Json list_ = Json::array();
  int last_track_ = kLoadTrack;
};

}  // namespace

Json TraceOf(const v1::LoadReport& report) {
  const Json whole = ToJson(report);
  return {{"traceEvents", Events(report).Take()},
          {"displayTimeUnit", "ms"},
          {"otherData",
           {{"load", report.load()},
            {"model", report.model()},
            {"outcome", EnumWord(report.outcome())},
            {"startTime", whole["startTime"]}}}};
}

absl::Status WriteTraceFile(const std::string& path, const v1::LoadReport& report) {
  return ReplaceFile(path, [&](int fd) { return WriteAll(fd, Dump(TraceOf(report)), path); });
}

}  // namespace keyload::cli
